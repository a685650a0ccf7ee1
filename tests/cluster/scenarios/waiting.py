"""Claims that wait for a pod or for another provisioner, and claims that the cluster creates."""

from stage import mount, same, scenario


@scenario
def wait_for_first_consumer(stage):
    """Nothing is provisioned before a node is selected. There are no nodes: the scheduler's
    annotation is set by hand."""
    berth = stage.berth()
    waiting = stage.storage_class("waiting", binding="WaitForFirstConsumer")
    # The controller manager sets these only after a node is selected, but other components may set
    # them earlier.
    claim = stage.claim("data", waiting, annotations={
        "volume.kubernetes.io/storage-provisioner": stage.provisioner,
        "volume.beta.kubernetes.io/storage-provisioner": stage.provisioner})
    # Once a later claim is bound, the first one has been examined.
    stage.made("other", stage.storage_class())
    same("volumes before there is a pod", 1, len(berth.list()))
    same("events", [], [event for event in stage.events_of(claim["metadata"]["uid"])
                        if event["reason"].startswith("Provisioning")])
    annotate(stage, "data", "volume.kubernetes.io/selected-node", "node-1")
    mount(stage.bound("data")).write("file", b"1")


@scenario(alone=True)
def annotations(stage):
    """The annotation that names the provisioner is recognized in its current and its older form."""
    plane = stage.plane()
    stage.berth()
    storage_class = stage.storage_class()
    names = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"]
    # Stopped, because the controller manager would add the annotation of its own version.
    with plane.frozen("kube-controller-manager"):
        for number, name in enumerate(names):
            claim = stage.claim(f"data-{number}", storage_class, annotations={name: stage.provisioner})
            stage.event(claim, "ProvisioningSucceeded")
    for number in range(len(names)):
        stage.bound(f"data-{number}")


@scenario
def another_provisioner(stage):
    """A claim of another provisioner's class is left alone."""
    berth = stage.berth()
    theirs = stage.kube.create("storageclasses", {"metadata": {"name": f"{stage.namespace}-theirs"},
                                                  "provisioner": f"{stage.provisioner}-two"})
    stage.classes.append(theirs["metadata"]["name"])
    claim = stage.claim("theirs", stage.classes[0])
    stage.made("ours", stage.storage_class())
    same("volumes", 1, len(berth.list()))
    same("events", [], [event for event in stage.events_of(claim["metadata"]["uid"])
                        if event["reason"].startswith("Provisioning")])


@scenario
def stateful_set(stage):
    """The claims of a StatefulSet, which the controller manager creates, are bound."""
    berth = stage.berth()
    labels = {"app": "db"}
    stage.kube.create("statefulsets", {
        "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db", "replicas": 3, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [
                {"name": "db", "image": "db", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "storageClassName": stage.storage_class(), "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "10Mi"}}}}],
        }}, stage.namespace)
    for number in range(3):
        mount(stage.bound(f"data-db-{number}")).write("file", f"{number}".encode())
    files = {(berth.volumes / name / "file").read_text() for name in berth.directories()}
    same("files of the pods", {"0", "1", "2"}, files)


@scenario
def namespaces(stage):
    """With --namespaces, claims of other namespaces are left alone."""
    other = stage.namespaced(f"{stage.namespace}-other")
    berth = stage.berth("--namespaces", stage.namespace)
    storage_class = stage.storage_class()
    stage.claim("theirs", storage_class, namespace=other)
    stage.made("ours", storage_class)
    same("volumes", 1, len(berth.list()))
    same("claim of another namespace", "Pending", stage.claimed("theirs", other)["status"]["phase"])


def annotate(stage, claim, key, value):
    stage.kube.patch("persistentvolumeclaims", claim, {"metadata": {"annotations": {key: value}}}, stage.namespace)
