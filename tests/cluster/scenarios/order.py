"""Things that are taken away in an order that nobody planned."""

from kube import until
from stage import mount, same, scenario


@scenario
def pv_deleted_first(stage):
    """The PV goes before its claim: the finalizer keeps it, and nothing is left in the end."""
    berth = stage.berth()
    pv = stage.made("data", stage.storage_class())
    mount(pv).write("file", b"content")
    stage.kube.delete("persistentvolumes", pv["metadata"]["name"])
    now = stage.volume(pv["metadata"]["name"])
    assert now and now["metadata"].get("deletionTimestamp"), now
    same("a bound volume that is to be deleted", b"content", mount(pv).read("file"))
    stage.delete_claim("data")
    stage.gone(pv)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))


@scenario
def class_deleted_first(stage):
    """The class is gone when its claims end: what it said was written down."""
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
def class_made_later(stage):
    """A claim may come before its class."""
    stage.berth()
    stage.claim("data", f"{stage.namespace}-standard")
    stage.made("other", stage.storage_class("other"))
    stage.storage_class()
    stage.bound("data")


@scenario
def claim_deleted_while_it_is_provisioned(stage):
    """Claims that go at once leave nothing, whenever in between it happens."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    for number in range(60):
        stage.claim(f"short-{number}", storage_class)
        if number % 3:
            # At a moment that is different each time, and at some time every one.
            until("the claim is seen", lambda: number % 3 == 1 or berth.list() or stage.volumes())
        stage.delete_claim(f"short-{number}")
    stage.made("last", storage_class)
    until("only the last one is left", lambda: left(stage, berth) == (1, 1, 1))


@scenario
def clone_deleted_while_it_is_made(stage):
    """A claim goes while its copy is being made, when there is a volume and no PV yet."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    mount(stage.made("source", storage_class)).write("file", b"content")
    claim = stage.claim("copy", storage_class, dataSource={"kind": "PersistentVolumeClaim", "name": "source"})
    uid = claim["metadata"]["uid"]
    until("the copy is begun", lambda: any(v["spec"]["id"] == uid for v in berth.list().values()),
          longest_pause=0.02)
    assert len(stage.volumes()) == 1, "the copy was over before its claim could go"
    stage.delete_claim("copy")
    until("only the source is left", lambda: left(stage, berth) == (1, 1, 1))


def left(stage, berth):
    now = len(stage.volumes()), len(berth.list()), len(berth.directories())
    same("PVs, volumes, directories", (1, 1, 1), now)
    return now


@scenario
def claim_of_the_same_name(stage):
    """A claim that is deleted and made again at once has a volume of its own, also with a fixed path."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.name}")
    old = stage.made("data", storage_class)
    mount(old).write("file", b"old")
    stage.delete_claim("data")
    until("the old claim is gone", lambda: not stage.claimed("data"))
    new = stage.made("data", storage_class)
    assert new["metadata"]["name"] != old["metadata"]["name"], new
    same("what the new one finds", [], mount(new).names())
    same("volumes", ["data"], list(berth.list()))
