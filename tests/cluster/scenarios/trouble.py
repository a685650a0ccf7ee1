"""Crashes, several servers, and an API server that does not respond."""

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
    same("bound claims", count, phases(stage).count("Bound"))
    return True


def one_each(stage, berth, count):
    """Asserts that each claim has one PV, one volume and one directory, and that there are no
    others."""
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
    """Deletes all claims, and waits until no PV, volume or directory is left."""
    for number in range(count):
        stage.delete_claim(f"claim-{number}")
    until("all PVs are gone", lambda: not stage.volumes(), MANY_LIMIT)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))


@scenario
def killed(stage):
    """kill -9 while many claims are provisioned, three times, and while they are deleted."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    claim_many(stage, CROWD, storage_class)
    made = 0
    for _ in range(3):
        until("more PVs are created", lambda made=made: len(stage.volumes()) > made + 5, longest_pause=0.02)
        berth.kill()
        made = len(stage.volumes())
        stage.note(f"killed with {made} PVs of {CROWD}")
        assert made < CROWD, "all PVs existed before the server could be killed"
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
def deleted_while_killed(stage):
    """Claims are created and deleted around several crashes: nothing is left over."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    for step in range(3):
        name = f"round-{step}"
        claim_many(stage, 25, storage_class, name)
        # Not the first claim, so that the server is killed in the middle.
        until("some of this round have a volume", lambda name=name: any(v.startswith(f"{stage.namespace}-{name}-7-")
                                                                   for v in berth.list()), longest_pause=0.02)
        berth.kill()
        for number in range(0, 25, 2):
            stage.delete_claim(f"{name}-{number}")
        berth.start()
    until("the rest is bound", lambda: all_bound(stage, 36), MANY_LIMIT)
    until("nothing is left of the others", lambda: [one_each(stage, berth, 36)], MANY_LIMIT)


@scenario(alone=True)
def thousand(stage):
    """1,000 claims at once: their PVs are created within a minute, and memory stays bounded."""
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
    assert grown < GROWTH, f"memory grew by {grown >> 20} MiB"


@scenario
def leader(stage):
    """Of two servers, one provisions; when it is killed or stops, the other takes over. Each
    expands and reclaims its own volumes, whichever provisions."""
    first = stage.berth()
    storage_class = stage.storage_class()
    old = stage.made("before", storage_class)
    mount(old).write("file", b"of the first")
    second = stage.server()
    second.start()
    for number in range(6):
        stage.made(f"still-{number}", storage_class)
    same("volumes of the server without the Lease", {}, second.list())
    first.kill()
    killed = time.monotonic()
    pv = stage.made("after", storage_class)
    stage.note(f"takeover {time.monotonic() - killed:.1f} s after the leader was killed")
    same("volumes of the second", ["after"], [claim_of(v) for v in stage.volumes() if on(v, second)])
    mount(pv).write("file", b"of the second")

    # The restarted server does not provision, but expands and reclaims its own volumes.
    first.start()
    same("the first volume", b"of the first", mount(old).read("file"))
    change = {"spec": {"resources": {"requests": {"storage": "32Mi"}}}}
    stage.kube.patch("persistentvolumeclaims", "still-0", change, stage.namespace)
    until("it has grown", lambda: stage.claimed("still-0")["status"]["capacity"]["storage"] == "32Mi")
    stage.delete_claim("before")
    stage.gone(old)
    assert not (first.volumes / exported(old)[0]).exists(), "the directory of the first volume still exists"
    stage.made("second", storage_class)
    same("volumes of the second", {"after", "second"}, {claim_of(v) for v in stage.volumes() if on(v, second)})
    for server in [first, second]:
        assert "VolumeFailedDelete" not in server.log_text() and "cannot reconcile" not in server.log_text(), server.log_text()
    same("events of failure", [], [event for event in stage.events_of(old["metadata"]["uid"])
                                   if event["reason"] == "VolumeFailedDelete"])

    # A server that stops releases the Lease at once.
    stopped = time.monotonic()
    same("exit status", 0, second.stop())
    assert "the lease is released" in second.log_text(), second.log_text()
    stage.made("last", storage_class)
    stage.note(f"takeover {time.monotonic() - stopped:.1f} s after the leader stopped")


def claim_of(pv):
    return pv["spec"]["claimRef"]["name"]


def on(pv, berth):
    return f"port={berth.port}" in pv["spec"]["mountOptions"]


@scenario(alone=True)
def api_server_stopped(stage):
    """While the API server hangs, clients are served; afterwards provisioning continues."""
    plane, berth = stage.plane(), stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("before", storage_class)
    client = mount(pv)
    claim_many(stage, 20, storage_class)
    with plane.frozen("kube-apiserver"):
        # Longer than the duration of the Lease and the timeout of a request.
        began, number = time.monotonic(), 0
        while time.monotonic() - began < FROZEN:
            client.write(f"file-{number}", b"1")
            same("the file", b"1", client.read(f"file-{number}"))
            number += 1
            berth.list()
            time.sleep(1)
    thawed = time.monotonic()
    until("all are bound", lambda: all_bound(stage, 21))
    stage.made("after", storage_class)
    stage.note(f"a new claim is bound {time.monotonic() - thawed:.1f} s after the API server continues")
    one_each(stage, berth, 22)
    same("exit code of the server, which still runs", None, berth.process.poll())


@scenario
def wrong_directory(stage):
    """A server with the wrong, empty directory fails to reclaim a volume, and leaves its PV in
    place."""
    right = stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"content")
    right.stop()
    wrong = stage.berth()
    stage.delete_claim("data")
    stage.event(pv, "VolumeFailedDelete", pv["metadata"]["name"])
    assert stage.volume(pv["metadata"]["name"]), "the PV is gone while its volume still exists"
    stage.made("other", storage_class)
    wrong.stop()
    right.start()
    stage.gone(pv)
    same("volumes left", {}, right.list())
