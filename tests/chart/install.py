"""The chart in a genuine control plane: installed, changed, taken away and installed again.

There are no nodes, so that pods stay Pending; in place of the pod, Berth itself runs here with the options that the
pod has (only paths and addresses are others), with its privileges, logged in as its ServiceAccount.
"""

import copy
import json
import re
import subprocess
from contextlib import contextmanager

from berth import Mount
from kube import Kube, path_of, until
from plane import Plane, kubeconfig
from pod import InPlaceOfPod
from render import CHART, NAMESPACE, SETS, Chart, Refused, parse

OTHER, TEAM, STRANGERS = "other", "team-a", "team-b"
TOKEN_SECONDS = 7200


def install(run):
    """It gives claims volumes; no upgrade and no reinstalling takes away what volumes live on."""
    site = Site(run)
    try:
        site.open()
        story(site)
    except Exception:
        site.report()
        raise
    finally:
        site.close()


def story(site):
    site.disk("berth-disk")
    notes = site.helm("install", "berth", CHART, "--create-namespace")
    before = site.lasting()
    with site.berth("berth", healthy=True) as berth:
        # As it is printed, so as a person would paste it.
        site.kube.apply(pasted(notes), NAMESPACE)
        pv = site.bound("my-data")
        same("server of the volume", before["address"], pv["spec"]["nfs"]["server"])
        same("provisioner", "storage.cluster.local/berth",
             pv["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"])
        here(pv, berth).write("file", b"from before")
        here(pv, berth, uid=1000).write("of-a-user", b"")
        same("owner of a user's file", berth.owner(1000), berth.owner_of(pv, "of-a-user"))
        grow(site, "my-data", "2Gi")
        helm_test(site)

        site.helm("upgrade", "berth", CHART, "--set", "grace=7", "--set", "image.tag=next")
        same("what lasts, after an upgrade", before, site.lasting())
        assert "--grace=7" in site.pod("berth")["containers"][0]["args"]
        site.helm("rollback", "berth", "1")
        same("what lasts, after rolling back", before, site.lasting())
    refusals(site, before)

    site.helm("uninstall", "berth")
    same("what lasts, after uninstalling", before, site.lasting())
    for kind in ["statefulsets", "serviceaccounts", "clusterroles", "storageclasses"]:
        left = [thing["metadata"]["name"] for thing in site.kube.list(kind, site.place(kind))]
        assert not {"berth", "storage-berth"} & set(left), f"uninstalling leaves {kind} {left}"
    site.claim("in-between")

    site.helm("install", "berth", CHART)
    same("what lasts, after installing again", before, site.lasting())
    with site.berth("berth") as berth:
        same("server of a claim from in between", before["address"], site.bound("in-between")["spec"]["nfs"]["server"])
        same("a file from before", b"from before", here(site.bound("my-data"), berth).read("file"))
        second(site)
        for name in ["my-data", "in-between"]:
            gone(site, name)
        same("what is left of the volumes", [], berth.directories())
    dry_runs(site)
    same("refused for lack of a right", [], site.forbidden())


def pasted(notes):
    """What the shell would give to kubectl."""
    found = re.search(r"^kubectl apply -f - <<EOF\n(.*?)^EOF$", notes, re.M | re.S)
    assert found, f"nothing to paste in the notes:\n{notes}"
    return found[1]


def grow(site, name, size):
    site.kube.patch("persistentvolumeclaims", name, {"spec": {"resources": {"requests": {"storage": size}}}}, NAMESPACE)

    def probe():
        same(f"capacity of {name}", size, site.claimed(name)["status"]["capacity"]["storage"])
        return True
    until(f"{name} has {size}", probe)


def gone(site, name):
    pv = site.bound(name)["metadata"]["name"]
    site.kube.delete("persistentvolumeclaims", name, NAMESPACE)
    until(f"PV {pv} is gone", lambda: not site.kube.get("persistentvolumes", pv))


def helm_test(site):
    """`helm test` makes a claim and a pod, and passes when the pod does; here somebody has to say that it did."""
    process = site.begin("test", "berth", "--timeout", "300s")
    try:
        until("the pod of helm test", lambda: site.kube.get("pods", "berth-test", NAMESPACE))
        site.bound("berth-test")
        status = path_of("pods", NAMESPACE, "berth-test") + "/status"
        site.kube.request("PATCH", status, {"status": {"phase": "Succeeded"}}, "application/merge-patch+json")
        said, _ = process.communicate(timeout=120)
        same(f"helm test ({said})", 0, process.returncode)
    finally:
        process.kill()
        process.wait()
    until("the claim of helm test is gone", lambda: site.claimed("berth-test") is None)


