"""Claims and PVs written by tenants or restored from backups cannot reach, expand or destroy
another's volume."""

from kube import until
from stage import FINALIZER, mount, same, scenario

CLASS_OF_THE_BINDER = "volume.beta.kubernetes.io/storage-class"
SOURCE = {"kind": "PersistentVolumeClaim", "name": "x"}
GROWN = {"spec": {"resources": {"requests": {"storage": "64Mi"}}}}


def unmade(thing, **spec):
    """An object as a backup contains it, without the fields that the API server sets."""
    metadata = {key: thing["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations", "finalizers")}
    annotations = {key: value for key, value in (metadata["annotations"] or {}).items() if "bind-completed" not in key}
    return {"metadata": metadata | {"annotations": annotations}, "spec": thing["spec"] | spec}


@scenario
def foreign_source(stage):
    """A claim of another namespace that names a victim's PV can neither be copied from nor expand
    the volume."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    victim = stage.made("victim", storage_class)
    mount(victim).write("secret", b"of the victim")
    attacker = stage.namespaced(f"{stage.namespace}-attacker")
    named = stage.claim("x", storage_class, namespace=attacker, volumeName=victim["metadata"]["name"])
    copy = stage.claim("copy", storage_class, namespace=attacker, dataSource=SOURCE)
    stage.event(copy, "ProvisioningFailed", "data source x", "not bound")
    # Nor if somebody patches the PV's claimRef: the record of the volume names the victim's claim.
    reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": attacker, "name": "x",
                 "uid": named["metadata"]["uid"]}
    stage.kube.patch("persistentvolumes", victim["metadata"]["name"], {"spec": {"claimRef": reference}})
    stage.bound("x", attacker)
    second = stage.claim("second", storage_class, namespace=attacker, dataSource=SOURCE)
    stage.event(second, "ProvisioningFailed", "data source x", "another claim's")
    stage.kube.patch("persistentvolumeclaims", "x", GROWN, attacker)
    stage.delete_claim("x", attacker)
    stage.event(victim, "VolumeKept", f"{stage.namespace}/victim")
    [volume] = berth.list().values()
    same("capacity", 10 << 20, volume["spec"]["capacity"])
    same("the victim's file", b"of the victim", mount(victim).read("secret"))


@scenario
def forged_volume(stage):
    """Deleting a forged PV that names another PV's volume does not delete the volume."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    victim = stage.made("victim", storage_class)
    mount(victim).write("file", b"of the victim")
    name = f"{stage.namespace}-forged"
    forged = unmade(victim, claimRef=None)
    forged["metadata"] |= {"name": name, "finalizers": [FINALIZER]}
    stage.kube.create("persistentvolumes", forged)
    stage.claim("forger", storage_class, volumeName=name)
    pv = stage.bound("forger")
    stage.kube.patch("persistentvolumeclaims", "forger", GROWN, stage.namespace)
    stage.delete_claim("forger")
    stage.event(pv, "VolumeKept", "berth volume delete")
    stage.made("bystander", storage_class)
    same("the victim's file", b"of the victim", mount(victim).read("file"))
    same("capacities", {10 << 20}, {volume["spec"]["capacity"] for volume in berth.list().values()})
    # The forged PV can be deleted, which changes nothing else.
    stage.kube.delete("persistentvolumes", name)
    stage.gone(pv)
    same("the victim's file", b"of the victim", mount(victim).read("file"))
    stage.delete_claim("victim")
    stage.gone(victim)


def torn_down(stage, berth, name, pv):
    """Deletes a claim and its PV while Berth is down, as if the cluster had been lost."""
    berth.kill()
    pv_name = pv["metadata"]["name"]
    stage.kube.delete("persistentvolumes", pv_name)
    stage.kube.patch("persistentvolumes", pv_name, {"metadata": {"finalizers": None}})
    stage.kube.delete("persistentvolumeclaims", name, stage.namespace)
    stage.gone(pv)
    until("the claim is gone", lambda: not stage.claimed(name))


