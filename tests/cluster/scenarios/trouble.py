"""Crashes, several Berths, and an API server that does not answer."""

import time

from kube import until
from stage import exported, mount, same, scenario

CROWD = 200
THOUSAND = 1000
MANY_LIMIT = 300
GROWTH = 64 << 20
MINUTE = 60
FROZEN = 45


def claim_many(stage, count, storage_class, prefix="claim"):
    for number in range(count):
        stage.claim(f"{prefix}-{number}", storage_class, "1Mi")


def phases(stage):
    return [claim["status"].get("phase") for claim in stage.kube.list("persistentvolumeclaims", stage.namespace)]


def all_bound(stage, count):
    same("claims that are bound", count, phases(stage).count("Bound"))
    return True


def one_each(stage, berth, count):
    """Each claim has one PV, each PV one volume, each volume one directory; and there is nothing else."""
    claims = stage.kube.list("persistentvolumeclaims", stage.namespace)
    uids = {claim["metadata"]["uid"] for claim in claims}
    pvs = stage.volumes()
    same("PVs", count, len(pvs))
    same("claims of the PVs", uids, {pv["spec"]["claimRef"]["uid"] for pv in pvs})
    volumes = berth.list()
    same("ids of the volumes", uids, {volume["spec"]["id"] for volume in volumes.values()})
    same("paths", {volume["path"] for volume in volumes.values()}, {pv["spec"]["nfs"]["path"] for pv in pvs})
    same("directories", sorted(volumes), berth.directories())
    same("number of volumes", count, len(volumes))


def all_gone(stage, berth, count):
    """Deletes all claims, and waits until nothing is left anywhere."""
    for number in range(count):
        stage.delete_claim(f"claim-{number}")
    until("all PVs are gone", lambda: not stage.volumes(), MANY_LIMIT)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))


@scenario
def killed(stage):
    """kill -9 in the middle of many claims, three times, and in the middle of their end."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    claim_many(stage, CROWD, storage_class)
    made = 0
    for _ in range(3):
        until("it goes on", lambda made=made: len(stage.volumes()) > made + 5, longest_pause=0.02)
        berth.kill()
        made = len(stage.volumes())
        stage.note(f"killed with {made} PVs of {CROWD}")
        assert made < CROWD, "it was over before it could be killed"
        berth.start()
    until("all are bound", lambda: all_bound(stage, CROWD), MANY_LIMIT)
    one_each(stage, berth, CROWD)
    mount(stage.bound("claim-0")).write("file", b"1")
    for number in range(CROWD):
        stage.delete_claim(f"claim-{number}")
    until("some are gone", lambda: len(stage.volumes()) < CROWD * 3 // 4, MANY_LIMIT)
    berth.kill()
    stage.note(f"killed with {len(stage.volumes())} PVs left")
    berth.start()
    all_gone(stage, berth, 0)


@scenario
def many_deleted_at_once_while_killed(stage):
    """Claims come and go while Berth dies again and again: nothing leaks."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    for step in range(3):
        name = f"round-{step}"
        claim_many(stage, 25, storage_class, name)
        # One that is not first, so that this moment is in the middle.
        until("some of this round are made", lambda name=name: any(v.startswith(f"{stage.namespace}-{name}-7-")
                                                                   for v in berth.list()), longest_pause=0.02)
        berth.kill()
        for number in range(0, 25, 2):
            stage.delete_claim(f"{name}-{number}")
        berth.start()
    until("the rest is bound", lambda: all_bound(stage, 36), MANY_LIMIT)
    until("nothing is left of the others", lambda: [one_each(stage, berth, 36)], MANY_LIMIT)


