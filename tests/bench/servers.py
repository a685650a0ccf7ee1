"""The servers that are measured: prerequisites, start and stop."""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = {"ganesha.nfsd": "nfs-ganesha", "rpcbind": "rpcbind", "mkfs.ext4": "e2fsprogs"}
DISK_BYTES = 16 << 30  # sparse; two million inodes
PLUGINS = pathlib.Path("/usr/lib/x86_64-linux-gnu/ganesha")


def prerequisites():
    """Installs Ganesha if it is missing; where that is impossible, skips with the reason."""
    if os.geteuid() != 0:
        skip("NFS-Ganesha needs root")
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not (PLUGINS / "libfsalvfs.so").exists():
        missing.append("nfs-ganesha-vfs")
    if not missing:
        return
    if not shutil.which("apt-get"):
        skip(f"missing packages: {' '.join(missing)}; there is no apt-get to install them")
    for command in ["update"], ["install", "-y", "--no-install-recommends", *missing]:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        if subprocess.run(["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL).returncode != 0:
            skip(f"cannot install {' '.join(missing)}")


def skip(reason):
    print(f"comparison with NFS-Ganesha skipped: {reason}", file=sys.stderr)
    sys.exit(1 if os.environ.get("REQUIRE_E2E") == "1" else 0)


def load_program():
    return cargo("load", "bench", "--no-run", "--bench", "load")


def berth_program():
    return cargo("berth", "build", "--release", "--bin", "berth")


def cargo(name, *arguments):
    """Builds a program and returns its path."""
    command = ["cargo", *arguments, "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = map(json.loads, built.stdout.splitlines())
    return next(message["executable"] for message in messages
                if message.get("executable") and message["target"]["name"] == name)


@contextlib.contextmanager
def portmapper():
    """Runs rpcbind unless a portmapper runs already: Ganesha does not start without one."""
    if accepts(111):
        yield
        return
    os.makedirs("/run/rpcbind", exist_ok=True)
    process = subprocess.Popen(["rpcbind", "-f", "-w"])
    try:
        wait_until(lambda: accepts(111), "rpcbind does not listen", process)
        yield
    finally:
        stop(process)


class Server:
    """A context manager that runs a server on an empty file system."""

    def __init__(self, work):
        self.disk = work / "disk"
        self.data = self.disk / "data"
        self.state = work / "state"
        self.log = work / "log"
        self.export = self.data

    def __enter__(self):
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir()
        new_disk(self.disk)
        self.data.mkdir()
        self.port, self.mount_port = free_ports(2)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        try:
            wait_until(lambda: responds(self.port, 100003), f"{self.name} does not respond", self.process)
            self.prepare()
        except Exception:
            self.__exit__()
            print(self.log.read_text()[-4000:], file=sys.stderr)
            raise
        return self

    def prepare(self):
        """Called once the server responds."""

    def __exit__(self, *_):
        stop(self.process)
        remove_disk(self.disk)


class Ganesha(Server):
    name = "Ganesha"

    def command(self):
        os.makedirs("/run/ganesha", exist_ok=True)
        configuration = self.state / "ganesha.conf"
        configuration.write_text(f"""
            NFS_CORE_PARAM {{
                NFS_Protocols = 3; NFS_Port = {self.port}; MNT_Port = {self.mount_port};
                Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;
                Plugins_Dir = "{PLUGINS}";
            }}
            NFSV4 {{ Graceless = true; }}
            LOG {{ Default_Log_Level = CRIT; }}
            EXPORT {{
                Export_Id = 1; Path = "{self.data}"; Pseudo = /data; Access_Type = RW;
                Squash = No_Root_Squash; Protocols = 3; Transports = TCP; SecType = sys;
                FSAL {{ Name = VFS; }}
            }}
        """)
        return ["ganesha.nfsd", "-F", "-L", "STDERR", "-f", configuration, "-p", self.state / "pid"]

    def version(self):
        return first_line("ganesha.nfsd", "-v")


class Berth(Server):
    name = "Berth"

    def __init__(self, work, program, durability="--async"):
        super().__init__(work)
        self.program, self.durability = program, [durability] if durability else []
        self.socket = ["--admin-socket", self.state / "admin.sock"]
        self.export = "/load"

    def command(self):
        self.mount_port = self.port
        listen = f"127.0.0.1:{self.port}"
        return [self.program, "serve", "--listen", listen, "--volumes", self.data, *self.socket]

    def prepare(self):
        disk = os.statvfs(self.data)
        capacity = disk.f_bavail * disk.f_frsize // 2
        create = ["volume", "create", "load", "--capacity", str(capacity), "--inodes", "100000000",
                  *self.durability]
        subprocess.run([self.program, *create, *self.socket], check=True)

    def version(self):
        commit = first_line("git", "-C", ROOT, "describe", "--always", "--dirty")
        return f"{first_line(self.program, '--version')} ({commit})"


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def new_disk(folder):
    """Mounts a new, empty ext4 at `folder`, for one run. Runs must not share a file system: ext4 without a
    journal does not reuse freed inodes for minutes, so removals in one run would slow down creation in
    the next. Without root, it is a plain directory."""
    folder.mkdir()
    if os.geteuid() != 0:
        return
    image = folder.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    # noinit_itable: zeroing inode tables in the background would disturb the measurement.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-i", "8192", image], check=True)
    subprocess.run(["mount", "-o", "loop,noinit_itable", image, folder], check=True)


def remove_disk(folder):
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)
        folder.with_suffix(".img").unlink()
    shutil.rmtree(folder)


def free_ports(count):
    """Free ports. All are bound until the last is known, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(ready, complaint, process, limit=60):
    end = time.monotonic() + limit
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"{complaint}: it exited with status {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{complaint} within {limit} s")
        time.sleep(0.05)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except OSError:
        return False


def responds(port, program):
    """Whether a NULL call succeeds: a server may listen before it is ready."""
    call = struct.pack(">11I", 1 << 31 | 40, 1, 0, 2, program, 3, 0, 0, 0, 0, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(call)
            with connection.makefile("rb") as replies:
                return replies.read(28)[-4:] == bytes(4)
    except OSError:
        return False


def measure(load, server, *options):
    """Runs the load on a server, and returns its results for each workload."""
    result = server.state / "result.json"
    command = [
        load, "--server", f"127.0.0.1:{server.port}", "--mount-port", server.mount_port,
        "--export", server.export, "--pid", server.process.pid, "--json", result, *options,
    ]
    finished = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if finished.returncode != 0:
        print(finished.stdout, server.log.read_text()[-4000:], file=sys.stderr)
        sys.exit(f"the load on {server.name} failed")
    return json.loads(result.read_text())["workloads"]


def cpu_model():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu_model()}, {os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.platform()}"


def disk(folder):
    """The type and device of a directory's file system, which must not be tmpfs."""
    kind, device = first_line("df", "--output=fstype,source", folder, line=1).split()
    if kind == "tmpfs":
        sys.exit(f"{folder} is on tmpfs; choose a directory on a disk with --dir")
    return f"{kind} ({device})"


def first_line(*command, line=0):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (done.stdout.splitlines() or ["?"])[line]
