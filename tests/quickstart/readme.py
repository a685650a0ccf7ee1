"""The commands in the quick starts of the README, and the test that runs each of them."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent

# Prefix of a command, and the test that runs it. A command in the README that no test runs is an error.
RUN_BY = {
    "cargo run ": "tests/quickstart/run",
    "sudo mount ": "tests/quickstart/run",
    "docker build ": "tests/engine/run",
    "docker run ": "tests/engine/run",
    "docker compose ": "tests/engine/run",
    "helm ": "tests/chart/run",
    "kubectl ": "tests/chart/run",
}


def commands(test):
    """The commands that a test runs, one per line, in the order of the README."""
    readme = (PROJECT / "README.md").read_text()
    section = re.search(r"^## Quick start\n(.*?)^## ", readme, re.M | re.S)[1]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line]
    unknown = [line for line in lines if not any(line.startswith(start) for start in RUN_BY)]
    assert not unknown, f"the README has commands that no test runs: {unknown}"
    ours = tuple(start for start, runner in RUN_BY.items() if runner == test)
    return [line for line in lines if line.startswith(ours)]