@scenario
def restored(stage):
    """A claim and its PV are restored from a backup: nothing is destroyed, an event says what to
    do, and it works."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"precious")
    claim = stage.claimed("data")
    torn_down(stage, berth, "data", pv)

    berth.start()
    name = pv["metadata"]["name"]
    again = stage.kube.create("persistentvolumes", unmade(pv))
    stage.event(again, "VolumeKept", f"kubectl patch pv {name}")
    again_claim = stage.kube.create("persistentvolumeclaims", unmade(claim), stage.namespace)
    stage.event(again_claim, "VolumeKept", f"kubectl patch pv {name}")
    # Another restart changes nothing.
    berth.kill()
    berth.start()
    stage.made("bystander", storage_class)
    same("the file", b"precious", mount(pv).read("file"))

    stage.kube.patch("persistentvolumes", name, {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}})
    bound = stage.bound("data")
    same("the volume", name, bound["metadata"]["name"])
    same("the file", b"precious", mount(bound).read("file"))
    stage.kube.patch("persistentvolumeclaims", "data", GROWN, stage.namespace)
    until("it has grown", lambda: stage.claimed("data")["status"]["capacity"]["storage"] == "64Mi")
    stage.delete_claim("data")
    stage.gone(bound)
    same("volumes left", 1, len(berth.list()))


@scenario
def claim_restored(stage):
    """Only the claim is restored and names its old PV: the volume is kept until the restored claim
    is deleted."""
    berth = stage.berth()
    pv = stage.made("data", stage.storage_class())
    mount(pv).write("file", b"precious")
    name = pv["metadata"]["name"]
    berth.kill()
    claim = stage.claimed("data")
    stage.delete_claim("data")
    until("the claim is gone", lambda: not stage.claimed("data"))
    again = stage.kube.create("persistentvolumeclaims", unmade(claim), stage.namespace)
    stage.phase(pv, "Released")
    berth.start()
    stage.event(again, "VolumeKept", f"kubectl patch pv {name}")
    stage.event(pv, "VolumeKept", f"{stage.namespace}/data")
    same("the file", b"precious", mount(pv).read("file"))
    stage.delete_claim("data")
    stage.gone(pv)
    same("volumes left", {}, berth.list())


@scenario
def retained_and_empty(stage):
    """An empty volume that was bound before survives a restart without its PV."""
    berth = stage.berth()
    storage_class = stage.storage_class(policy="Retain")
    pv = stage.made("spool", storage_class)
    stage.delete_claim("spool")
    stage.phase(pv, "Released")
    stage.kube.delete("persistentvolumes", pv["metadata"]["name"])
    stage.gone(pv)
    berth.kill()
    berth.start()
    # The removal of unfinished volumes has run when the next claim is bound.
    stage.made("bystander", storage_class)
    same("names in the volume", [], mount(pv).names())
    # A restored PV of another name uses the same directory.
    renamed = unmade(pv, claimRef=None, persistentVolumeReclaimPolicy="Delete")
    renamed["metadata"]["name"] = f"{stage.namespace}-renamed"
    stage.kube.create("persistentvolumes", renamed)
    bound = stage.made("renamed", storage_class, volumeName=renamed["metadata"]["name"])
    stage.kube.patch("persistentvolumeclaims", "renamed", GROWN, stage.namespace)
    until("it has grown", lambda: stage.claimed("renamed")["status"]["capacity"]["storage"] == "64Mi")
    same("size that df shows", 64 << 20, mount(bound).size())


@scenario
def recycled_is_no_copy(stage):
    """A claim with a dataSource never gets a recycled volume; the next claim without one does."""
    berth = stage.berth()
    storage_class = stage.storage_class(onDelete="recycle")
    source = stage.made("x", storage_class)
    mount(source).write("file", b"content")
    pv = stage.made("before", storage_class)
    stage.delete_claim("before")
    free = stage.phase(pv, "Available")
    assert not free["spec"].get("claimRef"), free["spec"]
    copies = [stage.made(f"copy-{number}", storage_class, dataSource=SOURCE) for number in range(3)]
    for copy in copies:
        same("the copy", b"content", mount(copy).read("file"))
    assert pv["metadata"]["name"] not in {copy["metadata"]["name"] for copy in copies}, copies
    stage.phase(pv, "Available")
    again = stage.made("after", storage_class)
    same("volume of the next claim", pv["metadata"]["name"], again["metadata"]["name"])
    assert CLASS_OF_THE_BINDER not in again["metadata"]["annotations"], again["metadata"]
    stage.kube.patch("persistentvolumeclaims", "after", GROWN, stage.namespace)
    until("it has grown", lambda: stage.claimed("after")["status"]["capacity"]["storage"] == "64Mi")
    same("volumes", 5, len(berth.list()))


@scenario
def recycled_for_waiting_claims(stage):
    """A claim that waits for its first pod, and one that names the PV, get a recycled volume."""
    stage.berth()
    for suffix, binding in [("waiting", "WaitForFirstConsumer"), ("immediate", "Immediate")]:
        storage_class = stage.storage_class(suffix, binding=binding, onDelete="recycle")
        node = {"volume.kubernetes.io/selected-node": "node-1",
                "volume.kubernetes.io/storage-provisioner": stage.provisioner}
        pv = stage.made(f"{suffix}-1", storage_class, annotations=node)
        name = pv["metadata"]["name"]
        stage.delete_claim(f"{suffix}-1")
        stage.phase(pv, "Available")
        more = {"annotations": node} if suffix == "waiting" else {"volumeName": name}
        again = stage.made(f"{suffix}-2", storage_class, **more)
        same("volume of the next claim", name, again["metadata"]["name"])


@scenario
def volume_gone(stage):
    """When the volume of a claim is deleted by hand, the claim and the PV get an event."""
    berth = stage.berth()
    pv = stage.made("data", stage.storage_class())
    claim = stage.claimed("data")
    berth.volume("delete", next(iter(berth.list())), "--yes", "--force")
    stage.event(claim, "VolumeLost", pv["metadata"]["name"])
    stage.event(pv, "VolumeLost")
