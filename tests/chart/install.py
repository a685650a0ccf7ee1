"""The chart in a real control plane: installed, upgraded, rolled back, uninstalled and installed again.

There are no nodes, so pods stay Pending. In place of the pod, Berth runs on this machine with the pod's options (apart
from paths and addresses), user, capabilities and ServiceAccount.
"""

import copy
import json
import os
import re
import subprocess
from pathlib import Path

from berth import Mount
from kube import path_of, until
from offline import same
from readme import PROJECT, commands
from render import CHART, NAMESPACE, SETS, Refused, parse
from stand import OTHER, STRANGERS, TEAM, Stand


def install(run):
    """Claims get volumes; upgrading and reinstalling keep the Service and the disk that volumes depend on."""
    stand = Stand(run)
    try:
        stand.open()
        story(stand)
    except Exception:
        stand.report()
        raise
    finally:
        stand.close()


def story(stand):
    stand.disk("berth-disk")
    notes = stand.helm("install", "berth", CHART, "--create-namespace")
    before = stand.lasting()
    with stand.berth("berth", healthy=True) as berth:
        # The command that the notes print, as a person would paste it.
        stand.kube.apply(pasted(notes), NAMESPACE)
        pv = stand.bound("my-data")
        same("server of the volume", before["address"], pv["spec"]["nfs"]["server"])
        same("provisioner", "storage.cluster.local/berth",
             pv["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"])
        here(pv, berth).write("file", b"from before")
        here(pv, berth, uid=1000).write("of-a-user", b"")
        same("owner of a user's file", berth.owner(1000), berth.owner_of(pv, "of-a-user"))
        grow(stand, "my-data", "2Gi")
        helm_test(stand)

        stand.helm("upgrade", "berth", CHART, "--set", "grace=7", "--set", "image.tag=next")
        same("what is kept after an upgrade", before, stand.lasting())
        assert "--grace=7" in stand.pod("berth")["containers"][0]["args"]
        stand.helm("rollback", "berth", "1")
        same("what is kept after a rollback", before, stand.lasting())
    refusals(stand, before)

    stand.helm("uninstall", "berth")
    same("what is kept after uninstalling", before, stand.lasting())
    for kind in ["statefulsets", "serviceaccounts", "clusterroles", "storageclasses"]:
        left = [thing["metadata"]["name"] for thing in stand.kube.list(kind, stand.place(kind))]
        assert not {"berth", "storage.berth"} & set(left), f"uninstalling leaves {kind} {left}"
    stand.claim("in-between")

    stand.helm("install", "berth", CHART)
    same("what is kept after installing again", before, stand.lasting())
    with stand.berth("berth") as berth:
        same("server of a claim from in between", before["address"], stand.bound("in-between")["spec"]["nfs"]["server"])
        same("a file from before", b"from before", here(stand.bound("my-data"), berth).read("file"))
        second(stand)
        for name in ["my-data", "in-between"]:
            gone(stand, name)
        same("directories after deleting all claims", [], berth.directories())
    dry_runs(stand)
    same("requests refused for lack of a permission", [], stand.forbidden())
    stand.helm("uninstall", "berth")
    quick_start(stand)


def quick_start(stand):
    """The README's commands, word for word, in kubectl's default namespace."""
    stand.disk("quick-start")
    install, *others = commands("tests/chart/run")
    shell(stand, install)
    with stand.berth("berth", namespace="default"):
        said = [shell(stand, command) for command in others]
        stand.bound("shared", "default")
        assert "shared" in said[-1], said
        # Again, now that the claim is bound.
        assert " Bound " in shell(stand, others[-1]), others[-1]


def shell(stand, command):
    """Runs a command with Helm and kubectl in PATH, and returns what it prints."""
    tools = f"{Path(stand.helms.program).parent}:{stand.plane.binaries}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", command], cwd=PROJECT, env=stand.helms.environment | {"PATH": tools},
                          capture_output=True, text=True, check=False)
    same(f"{command} ({done.stderr.strip()})", 0, done.returncode)
    return done.stdout


def pasted(notes):
    """The manifest that the command in the notes passes to kubectl."""
    found = re.search(r"^kubectl apply -f - <<EOF\n(.*?)^EOF$", notes, re.M | re.S)
    assert found, f"the notes contain no kubectl command:\n{notes}"
    return found[1]


def grow(stand, name, size):
    stand.kube.patch("persistentvolumeclaims", name, {"spec": {"resources": {"requests": {"storage": size}}}}, NAMESPACE)

    def probe():
        same(f"capacity of {name}", size, stand.claimed(name)["status"]["capacity"]["storage"])
        return True
    until(f"{name} has {size}", probe)


def gone(stand, name):
    pv = stand.bound(name)["metadata"]["name"]
    stand.kube.delete("persistentvolumeclaims", name, NAMESPACE)
    until(f"PV {pv} is gone", lambda: not stand.kube.get("persistentvolumes", pv))


