"""The requests to the API server: none without permission, and few when nothing happens."""

import json
import time

from kube import until
from stage import lease_of, same, scenario

QUIET = 15


def asked(stage, since=0):
    """Yields (verb, resource, status, URI) of the ServiceAccount's requests, from an offset of the
    audit log on."""
    with open(stage.plane().audit, "rb") as log:
        log.seek(since)
        for line in log:
            entry = json.loads(line)
            thing = entry.get("objectRef") or {}
            resource = "/".join(part for part in (thing.get("resource"), thing.get("subresource")) if part)
            yield entry["verb"], resource, (entry.get("responseStatus") or {}).get("code"), entry["requestURI"]


@scenario
def service(stage):
    """With --nfs-service, a claim waits until the Service exists, and its PV has the Service's
    address and port."""
    home, name = stage.run.account.home, "nfs"
    server = stage.server()
    place = server.options.index("--nfs-server")
    server.options[place:place + 2] = ["--nfs-service", f"{home}/{name}"]
    server.start()
    claim = stage.claim("data", stage.storage_class())
    stage.event(claim, "ProvisioningFailed", f"{home}/{name}")
    made = stage.kube.create("services", {"metadata": {"name": name}, "spec": {"ports": [
        {"name": "nfs", "port": 2050}]}}, home)
    pv = stage.bound("data")
    same("server", made["spec"]["clusterIP"], pv["spec"]["nfs"]["server"])
    assert {"port=2050", "mountport=2050"} <= set(pv["spec"]["mountOptions"]), pv["spec"]


@scenario(alone=True)
def idle(stage):
    """An idle server only watches and renews its Lease."""
    stage.berth()
    storage_class = stage.storage_class()
    for number in range(10):
        stage.claim(f"data-{number}", storage_class)
    for number in range(10):
        stage.event(stage.claimed(f"data-{number}"), "ProvisioningSucceeded")
        stage.bound(f"data-{number}")
    quiet = until("a moment of quiet", lambda: silence(stage, 2))
    time.sleep(QUIET)
    calls = [call for call in asked(stage, quiet) if call[0] != "watch" and call[1] != "leases"]
    same("requests of an idle server", [], calls)


def silence(stage, seconds):
    """The size of the audit log if nothing but Lease requests arrived for a while, else None."""
    before = stage.plane().audit.stat().st_size
    time.sleep(seconds)
    busy = [call for call in asked(stage, before) if call[1] != "leases"]
    return before if not busy else None


@scenario
def leases_of_others(stage):
    """The role allows to renew the named Leases, to get the named Service, and otherwise only to
    create Leases."""
    home = stage.run.account.home
    user = f"system:serviceaccount:{home}:berth"

    def may(verb, group, resource, name):
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user, "resourceAttributes": {"namespace": home, "verb": verb, "group": group, "resource": resource,
                                                 "name": name}}}
        path = "apis/authorization.k8s.io/v1/subjectaccessreviews"
        return stage.kube.request("POST", path, review)["status"]["allowed"]
    own = lease_of(stage.name)
    for verb, name, expected in [("get", own, True), ("update", own, True), ("create", "", True), ("get", "other", False),
                                 ("update", "other", False), ("delete", own, False), ("list", "", False)]:
        same(f"{verb} lease {name}", expected, may(verb, "coordination.k8s.io", "leases", name))
    for name, expected in [("nfs", True), ("other", False)]:
        same(f"get service {name}", expected, may("get", "", "services", name))


@scenario(last=True)
def rights(stage):
    """No request was refused for lack of a permission, and every permission was used."""
    calls = list(asked(stage))
    assert calls, "the audit log is empty"
    forbidden = {call for call in calls if call[2] == 403}
    same("requests refused for lack of a permission", set(), forbidden)
    if not stage.run.complete:
        return
    home = stage.run.account.home
    rules = [rule for kind, place in [("clusterroles", None), ("roles", home)]
             for rule in stage.kube.get(kind, home, place)["rules"]]
    granted = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    used = {call[:2] for call in calls}
    same("unused permissions", set(), granted - used)
