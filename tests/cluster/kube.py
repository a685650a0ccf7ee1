"""A client of the API server for any kubeconfig: `kubectl proxy` authenticates, and this client speaks HTTP to it.

Objects are dictionaries in the form of the API. Every wait has a limit, and its error says what was seen last.
"""

import http.client
import json
import socket
import subprocess
import threading
import time

# Limit for one wait. It is generous, because the machine may be busy; a passing run returns much
# earlier.
PATIENCE = {"seconds": 90}
# Set when the run is interrupted; ends all waits.
ENDED = threading.Event()
GROUPS = {
    "storageclasses": "apis/storage.k8s.io/v1", "statefulsets": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1", "clusterroles": "apis/rbac.authorization.k8s.io/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1", "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "apis/rbac.authorization.k8s.io/v1",
}
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class Refused(Exception):
    """The API server refused a request."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Timeout(Exception):
    """A condition was not met within its limit."""


def until(what, probe, limit=None, longest_pause=0.5):
    """Waits until `probe` returns something true, and returns that. An AssertionError from `probe`
    means: not yet."""
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
            raise Timeout(f"{what}: not within {limit} s{why}")
        if ENDED.wait(pause):
            raise Timeout(f"{what}: the run was interrupted{why}")
        pause = min(pause * 1.5, longest_pause)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.place = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.place))


class Kube:
    """A client of the API server with the identity of a kubeconfig. May be used by several threads."""

    def __init__(self, kubectl, kubeconfig, folder):
        self.kubectl, self.kubeconfig, self.place = str(kubectl), str(kubeconfig), folder / "proxy.sock"
        self.connections = threading.local()
        with open(folder / "proxy.log", "wb") as log:
            self.process = subprocess.Popen(
                [self.kubectl, "--kubeconfig", self.kubeconfig, "proxy", f"--unix-socket={self.place}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until("kubectl proxy", self.place.exists)
        # Nobody can connect before this: the directory is closed to other users.
        self.place.chmod(0o600)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def request(self, method, path, body=None, kind="application/json"):
        """Returns the response, or raises Refused. Retries a GET whose connection was closed."""
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
        """Requests deletion. An object that does not exist is no error."""
        try:
            self.request("DELETE", path_of(kind, namespace, name))
        except Refused as refused:
            if refused.code != 404:
                raise

    def apply(self, yaml, namespace=None):
        """Passes YAML to `kubectl apply`, as a person would."""
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
