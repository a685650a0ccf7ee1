"""Claims that cannot be provisioned get an event with the reason, and do not delay other claims."""

from kube import until
from stage import Skip, mount, same, scenario

# Name of the claim, parameters of the class, fields of the claim, words of the message.
BAD_CLAIMS = [
    ("block", {}, {"volumeMode": "Block"}, ["does not support block volume provisioning", "Filesystem"]),
    ("selector", {}, {"selector": {"matchLabels": {"a": "b"}}}, ["claim.spec.selector is not supported"]),
    ("snapshot", {}, {"dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"}},
     ["data source VolumeSnapshot s is not supported"]),
]
BAD_PARAMETERS = [
    ("unknown", {"onDelet": "delete"}, ["onDelet", "onDelete", "StorageClass"]),
    ("letter-case", {"ondelete": "delete"}, ["ondelete"]),
    ("on-delete", {"onDelete": "burn"}, ["onDelete", "burn", "delete, archive, recycle, retain"]),
    ("archive", {"archiveOnDelete": "maybe"}, ["archiveOnDelete", "maybe"]),
    ("uid", {"uid": "root"}, ["uid", "root"]),
    ("gid", {"gid": "-1"}, ["gid", "-1"]),
    ("mode", {"mode": "888"}, ["mode", "888"]),
    ("squash", {"squash": "some"}, ["squash", "some"]),
    ("anon-uid", {"anonUid": "4294967295"}, ["anonUid"]),
    ("clients", {"clients": "nodes.example.org"}, ["clients", "nodes.example.org"]),
    ("sync", {"sync": "yes"}, ["sync", "yes"]),
    ("quota", {"quota": "some"}, ["quota", "some"]),
    ("inodes", {"inodes": "-1"}, ["inodes"]),
    ("labels", {"labels": "a b=c"}, ["labels", "a b=c"]),
    ("pattern", {"pathPattern": "${.PVC.colour}"}, ["pathPattern", ".PVC.colour"]),
    ("no-label", {"pathPattern": "x-${.PVC.labels.absent}"}, ["no label absent"]),
]
# Mount options with which no node can mount, and a word of the message.
BAD_OPTIONS = [("nfsvers=4.1", "NFSv3"), ("nfsvers = 4", "space"), ("sec=krb5p", "sec=sys"), ("proto=rdma", "TCP"),
               ("proto=udp6", "TCP"), ("udp", "TCP"), ("xprtsec=tls", "TLS"), ("lock", "nolock"), ("mountvers=2", "MOUNT"),
               ("proto=tcp6", "127.0.0.1"), ("noatime, hard", "space")]
# Paths in annotations that try to leave the directory of the volumes.
ESCAPES = ["..", ".", "../../etc", "/etc", "a/../../b", ".berth", ".berth/volumes", "", "a//b", "x" * 300, "a\nb",
           "\u2028"]


def refused_claim(stage, name, storage_class, words, **spec):
    claim = stage.claim(name, storage_class, **spec)
    return claim, words


@scenario
def refused(stage):
    """All kinds of bad claims at once; good claims before, between and after them are bound."""
    berth = stage.berth()
    good = stage.storage_class()
    stage.made("before", good)
    asked = []
    for name, said, spec, words in BAD_CLAIMS:
        asked.append(refused_claim(stage, name, stage.storage_class(name, **said), words, **spec))
    for name, said, words in BAD_PARAMETERS:
        asked.append(refused_claim(stage, name, stage.storage_class(name, **said), words))
    for number, (option, word) in enumerate(BAD_OPTIONS):
        storage_class = stage.storage_class(f"option-{number}", mount_options=[option])
        asked.append(refused_claim(stage, f"option-{number}", storage_class, [option.split(",")[-1], word]))
    stage.made("between", good)
    for claim, words in asked:
        stage.event(claim, "ProvisioningFailed", *words)
    mount(stage.made("after", good)).write("file", b"1")
    same("volumes", 3, len(berth.list()))
    same("claims without a volume", len(asked), pending(stage))

    # Refused claims can be deleted like any other.
    for claim, _ in asked:
        stage.delete_claim(claim["metadata"]["name"])
    until("all refused claims are gone", lambda: pending(stage) == 0)


def pending(stage):
    claims = stage.kube.list("persistentvolumeclaims", stage.namespace)
    return sum(claim["status"].get("phase") == "Pending" for claim in claims)


@scenario
def escapes(stage):
    """No value of a claim leads out of the directory of the volumes or into `.berth`."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.annotations.path}")
    beside = sorted(path.name for path in berth.volumes.parent.iterdir())
    claims = [stage.claim(f"escape-{number}", storage_class, annotations={"path": path})
              for number, path in enumerate(ESCAPES)]
    for claim in claims:
        stage.event(claim, "ProvisioningFailed")
    pv = stage.made("good", storage_class, annotations={"path": "good"})
    mount(pv).write("file", b"1")
    same("directories", ["good"], berth.directories())
    same("names beside the directory of the volumes", beside, sorted(path.name for path in berth.volumes.parent.iterdir()))


@scenario
def said_again(stage):
    """What is said of a claim for the second time is counted in its event, and no other event is
    written."""
    stage.berth()
    claim = stage.claim("data", stage.storage_class(pathPattern="${.PVC.annotations.path}"), annotations={"path": "../a"})
    message = stage.event(claim, "ProvisioningFailed", '"../a"')
    for path in ["../b", "../a"]:
        change = {"metadata": {"annotations": {"path": path}}}
        stage.kube.patch("persistentvolumeclaims", "data", change, stage.namespace)
        stage.event(claim, "ProvisioningFailed", f'"{path}"')
    until("the event is counted", lambda: counts(stage, claim, message) == [2])


def counts(stage, claim, message):
    return [event["count"] for event in stage.events_of(claim["metadata"]["uid"]) if event["message"] == message]


@scenario
def shared_path(stage):
    """Of two claims with one path, the second gets an event, and its volume when the first is
    deleted."""
    stage.berth()
    storage_class = stage.storage_class(pathPattern="shared")
    first = stage.made("first", storage_class)
    mount(first).write("file", b"of the first")
    second = stage.claim("second", storage_class)
    message = stage.event(second, "ProvisioningFailed", "shared", f"{stage.namespace}/first")
    assert first["metadata"]["name"][4:] not in message, message
    # Deleting a refused claim must not touch the volume of the first.
    third = stage.claim("third", storage_class)
    stage.event(third, "ProvisioningFailed", "shared")
    stage.delete_claim("third")
    until("the third is gone", lambda: not stage.claimed("third"))
    stage.made("bystander", stage.storage_class("other"))
    same("the first", b"of the first", mount(first).read("file"))
    stage.delete_claim("first")
    stage.gone(first)
    same("names in the second's volume", [], mount(stage.bound("second")).names())


@scenario
def read_write_once_pod(stage):
    """ReadWriteOncePod is accepted; the scheduler enforces it. Old clusters refuse it."""
    stage.berth()
    try:
        pv = stage.made("data", stage.storage_class(), modes=["ReadWriteOncePod"])
    except Exception as error:
        if "supported values" in str(error):
            raise Skip("this version of Kubernetes does not support ReadWriteOncePod") from None
        raise
    same("access modes", ["ReadWriteOncePod"], pv["spec"]["accessModes"])


@scenario
def too_large(stage):
    """A claim larger than the disk gets an event, and does not delay other claims."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    claim = stage.claim("large", storage_class, "8000Pi")
    stage.made("small", storage_class)
    stage.event(claim, "ProvisioningFailed")
    same("volumes", 1, len(berth.list()))
