"""A running Berth, and clients of its volumes: libnfs, with the server, path and options of a PV."""

import json
import os
import re
import signal
import subprocess
import urllib.parse

from kube import until
from plane import free_port

TOOL_LIMIT = 60
STOP_LIMIT = 40


class ToolFailed(Exception):
    """A program failed; the message contains its output."""


class Berth:
    """One server with its volumes. After a restart it has the same volumes and the same port."""

    def __init__(self, program, folder, options, volumes=None):
        self.program, self.process = program, None
        folder.mkdir()
        self.volumes = volumes or folder / "volumes"
        self.socket, self.log = folder / "admin.sock", folder / "log"
        self.port = free_port()
        self.options = ["--listen", f"127.0.0.1:{self.port}", "--volumes", str(self.volumes),
                        "--admin-socket", str(self.socket), "--state", str(folder / "state"), *options]

    def start(self):
        with open(self.log, "ab") as log:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("BERTH_")}
            self.process = subprocess.Popen(
                [self.program, "serve", *self.options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment | {"RUST_LOG": os.environ.get("RUST_LOG", "info,berth::provisioner=debug")},
                start_new_session=True)
        until("Berth responds on its admin socket", self.responds)
        return self

    def responds(self):
        if self.process.poll() is not None:
            raise ToolFailed(f"berth serve exited with status {self.process.returncode}")
        done = self.run("volume", "list", "-o", "json")
        return done.returncode == 0

    def run(self, *words):
        return subprocess.run([self.program, *words, "--admin-socket", str(self.socket)],
                              capture_output=True, text=True, timeout=TOOL_LIMIT, check=False)

    def volume(self, *words):
        """Runs `berth volume ...`, and returns what it prints."""
        done = self.run("volume", *words)
        if done.returncode != 0:
            raise ToolFailed(f"berth volume {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def list(self):
        """The volumes as a dictionary by name."""
        volumes = json.loads(self.volume("list", "-o", "json"))["volumes"]
        return {volume["spec"]["name"]: volume for volume in volumes}

    def directories(self):
        """The names in the directory of the volumes, without `.berth`."""
        return sorted(entry.name for entry in self.volumes.iterdir() if entry.name != ".berth")

    def kill(self):
        """Kills the server without any cleanup."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self):
        """Stops the server as Kubernetes does, with SIGTERM, and returns its exit status."""
        self.process.terminate()
        status = self.process.wait(STOP_LIMIT)
        self.process = None
        return status

    def memory(self):
        """The resident memory of the server, in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"^VmRSS:\s+(\d+) kB", status.read(), re.M)[1]) * 1024

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Mount:
    """A client of a volume that knows nothing but its PV."""

    def __init__(self, pv, uid=0):
        nfs, options = pv["spec"]["nfs"], dict(option.partition("=")[::2] for option in options_of(pv))
        wanted = {"nfsport": options["port"], "mountport": options["mountport"], "version": options["nfsvers"],
                  "uid": uid, "gid": uid}
        host = f"[{nfs['server']}]" if ":" in nfs["server"] else nfs["server"]
        self.base, self.query = f"nfs://{host}{nfs['path']}", urllib.parse.urlencode(wanted)

    def url(self, path=""):
        return f"{self.base}{'/' + path if path else ''}?{self.query}"

    def write(self, path, content):
        """Writes a new file. libnfs copies from a local file, so the content goes through a memfd."""
        local = os.memfd_create("content")
        try:
            with open(local, "wb", closefd=False) as file:
                file.write(content)
            tool(["nfs-cp", f"/proc/self/fd/{local}", self.url(path)], pass_fds=[local])
        finally:
            os.close(local)

    def read(self, path):
        return tool(["nfs-cat", self.url(path)])

    def names(self):
        """The names in the root directory, without `.` and `..`."""
        lines = tool(["nfs-ls", self.url()]).decode().splitlines()
        return sorted(name for name in (line.split()[-1] for line in lines if line) if name not in (".", ".."))

    def size(self):
        """The size of the file system in bytes, as `df` shows it."""
        summary = tool(["nfs-ls", "-s", self.url()]).decode()
        return int(re.search(r"of\s+(\d+) bytes free", summary)[1])


def options_of(pv):
    return pv["spec"].get("mountOptions") or []


def tool(command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_LIMIT,
                          check=False, **more)
    said = (done.stderr or done.stdout).decode(errors="replace").strip()
    # These tools only print some errors, and exit with status 0.
    if done.returncode != 0 or b"Failed" in done.stderr:
        raise ToolFailed(f"{' '.join(command)}: {said}")
    return done.stdout
