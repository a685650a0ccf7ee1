"""The examples in chart/examples: each is applied, with other names of classes only, because those
are cluster-wide, and its claims are bound. There are no nodes, so the pods stay Pending."""

import re
import shlex
from pathlib import Path

from kube import until
from stage import mount, same, scenario

EXAMPLES = Path(__file__).resolve().parents[3] / "chart" / "examples"

# The claims of each example.
CLAIMS = {
    "mariadb": ["data-mariadb-0"],
    "producer-consumer": ["shared"],
    "recycling": ["scratch"],
    "statefulset": ["www-web-0"],  # the others follow when the first pod runs
    "static-volume": ["library"],
}


def text_of(name, stage):
    """The text of an example, with the provisioner and classes of this scenario."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    text = re.sub(r"^provisioner: .*", f"provisioner: {stage.provisioner}", text, flags=re.M)
    return re.sub(r"\b(storageClassName|name): berth\b", rf"\1: {stage.namespace}-berth", text)


def commands(text, program):
    """The commands that run this program in the header of an example, split into words."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return [shlex.split(line.split("|")[0])[1:] for line in lines if line.startswith(f"{program} ")]


@scenario
def examples(stage):
    """The claims of every example are bound. A new example must be added to CLAIMS."""
    same("the examples", sorted(CLAIMS), sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
    berth = stage.berth()
    stage.storage_class("berth")
    stage.classes.append(f"{stage.namespace}-berth-recycled")
    for name, claims in CLAIMS.items():
        text = text_of(name, stage)
        for words in commands(text, "berth"):
            said = berth.volume(*words[1:])
            if words[1] == "pv":
                stage.kube.apply(said.replace("10.0.0.5", "127.0.0.1"))
        stage.kube.apply(text, stage.namespace)
        for claim in claims:
            pv = stage.bound(claim)
            mount(pv).write("file", name.encode())
    stage.kube.delete("persistentvolumes", "library")


@scenario
def recycling_example(stage):
    """As its header promises, the volume of a deleted claim is empty and available to the next one."""
    stage.berth()
    stage.classes.append(f"{stage.namespace}-berth-recycled")
    stage.kube.apply(text_of("recycling", stage), stage.namespace)
    pv = stage.bound("scratch")
    mount(pv).write("file", b"of the first")
    stage.delete_claim("scratch")
    pv = stage.phase(pv, "Available")
    until("it is empty", lambda: mount(pv).names() == [])