def refusals(site, before):
    """What can only be seen in the cluster, and what would break its volumes."""
    for words, settings in [
            (["service.clusterIP", "10.0.0.99", before["address"]], ["service.clusterIP=10.0.0.99"]),
            (["persistence.existingClaim", "my-data", "Berth itself"], ["persistence.existingClaim=my-data"])]:
        more = [word for setting in settings for word in ["--set", setting]]
        refused(words, lambda more=more: site.helm("upgrade", "berth", CHART, *more))
    # Another release with the same class, for which there would be two provisioners.
    refused(["StorageClass", '"berth"', "release-namespace"],
            lambda: site.helm("install", "berth", CHART, namespace=OTHER))
    same("what lasts, after refusals", before, site.lasting())


def refused(words, attempt):
    try:
        attempt()
    except Refused as refusal:
        missing = [word for word in words if word not in str(refusal)]
        assert not missing, f"the refusal lacks {missing}: {refusal}"
    else:
        raise AssertionError(f"nothing was refused, which should have named {words}")


def second(site):
    """A second release beside the first: a class of its own, only the claims of one namespace, an ordinary user."""
    site.helm("install", "berth", CHART, "--set", f"namespaces={{{TEAM}}}", "--set", "storageClasses[0].name=second",
              "--set", "rootless=true", namespace=OTHER)
    with site.berth("berth", namespace=OTHER) as berth:
        site.claim("elsewhere", "second", STRANGERS)
        site.claim("ours", "second", TEAM)
        pv = site.bound("ours", TEAM)
        same("server of the second", site.kube.get("services", "berth", OTHER)["spec"]["clusterIP"],
             pv["spec"]["nfs"]["server"])
        here(pv, berth, uid=1000).write("of-a-user", b"")
        same("owner of a user's file", berth.owner(1000), berth.owner_of(pv, "of-a-user"))
        same("a claim of another namespace", "Pending", site.claimed("elsewhere", STRANGERS)["status"]["phase"])
        site.kube.delete("persistentvolumeclaims", "ours", TEAM)
        until("its PV is gone", lambda: not site.kube.get("persistentvolumes", pv["metadata"]["name"]))


def dry_runs(site):
    """The API server itself takes every rendering, apart from kinds that it does not have."""
    unknown = {"ServiceMonitor"} | (set() if site.has("policy/v1") else {"PodDisruptionBudget"})
    for name, values in SETS.items():
        objects = [thing for thing in parse(site.chart.text(values, "dry", "dry")) if thing["kind"] not in unknown]
        for thing in objects:
            if thing["kind"] == "StorageClass":
                thing["metadata"]["name"] += "-dry"  # that of the release is there, and cannot be changed
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        done = subprocess.run([site.kube.kubectl, "--kubeconfig", site.kube.kubeconfig, "apply", "--dry-run=server",
                               "-f", "-"], input=text, capture_output=True, text=True, check=False)
        same(f"{name}: what the API server says ({done.stderr})", 0, done.returncode)


def same(what, expected, found):
    assert expected == found, f"{what}: expected {expected!r}, found {found!r}"


def here(pv, berth, uid=0):
    """The volume, where the Service would lead to, as somebody."""
    pv = copy.deepcopy(pv)
    pv["spec"]["nfs"]["server"] = "127.0.0.1"
    ours = [f"port={berth.port}", f"mountport={berth.port}"]
    options = [option for option in pv["spec"]["mountOptions"] if not re.match("(mount)?port=", option)]
    pv["spec"]["mountOptions"] = options + ours
    return Mount(pv, uid)


