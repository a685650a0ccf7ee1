"""The environment of a scenario: a namespace, classes, claims, servers, and functions that wait and compare.

Each scenario has its own provisioner name and namespace, so scenarios run concurrently without effect on each other.
All servers log in as one ServiceAccount with exactly the permissions of roles.yaml.
"""

import json
import re
import subprocess

from berth import Berth, Mount
from kube import until
from plane import kubeconfig

FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
ON_DELETE = "berth.io/on-delete"
TAIL = 60

SCENARIOS = {}


class Skip(Exception):
    """The scenario cannot run here; the message says why."""


def scenario(function=None, *, alone=False, last=False):
    """Registers a scenario. `alone`: it disturbs others, or measures. `last`: it checks what all
    others did."""
    def enter(function):
        function.alone, function.last = alone or last, last
        SCENARIOS[function.__name__.replace("_", "-")] = function
        return function
    return enter(function) if function else enter


def same(what, expected, found):
    """Asserts that two values are equal; the error shows both."""
    assert expected == found, f"{what}: expected {expected!r}, found {found!r}"


def provisioner_of(scenario):
    return f"berth.example/{scenario}"


def lease_of(scenario):
    return provisioner_of(scenario).replace("/", "-")


class Account:
    """A ServiceAccount with the permissions of roles.yaml, in the namespace of the servers."""

    def __init__(self, kube, home, roles, folder):
        self.kube, self.home = kube, home
        kube.create("namespaces", {"metadata": {"name": home}})
        # Renamed, because an installed Berth has objects of the original name.
        roles = re.sub(r"^  name: berth$", f"  name: {home}", roles, flags=re.M)
        # Each scenario has its own provisioner and Lease.
        for named, names in [("storage.cluster.local-berth", [lease_of(name) for name in SCENARIOS]), ("berth", ["nfs"])]:
            roles = roles.replace(f"resourceNames: [{named}]", f"resourceNames: [{', '.join(names)}]")
        kube.apply(roles, home)
        subject = {"kind": "ServiceAccount", "name": "berth", "namespace": home}
        kube.create("serviceaccounts", {"metadata": {"name": "berth"}}, home)
        for bindings, role, place in [("clusterrolebindings", "ClusterRole", None), ("rolebindings", "Role", home)]:
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": home}
            kube.create(bindings, {"metadata": {"name": home}, "roleRef": reference, "subjects": [subject]}, place)
        self.kubeconfig = folder / "berth.kubeconfig"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(json.dumps(self.login()))

    def login(self):
        token = self.kube.request("POST", f"api/v1/namespaces/{self.home}/serviceaccounts/berth/token",
                                  {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                                   "spec": {"expirationSeconds": 7200}})["status"]["token"]
        shown = subprocess.run([self.kube.kubectl, "--kubeconfig", self.kube.kubeconfig, "config", "view", "--raw",
                                "--minify", "--flatten", "-o", "json"], check=True, capture_output=True, text=True)
        cluster = json.loads(shown.stdout)["clusters"][0]["cluster"]
        return kubeconfig(cluster["server"], cluster.get("certificate-authority-data"), token)

    def remove(self):
        for kind in ["clusterrolebindings", "clusterroles", "namespaces"]:
            self.kube.delete(kind, self.home)


