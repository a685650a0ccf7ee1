"""Renders the chart with `helm template`, without a cluster."""

import os
import subprocess

from tools import PROJECT

CHART = PROJECT / "chart"
# Sets of values by name; each has a rendering in tests/golden/chart.
SETS = {"default": None} | {path.stem: path for path in sorted((PROJECT / "tests/chart/values").glob("*.yaml"))}
RELEASE, NAMESPACE = "berth", "storage"


class Refused(Exception):
    """Helm failed; the message is its output."""


class Chart:
    """Renders the chart with the program `helm`, which keeps its own files in `folder`."""

    def __init__(self, helm, folder, place=CHART):
        self.program, self.place = str(helm), str(place)
        homes = {f"HELM_{what}_HOME": str(folder / what.lower()) for what in ["CACHE", "CONFIG", "DATA"]}
        # An empty configuration, so that Helm cannot reach a cluster of the user.
        self.environment = os.environ | homes | {"KUBECONFIG": os.devnull}

    def helm(self, *arguments, stdin=None):
        done = subprocess.run([self.program, *map(str, arguments)], env=self.environment, input=stdin,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused((done.stderr + done.stdout).strip())
        return done.stdout

    def text(self, values=None, namespace=NAMESPACE, release=RELEASE):
        """The manifests as text. `values` is a Path to a file, YAML as a str, or None."""
        is_text = isinstance(values, str)
        more = [] if values is None else ["--values", "-" if is_text else values]
        return self.helm("template", release, self.place, "--namespace", namespace, *more,
                         stdin=values if is_text else None)

    def objects(self, *arguments, **more):
        return parse(self.text(*arguments, **more))


def parse(text):
    import yaml  # importable only after tools.python_packages()
    return [thing for thing in yaml.safe_load_all(text) if thing]


def container(objects):
    """The only container of the StatefulSet."""
    [one] = [thing for thing in objects if thing["kind"] == "StatefulSet"]
    [only] = one["spec"]["template"]["spec"]["containers"]
    return only
