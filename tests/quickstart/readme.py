"""The commands of the README's quick starts, and who plays them."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent

# How a command begins, and who plays it: a command that the README gets and nobody plays is an error.
PLAYED = {
    "cargo run ": "tests/quickstart/run",
    "sudo mount ": "tests/quickstart/run",
    "docker build ": "tests/engine/run",
    "docker run ": "tests/engine/run",
    "docker compose ": "tests/engine/run",
    "helm ": "tests/chart/run",
    "kubectl ": "tests/chart/run",
}


def commands(player):
    """The commands that are played by this one, each a line, in their order."""
    readme = (PROJECT / "README.md").read_text()
    section = re.search(r"^## Quick start\n(.*?)^## ", readme, re.M | re.S)[1]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line]
    unknown = [line for line in lines if not any(line.startswith(start) for start in PLAYED)]
    assert not unknown, f"the README has commands that nobody plays: {unknown}"
    ours = tuple(start for start, who in PLAYED.items() if who == player)
    return [line for line in lines if line.startswith(ours)]
