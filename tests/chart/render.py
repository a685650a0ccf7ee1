"""The chart, rendered: its manifests for a set of values, as Helm has them without a cluster."""

import os
import subprocess

from tools import PROJECT

CHART = PROJECT / "chart"
# Each has a rendering in tests/golden/chart.
SETS = {"default": None} | {path.stem: path for path in sorted((PROJECT / "tests/chart/values").glob("*.yaml"))}
RELEASE, NAMESPACE = "berth", "storage"


class Refused(Exception):
    """Helm said no; the message is what it said."""


class Chart:
    """Renders with this Helm, which keeps its own files in `folder`."""

    def __init__(self, helm, folder, place=CHART):
        self.program, self.place = str(helm), str(place)
        homes = {f"HELM_{what}_HOME": str(folder / what.lower()) for what in ["CACHE", "CONFIG", "DATA"]}
        # No cluster that happens to be at hand.
        self.environment = os.environ | homes | {"KUBECONFIG": os.devnull}

    def helm(self, *arguments, stdin=None):
        done = subprocess.run([self.program, *map(str, arguments)], env=self.environment, input=stdin,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused((done.stderr + done.stdout).strip())
        return done.stdout

    def text(self, values=None, namespace=NAMESPACE, release=RELEASE):
        """The manifests. `values` is a file, or YAML."""
        is_text = isinstance(values, str)
        more = [] if values is None else ["--values", "-" if is_text else values]
        return self.helm("template", release, self.place, "--namespace", namespace, *more,
                         stdin=values if is_text else None)

    def objects(self, *arguments, **more):
        return parse(self.text(*arguments, **more))


def parse(text):
    import yaml  # which is there once the tools have been fetched
    return [thing for thing in yaml.safe_load_all(text) if thing]


def container(objects):
    """The one container of the StatefulSet."""
    [one] = [thing for thing in objects if thing["kind"] == "StatefulSet"]
    [only] = one["spec"]["template"]["spec"]["containers"]
    return only