@scenario(alone=True)
def thousand(stage):
    """1,000 claims at once: how long it takes, and what it costs."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    stage.made("warm", storage_class)
    stage.delete_claim("warm")
    until("the first one is gone", lambda: not stage.volumes())
    before, began = berth.memory(), time.monotonic()
    claim_many(stage, THOUSAND, storage_class)
    asked = time.monotonic() - began
    until("all PVs are there", lambda: len(stage.volumes()) == THOUSAND, MANY_LIMIT)
    made = time.monotonic() - began
    until("all are bound", lambda: all_bound(stage, THOUSAND), MANY_LIMIT)
    bound = time.monotonic() - began
    grown = berth.memory() - before
    one_each(stage, berth, THOUSAND)
    began = time.monotonic()
    all_gone(stage, berth, THOUSAND)
    ended = time.monotonic() - began
    stage.note(f"{THOUSAND} claims: created within {asked:.1f} s, all PVs after {made:.1f} s, all bound after "
               f"{bound:.1f} s; gone {ended:.1f} s after the first was deleted; memory +{grown >> 20} MiB")
    assert made < MINUTE, f"{made:.0f} s for the PVs of {THOUSAND} claims"
    assert grown < GROWTH, f"memory has grown by {grown >> 20} MiB"


@scenario
def leader(stage):
    """Of two Berths one provisions; when it is killed, or stops, the other one does. Each ends and grows what is its own,
    whoever provisions."""
    first = stage.berth()
    storage_class = stage.storage_class()
    old = stage.made("before", storage_class)
    mount(old).write("file", b"of the first")
    second = stage.server()
    second.start()
    for number in range(6):
        stage.made(f"still-{number}", storage_class)
    same("volumes of the one that waits", {}, second.list())
    first.kill()
    killed = time.monotonic()
    pv = stage.made("after", storage_class)
    stage.note(f"taken over {time.monotonic() - killed:.1f} s after the leader was killed")
    same("volumes of the second", ["after"], [claim_of(v) for v in stage.volumes() if on(v, second)])
    mount(pv).write("file", b"of the second")

    # The one that comes back does not provision, and takes care of what it has.
    first.start()
    same("the first volume", b"of the first", mount(old).read("file"))
    change = {"spec": {"resources": {"requests": {"storage": "32Mi"}}}}
    stage.kube.patch("persistentvolumeclaims", "still-0", change, stage.namespace)
    until("it has grown", lambda: stage.claimed("still-0")["status"]["capacity"]["storage"] == "32Mi")
    stage.delete_claim("before")
    stage.gone(old)
    assert not (first.volumes / exported(old)[0]).exists(), "the first volume is there"
    stage.made("second", storage_class)
    same("volumes of the second", {"after", "second"}, {claim_of(v) for v in stage.volumes() if on(v, second)})
    for server in [first, second]:
        assert "VolumeFailedDelete" not in server.said() and "cannot do what" not in server.said(), server.said()
    same("events of failure", [], [event for event in stage.events_of(old["metadata"]["uid"])
                                   if event["reason"] == "VolumeFailedDelete"])

    # One that is told to stop hands over at once.
    stopped = time.monotonic()
    same("exit status", 0, second.stop())
    stage.made("last", storage_class)
    took = time.monotonic() - stopped
    stage.note(f"taken over {took:.1f} s after the leader stopped")
    assert took < 10, f"a leader that stops keeps the others waiting for {took:.0f} s"


def claim_of(pv):
    return pv["spec"]["claimRef"]["name"]


def on(pv, berth):
    return f"port={berth.port}" in pv["spec"]["mountOptions"]


@scenario(alone=True)
def api_server_stopped(stage):
    """The API server answers nothing for a while: clients notice nothing, and then everything goes on."""
    plane, berth = stage.plane(), stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("before", storage_class)
    client = mount(pv)
    claim_many(stage, 20, storage_class)
    with plane.frozen("kube-apiserver"):
        # Longer than a lease lasts and than a call may take.
        began, number = time.monotonic(), 0
        while time.monotonic() - began < FROZEN:
            client.write(f"file-{number}", b"1")
            same("files meanwhile", b"1", client.read(f"file-{number}"))
            number += 1
            berth.list()
            time.sleep(1)
    thawed = time.monotonic()
    until("all are bound", lambda: all_bound(stage, 21))
    stage.made("after", storage_class)
    stage.note(f"a claim after the pause is bound {time.monotonic() - thawed:.1f} s after its end")
    one_each(stage, berth, 22)
    same("still the same process", None, berth.process.poll())


@scenario
def wrong_directory(stage):
    """Berth starts with an empty directory: a claim that ends is not quietly forgotten, and its data stays."""
    right = stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"content")
    right.stop()
    wrong = stage.berth()
    stage.delete_claim("data")
    stage.event(pv, "VolumeFailedDelete", pv["metadata"]["name"])
    assert stage.volume(pv["metadata"]["name"]), "the PV is gone, and its volume is not"
    stage.made("other", storage_class)
    wrong.stop()
    right.start()
    stage.gone(pv)
    same("volumes left", {}, right.list())