def helm_test(stand):
    """`helm test` creates a claim and a pod, and waits for the pod, whose status is set by hand: there is no node."""
    process = stand.begin("test", "berth", "--timeout", "300s")
    try:
        until("the pod of helm test", lambda: stand.kube.get("pods", "berth-test", NAMESPACE))
        stand.bound("berth-test")
        status = path_of("pods", NAMESPACE, "berth-test") + "/status"
        stand.kube.request("PATCH", status, {"status": {"phase": "Succeeded"}}, "application/merge-patch+json")
        said, _ = process.communicate(timeout=120)
        same(f"helm test ({said})", 0, process.returncode)
    finally:
        process.kill()
        process.wait()
    until("the claim of helm test is gone", lambda: stand.claimed("berth-test") is None)


def refusals(stand, before):
    """Upgrades that would break volumes are refused by the checks that look at the cluster."""
    for words, settings in [
            (["service.clusterIP", "10.0.0.99", before["address"]], ["service.clusterIP=10.0.0.99"]),
            (["persistence.existingClaim", "my-data", "Berth itself"], ["persistence.existingClaim=my-data"])]:
        more = [word for setting in settings for word in ["--set", setting]]
        refused(words, lambda more=more: stand.helm("upgrade", "berth", CHART, *more))
    # Another release with a StorageClass of the same name.
    refused(["StorageClass", '"berth"', "release-namespace"],
            lambda: stand.helm("install", "berth", CHART, namespace=OTHER))
    same("what is kept after refusals", before, stand.lasting())


def refused(words, attempt):
    try:
        attempt()
    except Refused as refusal:
        missing = [word for word in words if word not in str(refusal)]
        assert not missing, f"the refusal lacks {missing}: {refusal}"
    else:
        raise AssertionError(f"accepted, instead of an error that names {words}")


def second(stand):
    """A second release beside the first: with a class of its own, for one namespace, as an ordinary user."""
    stand.helm("install", "berth", CHART, "--set", f"namespaces={{{TEAM}}}", "--set", "storageClasses[0].name=second",
              "--set", "storageClasses[0].onDelete=archive", "--set", "rootless=true", namespace=OTHER)
    with stand.berth("berth", namespace=OTHER) as berth:
        stand.claim("elsewhere", "second", STRANGERS)
        stand.claim("ours", "second", TEAM)
        pv = stand.bound("ours", TEAM)
        same("server of the second", stand.kube.get("services", "berth", OTHER)["spec"]["clusterIP"],
             pv["spec"]["nfs"]["server"])
        here(pv, berth, uid=1000).write("of-a-user", b"")
        same("owner of a user's file", berth.owner(1000), berth.owner_of(pv, "of-a-user"))
        same("a claim of another namespace", "Pending", stand.claimed("elsewhere", STRANGERS)["status"]["phase"])
        stand.kube.delete("persistentvolumeclaims", "ours", TEAM)
        name = pv["metadata"]["name"]
        until("its PV is gone", lambda: not stand.kube.get("persistentvolumes", name))
        # Its event is in `default`, which is not among `namespaces`.
        until("an event of the PV", lambda: [event for event in stand.kube.list("events", "default")
                                             if event["involvedObject"]["name"] == name])
        [kept] = berth.directories()
        assert kept.startswith("archived-"), f"the archived directory is {kept}"


def dry_runs(stand):
    """The API server accepts every rendering, apart from kinds that it does not have."""
    unknown = {"ServiceMonitor"} | (set() if stand.has("policy/v1") else {"PodDisruptionBudget"})
    for name, values in SETS.items():
        objects = [thing for thing in parse(stand.chart.text(values, "dry", "dry")) if thing["kind"] not in unknown]
        for thing in objects:
            if thing["kind"] == "StorageClass":
                thing["metadata"]["name"] += "-dry"  # the class of the release exists and cannot be changed
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        done = subprocess.run([stand.kube.kubectl, "--kubeconfig", stand.kube.kubeconfig, "apply", "--dry-run=server",
                               "-f", "-"], input=text, capture_output=True, text=True, check=False)
        same(f"{name}: exit code of kubectl apply ({done.stderr})", 0, done.returncode)


def here(pv, berth, uid=0):
    """Mounts the volume at the server in place of the pod, since the Service leads nowhere, as a user."""
    pv = copy.deepcopy(pv)
    pv["spec"]["nfs"]["server"] = "127.0.0.1"
    ours = [f"port={berth.port}", f"mountport={berth.port}"]
    options = [option for option in pv["spec"]["mountOptions"] if not re.match("(mount)?port=", option)]
    pv["spec"]["mountOptions"] = options + ours
    return Mount(pv, uid)