class Site:
    """The control plane, Helm, and what runs in place of pods."""

    def __init__(self, run):
        self.run, self.folder, self.chart = run, run.folder, run.chart
        self.servers, self.kube = [], None
        place = self.folder / "plane"
        place.mkdir(mode=0o700)  # keys and tokens lie in it
        self.folder.chmod(0o711)  # one of the servers is another user's
        self.plane = Plane(run.binaries, place, NAMESPACE)
        # Both releases are watched.
        self.plane.policy["rules"][0]["userGroups"].append(f"system:serviceaccounts:{OTHER}")

    def open(self):
        self.plane.start()
        self.kube = Kube(self.plane.binaries / "kubectl", self.plane.kubeconfig, self.folder)
        self.helms = Chart(self.chart.program, self.folder)
        self.helms.environment["KUBECONFIG"] = str(self.plane.kubeconfig)
        for name in [OTHER, TEAM, STRANGERS, "dry"]:
            self.kube.create("namespaces", {"metadata": {"name": name}})
            until("the default ServiceAccount", lambda name=name: self.kube.get("serviceaccounts", "default", name))

    def close(self):
        for server in self.servers:
            server.kill()
        for part in [self.kube, self.plane]:
            if part:
                part.stop()

    def helm(self, *words, namespace=NAMESPACE):
        return self.helms.helm(*words, "--namespace", namespace)

    def begin(self, *words):
        """Helm, without waiting for its end."""
        return subprocess.Popen([self.helms.program, *words, "--namespace", NAMESPACE], env=self.helms.environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def has(self, version):
        return any(f"{group['name']}/{one['version']}" == version
                   for group in self.kube.request("GET", "apis")["groups"] for one in group["versions"])

    def place(self, kind):
        return NAMESPACE if kind in ["statefulsets", "serviceaccounts"] else None

    # What volumes live on

    def disk(self, name):
        """A PV for Berth's own claim, since nobody else makes one here."""
        self.kube.create("persistentvolumes", {
            "metadata": {"name": name}, "spec": {
                "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"}}})

    def lasting(self):
        """The Service and the claim that outlive everything: these ones, not others of their names."""
        service = self.kube.get("services", "berth", NAMESPACE)
        disk = until("Berth's own claim is bound", lambda: self.bound_to("berth-data"))
        claim = self.claimed("berth-data")
        return {"service": service["metadata"]["uid"], "address": service["spec"]["clusterIP"],
                "claim": claim["metadata"]["uid"], "disk": disk}

    # Claims

    def claim(self, name, storage_class="berth", namespace=NAMESPACE):
        self.kube.create("persistentvolumeclaims", {"metadata": {"name": name}, "spec": {
            "storageClassName": storage_class, "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "16Mi"}}}}, namespace)

    def claimed(self, name, namespace=NAMESPACE):
        return self.kube.get("persistentvolumeclaims", name, namespace)

    def bound_to(self, name, namespace=NAMESPACE):
        claim = self.claimed(name, namespace)
        same(f"claim {name}", "Bound", claim and claim["status"].get("phase"))
        return claim["spec"]["volumeName"]

    def bound(self, name, namespace=NAMESPACE):
        """Waits until a claim is bound, and answers its PV."""
        return self.kube.get("persistentvolumes", until(f"claim {name}", lambda: self.bound_to(name, namespace)))

    # Berth

    def pod(self, name, namespace=NAMESPACE):
        """The spec of a StatefulSet's pod, which is there."""
        until(f"pod {name}-0", lambda: self.kube.get("pods", f"{name}-0", namespace))
        return self.kube.get("statefulsets", name, namespace)["spec"]["template"]["spec"]

    def server(self, name, namespace):
        """Berth, not started yet, with the volumes of the one before."""
        pod = self.pod(name, namespace)
        login = self.login(pod["serviceAccountName"], namespace)
        volumes = self.folder / f"volumes-{namespace}-{name}"
        return InPlaceOfPod(self.run.berth, self.folder / f"berth-{len(self.servers)}", pod, volumes, login)

    @contextmanager
    def berth(self, name, namespace=NAMESPACE, healthy=False):
        """Berth as the pod would run it."""
        server = self.server(name, namespace)
        self.servers.append(server)
        server.start()
        if healthy:
            server.healthy()
        yield server
        same("its end", 0, server.stop())

    def login(self, account, namespace):
        """A kubeconfig of a ServiceAccount."""
        path = self.folder / f"{namespace}-{account}.kubeconfig"
        path.touch(mode=0o600)
        token = self.kube.request("POST", path_of("serviceaccounts", namespace, account) + "/token", {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS}})["status"]["token"]
        admin = json.loads(self.plane.kubeconfig.read_text())["clusters"][0]["cluster"]
        path.write_text(json.dumps(kubeconfig(admin["server"], admin["certificate-authority-data"], token)))
        return path

    def forbidden(self):
        """What the ServiceAccounts of the releases asked for in vain."""
        with open(self.plane.audit, encoding="utf-8") as log:
            entries = [json.loads(line) for line in log]
        assert entries, "nothing was asked at all"
        return [f"{entry['verb']} {entry['requestURI']}" for entry in entries
                if (entry.get("responseStatus") or {}).get("code") == 403]

    def report(self):
        """What one wants to see when something is wrong."""
        for server in self.servers:
            print("--- log of Berth", *server.said().splitlines()[-40:], sep="\n")
        if self.kube:
            words = ["get", "pvc,pv,svc,statefulset,pod,storageclass", "--all-namespaces"]
            subprocess.run([self.kube.kubectl, "--kubeconfig", self.kube.kubeconfig, *words], check=False)
