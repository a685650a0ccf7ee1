"""The environment of the installation test: its own control plane, Helm, claims, and Berth in place of pods."""

import json
import subprocess
from contextlib import contextmanager

from kube import Kube, path_of, until
from offline import same
from plane import Plane, kubeconfig
from pod import InPlaceOfPod
from render import NAMESPACE, Chart

OTHER, TEAM, STRANGERS = "other", "team-a", "team-b"
TOKEN_SECONDS = 7200


class Stand:
    """The control plane, Helm, and the servers that run in place of pods."""

    def __init__(self, run):
        self.run, self.folder, self.chart = run, run.folder, run.chart
        self.servers, self.kube = [], None
        place = self.folder / "plane"
        place.mkdir(mode=0o700)  # it contains keys and tokens
        self.folder.chmod(0o711)  # one of the servers runs as another user
        self.plane = Plane(run.binaries, place, NAMESPACE)
        # The audit log covers both releases.
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
        """Starts Helm in the background."""
        return subprocess.Popen([self.helms.program, *words, "--namespace", NAMESPACE], env=self.helms.environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def has(self, version):
        return any(f"{group['name']}/{one['version']}" == version
                   for group in self.kube.request("GET", "apis")["groups"] for one in group["versions"])

    def place(self, kind):
        return NAMESPACE if kind in ["statefulsets", "serviceaccounts"] else None

    # What volumes depend on

    def disk(self, name):
        """Creates a PV for Berth's own claim, because this cluster has no other provisioner."""
        self.kube.create("persistentvolumes", {
            "metadata": {"name": name}, "spec": {
                "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"}}})

    def lasting(self):
        """Identifies the Service and the claim that must be kept: by UID, so that a replacement is noticed."""
        service = self.kube.get("services", "berth", NAMESPACE)
        assert service, "the Service is gone"
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
        """Waits until a claim is bound, and returns its PV."""
        return self.kube.get("persistentvolumes", until(f"claim {name}", lambda: self.bound_to(name, namespace)))

    # Berth

    def pod(self, name, namespace=NAMESPACE):
        """Waits for a StatefulSet's pod, and returns the pod's spec."""
        until(f"pod {name}-0", lambda: self.kube.get("pods", f"{name}-0", namespace))
        return self.kube.get("statefulsets", name, namespace)["spec"]["template"]["spec"]

    def server(self, name, namespace):
        """A server that is not started yet, on the same volumes as its predecessor."""
        pod = self.pod(name, namespace)
        login = self.login(pod["serviceAccountName"], namespace)
        volumes = self.folder / f"volumes-{namespace}-{name}"
        return InPlaceOfPod(self.run.berth, self.folder / f"berth-{len(self.servers)}", pod, volumes, login)

    @contextmanager
    def berth(self, name, namespace=NAMESPACE, healthy=False):
        """Runs Berth as the pod would."""
        server = self.server(name, namespace)
        self.servers.append(server)
        server.start()
        if healthy:
            server.healthy()
        yield server
        same("exit code of the server", 0, server.stop())

    def login(self, account, namespace):
        """Writes a kubeconfig that logs in as a ServiceAccount."""
        path = self.folder / f"{namespace}-{account}.kubeconfig"
        path.touch(mode=0o600)
        token = self.kube.request("POST", path_of("serviceaccounts", namespace, account) + "/token", {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS}})["status"]["token"]
        admin = json.loads(self.plane.kubeconfig.read_text())["clusters"][0]["cluster"]
        path.write_text(json.dumps(kubeconfig(admin["server"], admin["certificate-authority-data"], token)))
        return path

    def forbidden(self):
        """The requests of the releases' ServiceAccounts that were refused with 403."""
        with open(self.plane.audit, encoding="utf-8") as log:
            entries = [json.loads(line) for line in log]
        assert entries, "the audit log is empty"
        return [f"{entry['verb']} {entry['requestURI']}" for entry in entries
                if (entry.get("responseStatus") or {}).get("code") == 403]

    def report(self):
        """Prints the logs and objects, for finding the cause of a failure."""
        for server in self.servers:
            print("--- log of Berth", *server.log_text().splitlines()[-40:], sep="\n")
        if self.kube:
            words = ["get", "pvc,pv,svc,statefulset,pod,storageclass", "--all-namespaces"]
            subprocess.run([self.kube.kubectl, "--kubeconfig", self.kube.kubeconfig, *words], check=False)
