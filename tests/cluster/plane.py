"""A control plane for one run: etcd, kube-apiserver and kube-controller-manager on loopback.

RBAC is on and the tokens of ServiceAccounts are real. There are no nodes: pods stay Pending, but claims are bound,
classes are checked, and StatefulSets create their claims. Everything is in one directory and ends with the run. An
audit log records the requests of the server for the scenarios that check them.
"""

import base64
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

BINARIES = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"]
START_LIMIT = 180
STOP_LIMIT = 20


class NotStarted(Exception):
    """The control plane could not be started; the message says why."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Plane:
    """The three programs. `kubeconfig` is an administrator's; `audit` covers the ServiceAccounts of
    `watched`."""

    def __init__(self, binaries, folder, watched):
        self.binaries, self.folder, self.processes = Path(binaries), folder, {}
        # The requests of the ServiceAccounts of this namespace, without their bodies.
        self.policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [
            {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{watched}"]}, {"level": "None"}]}
        self.kubeconfig = folder / "admin.kubeconfig"
        self.audit = folder / "audit.log"
        self.port = free_port()
        self.tokens = {"admin": secrets.token_hex(16), "manager": secrets.token_hex(16)}

    def start(self):
        etcd = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        self.launch("etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync",
                    "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", f"default={peer}")
        self.start_api_server(etcd)
        manager = self.write_kubeconfig(self.folder / "manager.kubeconfig", "manager")
        self.launch("kube-controller-manager", "--kubeconfig", manager, "--leader-elect=false",
                    "--bind-address=127.0.0.1", f"--secure-port={free_port()}", *self.without_open_port(),
                    "--cert-dir", self.folder / "manager", "--root-ca-file", self.folder / "ca.crt",
                    "--authentication-kubeconfig", manager, "--authorization-kubeconfig", manager,
                    "--service-account-private-key-file", self.folder / "accounts.key",
                    "--use-service-account-credentials=true",
                    # The interval at which it retries to bind claims; 15 s by default.
                    "--pvclaimbinder-sync-period=2s",
                    # The default, 20 requests per second, would limit the rate of claims, and Berth
                    # is what is measured.
                    "--kube-api-qps=1000", "--kube-api-burst=2000")
        self.until("the default ServiceAccount", "kube-controller-manager",
                   lambda: self.get("/api/v1/namespaces/default/serviceaccounts/default"))

    def start_api_server(self, etcd):
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        users = [f'{self.tokens["admin"]},admin,1,"system:masters"',
                 f'{self.tokens["manager"]},system:kube-controller-manager,2']
        self.private("users.csv", "\n".join(users) + "\n")
        self.private("audit-policy.json", json.dumps(self.policy))
        issuer = "https://kubernetes.default.svc"
        self.launch("kube-apiserver", "--etcd-servers", etcd, "--bind-address=127.0.0.1",
                    "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
                    "--cert-dir", self.folder / "server", "--token-auth-file", self.folder / "users.csv",
                    "--authorization-mode=RBAC", "--endpoint-reconciler-type=none",
                    "--service-cluster-ip-range=10.0.0.0/24", f"--service-account-issuer={issuer}",
                    "--service-account-key-file", key, "--service-account-signing-key-file", key,
                    f"--api-audiences={issuer}", "--audit-policy-file", self.folder / "audit-policy.json",
                    "--audit-log-path", self.audit)
        self.until("the API server", "kube-apiserver", lambda: self.get("/readyz"))
        chain = (self.folder / "server" / "apiserver.crt").read_text()
        # The server's own certificate comes first, then the authority's.
        authority = "-----BEGIN" + chain.split("-----BEGIN")[-1]
        (self.folder / "ca.crt").write_text(authority)
        self.write_kubeconfig(self.kubeconfig, "admin")

    def without_open_port(self):
        """Before 1.24, kube-controller-manager also listens on an insecure port by default."""
        version = subprocess.run([self.binaries / "kube-controller-manager", "--version"], check=True,
                                 capture_output=True, text=True).stdout
        minor = int(version.split(".")[1])
        return ["--port=0"] if minor < 24 else []

    def launch(self, program, *arguments):
        with open(self.folder / f"{program}.log", "wb") as log:
            self.processes[program] = subprocess.Popen(
                [self.binaries / program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd=self.folder, env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                start_new_session=True)

    def until(self, what, program, attempt):
        deadline = time.monotonic() + START_LIMIT
        while not attempt():
            if self.processes[program].poll() is not None:
                raise NotStarted(f"{program} exited:\n{self.end_of_log(program)}")
            if time.monotonic() > deadline:
                raise NotStarted(f"{what} is not ready after {START_LIMIT} s:\n{self.end_of_log(program)}")
            time.sleep(0.1)

    def end_of_log(self, program):
        return "\n".join((self.folder / f"{program}.log").read_text(errors="replace").splitlines()[-30:])

    def get(self, path):
        """Whether a GET succeeds. It does not verify the certificate, whose authority is not known
        yet."""
        anyone = ssl.create_default_context()
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}",
                                         headers={"Authorization": f"Bearer {self.tokens['admin']}"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=anyone))
        try:
            return direct.open(request, timeout=3).status == 200
        except (OSError, urllib.error.HTTPError):
            return False

    def write_kubeconfig(self, path, user):
        authority = base64.b64encode((self.folder / "ca.crt").read_bytes()).decode()
        self.private(path.name, json.dumps(kubeconfig(f"https://127.0.0.1:{self.port}", authority,
                                                      self.tokens[user])))
        return path

    def private(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)

    @contextmanager
    def frozen(self, program):
        """Stops a program with SIGSTOP: connections to it hang, as behind a broken network."""
        self.processes[program].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[program].send_signal(signal.SIGCONT)

    def stop(self):
        for program in reversed(BINARIES):
            process = self.processes.get(program)
            if process is None:
                continue
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def kubeconfig(server, authority, token):
    """A kubeconfig with a token. It is JSON, which is valid YAML."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
