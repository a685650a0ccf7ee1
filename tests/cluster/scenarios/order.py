"""Objects that are created and deleted in an unusual order."""

from kube import until
from stage import mount, same, scenario


@scenario
def pv_deleted_first(stage):
    """The PV is deleted before its claim: the finalizer keeps it until the claim is deleted."""
    berth = stage.berth()
    pv = stage.made("data", stage.storage_class())
    mount(pv).write("file", b"content")
    stage.kube.delete("persistentvolumes", pv["metadata"]["name"])
    now = stage.volume(pv["metadata"]["name"])
    assert now and now["metadata"].get("deletionTimestamp"), now
    same("the file while the PV is being deleted", b"content", mount(pv).read("file"))
    stage.delete_claim("data")
    stage.gone(pv)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))


@scenario
def class_deleted_first(stage):
    """The class is deleted before its claims: the PVs record what it said."""
    berth = stage.berth()
    archived = stage.made("archived", stage.storage_class("archived", onDelete="archive"))
    deleted = stage.made("deleted", stage.storage_class())
    mount(archived).write("file", b"kept")
    for name in stage.classes:
        stage.kube.delete("storageclasses", name)
    for pv in [archived, deleted]:
        stage.delete_claim(pv["spec"]["claimRef"]["name"])
        stage.gone(pv)
    same("kept", [b"kept"], [(berth.volumes / name / "file").read_bytes() for name in berth.directories()])


@scenario
def class_created_later(stage):
    """A claim may be created before its class."""
    stage.berth()
    stage.claim("data", f"{stage.namespace}-standard")
    stage.made("other", stage.storage_class("other"))
    stage.storage_class()
    stage.bound("data")


@scenario
def claim_deleted_while_provisioned(stage):
    """Claims that are deleted while they are provisioned leave nothing behind, at whatever moment."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    for number in range(60):
        stage.claim(f"short-{number}", storage_class)
        if number % 3:
            # A third are deleted when a volume exists, the others at once, so the moments differ.
            until("a volume exists", lambda: number % 3 == 1 or berth.list() or stage.volumes())
        stage.delete_claim(f"short-{number}")
    stage.made("last", storage_class)
    until("only the last one is left", lambda: left(stage, berth) == (1, 1, 1))


@scenario
def clone_deleted_while_copied(stage):
    """A claim is deleted while its content is copied, when it has a volume and no PV yet."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    mount(stage.made("source", storage_class)).write("file", b"content")
    claim = stage.claim("copy", storage_class, dataSource={"kind": "PersistentVolumeClaim", "name": "source"})
    uid = claim["metadata"]["uid"]
    until("the copy has begun", lambda: any(v["spec"]["id"] == uid for v in berth.list().values()),
          longest_pause=0.02)
    assert len(stage.volumes()) == 1, "the copy was complete before the claim could be deleted"
    stage.delete_claim("copy")
    until("only the source is left", lambda: left(stage, berth) == (1, 1, 1))


def left(stage, berth):
    now = len(stage.volumes()), len(berth.list()), len(berth.directories())
    same("PVs, volumes, directories", (1, 1, 1), now)
    return now


@scenario
def claim_of_the_same_name(stage):
    """A claim that is deleted and created again at once gets a new volume, also with a fixed path."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.name}")
    old = stage.made("data", storage_class)
    mount(old).write("file", b"old")
    stage.delete_claim("data")
    until("the old claim is gone", lambda: not stage.claimed("data"))
    new = stage.made("data", storage_class)
    assert new["metadata"]["name"] != old["metadata"]["name"], new
    same("names in the new volume", [], mount(new).names())
    same("volumes", ["data"], list(berth.list()))
