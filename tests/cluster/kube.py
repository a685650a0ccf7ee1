"""A client of the API server, for any kubeconfig: `kubectl proxy` logs in, and this speaks plain HTTP to it.

Objects are dictionaries, as the API has them. Waiting always has an end, and says what it saw last.
"""

import http.client
import json
import socket
import subprocess
import threading
import time

# How long is waited for one thing. Long, because the machine may be busy; a run that passes waits for nothing.
PATIENCE = {"seconds": 90}
# Nothing is waited for any more: somebody wants the run to end.
ENDED = threading.Event()
GROUPS = {
    "storageclasses": "apis/storage.k8s.io/v1", "statefulsets": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1", "clusterroles": "apis/rbac.authorization.k8s.io/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1", "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "apis/rbac.authorization.k8s.io/v1",
}
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class Refused(Exception):
    """The API server said no."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Never(Exception):
    """What was waited for did not come."""


def until(what, probe, limit=None, longest_pause=0.5):
    """Waits until `probe` answers something true, which is returned. An AssertionError of it means: not yet."""
    limit = limit or PATIENCE["seconds"]
    deadline, pause = time.monotonic() + limit, 0.02
    while True:
        try:
            found, why = probe(), ""
        except AssertionError as error:
            found, why = None, f"; {error}"
        if found:
            return found
        if time.monotonic() > deadline:
            raise Never(f"{what}: not within {limit} s{why}")
        if ENDED.wait(pause):
            raise Never(f"{what}: the run was ended{why}")
        pause = min(pause * 1.5, longest_pause)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.place = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.place))


class Kube:
    """Asks the API server, as whoever the kubeconfig says. May be used by several threads."""

    def __init__(self, kubectl, kubeconfig, folder):
        self.kubectl, self.kubeconfig, self.place = str(kubectl), str(kubeconfig), folder / "proxy.sock"
        self.connections = threading.local()
        with open(folder / "proxy.log", "wb") as log:
            self.process = subprocess.Popen(
                [self.kubectl, "--kubeconfig", self.kubeconfig, "proxy", f"--unix-socket={self.place}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until("kubectl proxy", self.place.exists)
        # The socket is in a folder that nobody else enters.
        self.place.chmod(0o600)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def request(self, method, path, body=None, kind="application/json"):
        """The answer, or Refused. GET is tried again when the connection was closed in between."""
        text = None if body is None else json.dumps(body)
        for attempt in range(3):
            connection = getattr(self.connections, "one", None) or UnixConnection(self.place)
            self.connections.one = connection
            try:
                connection.request(method, "/" + path, text, {"Content-Type": kind})
                answer = connection.getresponse()
                content = answer.read()
                break
            except (http.client.HTTPException, OSError):
                connection.close()
                self.connections.one = None
                if attempt == 2 or method != "GET":
                    raise
        if answer.status >= 300:
            raise Refused(answer.status, message_of(content))
        return json.loads(content)

    def get(self, kind, name, namespace=None):
        """The object, or None."""
        try:
            return self.request("GET", path_of(kind, namespace, name))
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    def list(self, kind, namespace=None):
        return self.request("GET", path_of(kind, namespace)).get("items") or []

    def create(self, kind, body, namespace=None):
        return self.request("POST", path_of(kind, namespace), body)

    def patch(self, kind, name, change, namespace=None, how=MERGE):
        return self.request("PATCH", path_of(kind, namespace, name), change, how)

    def delete(self, kind, name, namespace=None):
        """Asks for its end; that it is gone already is as good."""
        try:
            self.request("DELETE", path_of(kind, namespace, name))
        except Refused as refused:
            if refused.code != 404:
                raise

    def apply(self, yaml, namespace=None):
        """Gives YAML to kubectl, which is how people do it."""
        place = ["-n", namespace] if namespace else []
        done = subprocess.run([self.kubectl, "--kubeconfig", self.kubeconfig, *place, "apply", "-f", "-"],
                              input=yaml, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(400, done.stderr.strip())


def path_of(kind, namespace=None, name=None):
    parts = [GROUPS.get(kind, "api/v1")]
    if namespace:
        parts += ["namespaces", namespace]
    return "/".join(parts + [kind] + ([name] if name else []))


def message_of(content):
    try:
        return json.loads(content).get("message", "")
    except ValueError:
        return content.decode(errors="replace")[:500]
