"""Runs Berth in place of a pod: with the pod's options, user and capabilities, on a disk prepared as by the kubelet."""

import os
import shlex
import shutil
import urllib.request

from berth import Berth
from kube import until
from plane import free_port


class InPlaceOfPod(Berth):
    """Berth as a pod would run it, on the given directory of volumes."""

    def __init__(self, program, folder, pod, volumes, login):
        super().__init__(program, folder, [], volumes)
        [self.container] = pod["containers"]
        self.context, self.folder, self.admin = pod["securityContext"], folder, free_port()
        place = {"--volumes=/data": f"--volumes={self.volumes}",
                 "--listen=0.0.0.0:2049": f"--listen=127.0.0.1:{self.port}",
                 "--admin=0.0.0.0:8080": f"--admin=127.0.0.1:{self.admin}"}
        command, *options = self.container["args"]
        assert command == "serve" and set(place) <= set(options), (
            f"expected serve with {list(place)}, found {command} {options}")
        self.options = [place.get(option, option) for option in options] + [
            f"--admin-socket={self.socket}", f"--kubeconfig={login}"]
        if os.geteuid() == 0:
            self.prepare_disk()
            shutil.chown(folder, self.context["runAsUser"])
            shutil.chown(login, self.context["runAsUser"])
            self.program = self.confined()
        else:
            print("not tried: the chart's user and capabilities: this needs root")

    def prepare_disk(self):
        """Creates the disk, owned by root and, if there is an fsGroup, by that group."""
        self.volumes.mkdir(exist_ok=True)
        group = self.context.get("fsGroup")
        if group is not None:
            shutil.chown(self.volumes, group=group)
            self.volumes.chmod(0o2775)

    def confined(self):
        """Returns a script that runs the program as the container's user with the container's capabilities."""
        # A copy, because the container's user may be unable to reach the build directory.
        program = shutil.copy(self.program, self.folder / "program")
        capabilities = self.container["securityContext"]["capabilities"]
        assert capabilities["drop"] == ["ALL"], capabilities
        kept = "".join(f",+{name.lower()}" for name in capabilities.get("add", []))
        user, group = self.context["runAsUser"], self.context["runAsGroup"]
        groups = {group, self.context.get("fsGroup", group)}
        words = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={','.join(map(str, groups))}",
                 "--inh-caps=-all", f"--bounding-set=-all{kept}", "--no-new-privs", program]
        script = self.folder / "confined"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        script.chmod(0o755)
        return str(script)

    def owner(self, caller):
        """The expected owner of a caller's files: the caller, or the server's user if that is not root."""
        user = self.context["runAsUser"] if os.geteuid() == 0 else os.geteuid()
        return caller if user == 0 else user

    def owner_of(self, pv, name):
        return (self.volumes / pv["metadata"]["annotations"]["berth.io/volume"] / name).stat().st_uid

    def healthy(self):
        """Waits until all probes of the chart succeed."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for name in ["startupProbe", "livenessProbe", "readinessProbe"]:
            path = self.container[name]["httpGet"]["path"]

            def probe(path=path):
                try:
                    return direct.open(f"http://127.0.0.1:{self.admin}{path}", timeout=10).status == 200
                except OSError as error:
                    raise AssertionError(str(error)) from error
            until(f"{name} ({path})", probe)
