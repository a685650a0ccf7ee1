"""Volumes that an administrator creates: `berth volume pv` prints the PV, and the cluster binds it
by its labels."""

from kube import until
from scenarios.life import grow, has_capacity
from stage import FINALIZER, mount, same, scenario


@scenario
def static(stage):
    """Of two static PVs, each claim gets the one that its selector selects, whichever is smaller."""
    berth = stage.berth(provisioner=False)
    for name, capacity, team in [("small", "16Mi", "blue"), ("large", "64Mi", "green")]:
        berth.volume("create", name, "--capacity", capacity, "--label", f"team={team}")
        stage.kube.apply(berth.volume("pv", name, "--server", "127.0.0.1", "--label", f"run={stage.namespace}",
                                      "--name", f"{stage.namespace}-{name}"))

    for team, expected in [("green", "large"), ("blue", "small")]:
        pv = stage.made(team, "", selector={"matchLabels": {"run": stage.namespace, "team": team}})
        same(f"volume of the claim {team}", f"/{expected}", pv["spec"]["nfs"]["path"])
        mount(pv).write("file", f"of {team}".encode())
        same(f"file in {expected}", f"of {team}", (berth.volumes / expected / "file").read_text())
        same(f"size of {expected}", {"small": 16, "large": 64}[expected] << 20, mount(pv).size())

    # Its policy is Retain: deleting the claim keeps the content.
    stage.delete_claim("green")
    pv = stage.phase(stage.volume(f"{stage.namespace}-large"), "Released")
    same("content of a released volume", b"of green", mount(pv).read("file"))


@scenario
def migrated(stage):
    """A directory of another provisioner is adopted, and a claim that names its PV has the old
    files."""
    name = f"{stage.namespace}-data-pvc-0"
    berth = stage.server()
    folder = berth.volumes / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("of old")
    folder.chmod(0o770)
    berth.start()
    storage_class = stage.storage_class()
    berth.volume("adopt", name, "--capacity", "16Mi")
    stage.kube.apply(berth.volume("pv", name, "--server", "localhost", "--storage-class", storage_class))
    pv = stage.made("data", storage_class, volumeName=name)
    client = mount(pv)
    same("the old file", b"of old", client.read("file"))
    same("mode of the directory", 0o770, folder.stat().st_mode & 0o7777)
    same("size that df shows", 16 << 20, client.size())

    # It grows like any other claim.
    grow(stage, "data", "32Mi")
    until("the claim has the new capacity", lambda: has_capacity(stage.claimed("data"), "32Mi"))
    same("capacity of the PV", "32Mi", stage.volume(name)["spec"]["capacity"]["storage"])
    same("size that df shows then", 32 << 20, client.size())

    # It is retained when the claim is deleted, and deleted with its claim after the policy is
    # changed to Delete.
    again = stage.claim("again", storage_class, volumeName=name)
    stage.delete_claim("data")
    stage.phase(pv, "Released")
    same("the retained file", b"of old", client.read("file"))
    stage.kube.patch("persistentvolumes", name, {"spec": {"claimRef": {"uid": None, "resourceVersion": None,
                                                                       "name": "again"}}})
    stage.bound("again")
    same("the file of the next claim", b"of old", mount(stage.volume(name)).read("file"))
    stage.kube.patch("persistentvolumes", name, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    until("the PV has Berth's finalizer",
          lambda: FINALIZER in (stage.volume(name)["metadata"].get("finalizers") or []))
    stage.delete_claim(again["metadata"]["name"])
    stage.gone(pv)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))