class Stage:
    """The environment of one scenario."""

    def __init__(self, name, run):
        self.name, self.run, self.kube = name, run, run.kube
        self.folder = run.folder / name
        self.folder.mkdir()
        self.provisioner = provisioner_of(name)
        self.namespace = f"{name}-{run.id}"
        self.namespaces, self.classes, self.servers, self.notes = [], [], [], []

    def begin(self):
        self.namespaced(self.namespace)

    def note(self, text):
        """Adds a line to the output of the scenario."""
        self.notes.append(text)

    def plane(self):
        """The control plane, if this run started it."""
        if self.run.plane is None:
            raise Skip("the cluster was not started by this run")
        return self.run.plane

    # Servers

    def server(self, *options, volumes=None, provisioner=True):
        """A server that is not started yet."""
        if provisioner:
            options = ["--provisioner", self.provisioner, "--nfs-server", "127.0.0.1",
                       "--kubeconfig", str(self.run.account.kubeconfig),
                       "--lease-namespace", self.run.account.home, *options]
        server = Berth(self.run.program, self.folder / f"berth-{len(self.servers)}", options, volumes)
        self.servers.append(server)
        return server

    def berth(self, *options, **more):
        """A running server."""
        return self.server(*options, **more).start()

    # Objects

    def namespaced(self, name):
        self.kube.create("namespaces", {"metadata": {"name": name}})
        self.namespaces.append(name)
        until("the default ServiceAccount", lambda: self.kube.get("serviceaccounts", "default", name))
        return name

    def storage_class(self, suffix="standard", *, policy="Delete", binding="Immediate", mount_options=None,
                      **parameters):
        """Creates a class of this scenario, and returns its name."""
        name = f"{self.namespace}-{suffix}"
        self.kube.create("storageclasses", {
            "metadata": {"name": name}, "provisioner": self.provisioner, "parameters": parameters,
            "reclaimPolicy": policy, "volumeBindingMode": binding, "allowVolumeExpansion": True,
            "mountOptions": mount_options})
        self.classes.append(name)
        return name

    def claim(self, name, storage_class, size="10Mi", modes=("ReadWriteMany",), namespace=None, labels=None,
              annotations=None, **spec):
        """Creates a claim, and returns it."""
        return self.kube.create("persistentvolumeclaims", {
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {"storageClassName": storage_class, "accessModes": list(modes),
                     "resources": {"requests": {"storage": size}}} | spec}, namespace or self.namespace)

    def claimed(self, name, namespace=None):
        return self.kube.get("persistentvolumeclaims", name, namespace or self.namespace)

    def delete_claim(self, name, namespace=None):
        self.kube.delete("persistentvolumeclaims", name, namespace or self.namespace)

    def volume(self, name):
        return self.kube.get("persistentvolumes", name)

    def volumes(self):
        """The PVs of this scenario: of its classes, or named after its namespace."""
        return [pv for pv in self.kube.list("persistentvolumes")
                if pv["spec"].get("storageClassName") in self.classes
                or pv["metadata"]["name"].startswith(self.namespace)]

    # Waiting

    def bound(self, name, namespace=None, limit=None):
        """Waits until a claim is bound, and returns its PV."""
        def probe():
            claim = self.claimed(name, namespace)
            same(f"claim {name}", "Bound", claim and claim["status"].get("phase"))
            return self.volume(claim["spec"]["volumeName"])
        return until(f"claim {name} is bound", probe, limit)

    def made(self, name, storage_class, *arguments, **more):
        """Creates a claim, waits until it is bound, and returns its PV."""
        self.claim(name, storage_class, *arguments, **more)
        return self.bound(name, more.get("namespace"))

    def gone(self, pv):
        """Waits until a PV no longer exists."""
        name = pv["metadata"]["name"]

        def probe():
            now = self.volume(name)
            assert not now, f"it is {now['status'].get('phase')}, finalizers {now['metadata'].get('finalizers')}"
            return True
        until(f"PV {name} is gone", probe)

    def phase(self, pv, expected):
        """Waits until a PV has a phase, and returns the PV."""
        name = pv["metadata"]["name"]

        def probe():
            now = self.volume(name)
            same(f"PV {name}", expected, now and now["status"].get("phase"))
            return now
        return until(f"PV {name} is {expected}", probe)

    def event(self, thing, reason, *words):
        """Waits for an event of an object with this reason and all these words, and returns its
        message."""
        name, uid = thing["metadata"]["name"], thing["metadata"]["uid"]

        def probe():
            found = self.events_of(uid)
            for event in found:
                if event["reason"] == reason and all(word in event["message"] for word in words):
                    return event
            assert False, f"events are {[(event['reason'], event['message']) for event in found]}"
        return until(f"event {reason} of {name} with {words}", probe)["message"]

    def events_of(self, uid):
        return [event for event in self.events() if event["involvedObject"].get("uid") == uid]

    def events(self):
        # Events of PVs, which have no namespace, are in `default`.
        found = [event for place in [*self.namespaces, "default"] for event in self.kube.list("events", place)]
        return sorted(found, key=lambda event: event["metadata"]["creationTimestamp"])

    # The end

    def report(self):
        """Claims, volumes and events, for finding the cause of a failure."""
        lines = ["claims:"]
        for place in self.namespaces:
            for claim in self.kube.list("persistentvolumeclaims", place)[:TAIL]:
                lines.append(f"  {place}/{claim['metadata']['name']} {claim['status'].get('phase')} "
                             f"{claim['spec'].get('volumeName', '')}")
        lines.append("volumes:")
        for pv in self.volumes()[:TAIL]:
            spec, metadata = pv["spec"], pv["metadata"]
            lines.append(f"  {metadata['name']} {pv['status'].get('phase')} {spec['persistentVolumeReclaimPolicy']} "
                         f"{spec['nfs']['path']} finalizers={metadata.get('finalizers')}"
                         f"{' deleted' if metadata.get('deletionTimestamp') else ''}")
        lines.append("events:")
        ours = {pv["metadata"]["name"] for pv in self.volumes()}
        for event in self.events():
            thing = event["involvedObject"]
            if thing.get("namespace") in self.namespaces or thing["name"] in ours:
                lines.append(f"  {thing['kind']} {thing['name']}: {event['reason']} x{event.get('count')}: "
                             f"{event['message']}")
        return lines[-4 * TAIL:]

    def logs(self):
        for number, server in enumerate(self.servers):
            yield f"log of Berth {number}", server.log_text().splitlines()[-TAIL:]

    def stop_servers(self):
        for server in self.servers:
            server.kill()

    def remove(self):
        """Removes everything that the scenario created in the cluster, in whatever state it is."""
        for pv in self.volumes():
            self.kube.patch("persistentvolumes", pv["metadata"]["name"], {"metadata": {"finalizers": None}})
            self.kube.delete("persistentvolumes", pv["metadata"]["name"])
        for name in self.classes:
            self.kube.delete("storageclasses", name)
        for name in self.namespaces:
            self.kube.delete("namespaces", name)


def exported(pv):
    """The two parts of a PV's path: the name of the volume and the secret token."""
    _, name, *token = pv["spec"]["nfs"]["path"].split("/")
    assert len(token) == 1 and len(token[0]) == 32, pv["spec"]["nfs"]
    return name, token[0]


def mount(pv, uid=0):
    return Mount(pv, uid)
