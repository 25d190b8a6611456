"""The examples of the SDK's README: each is at most ten lines of work and runs as it stands against the lab."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.raised import ROOT, Lab, deployment

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "sdk" / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SAYS = (
    ("client.apply(open", r"(web-\S+ Running node-\d 10\.244\.\d+\.\d+\n){2}"),
    ("client.patch(", r"Conflict\n"),
    ("client.history(", r"\d+ 20\S+Z user:admin \[.*\]\n(.*\n)*at first: \d+ replicas\n"),
    ("client.logs(", r"guestbook frontend v1 on web-"),
    ("client.list(Node)", r"(node-\d Ready\n){3}"),
    ("client.watch(", r"ADDED tune at \d+\n"),
    ("Cache(client", r"\d+ pods, on node-1: \["),
)


@pytest.fixture(scope="module")
def folder(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the examples run: with the manifest that they speak of."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "web.yaml").write_text(yaml.safe_dump(deployment("web", 2)))
    yield directory
    lab.run("delete", "deploy/web", "configmap/tune", "--ignore-not-found", "--no-wait")


def test_every_example_is_tested_and_short() -> None:
    assert len(EXAMPLES) == len(SAYS)
    for example, (mark, _) in zip(EXAMPLES, SAYS, strict=True):
        assert mark in example
        work = [
            line
            for line in example.splitlines()
            if line.strip() and not re.match(r"from |import |asyncio\.run|async def", line)
        ]
        assert len(work) <= 10


@pytest.mark.parametrize("number", range(len(SAYS)), ids=[mark.strip("(") for mark, _ in SAYS])
def test_example_runs(lab: Lab, folder: Path, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        capture_output=True,
        text=True,
        env=lab.environment,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[number][1], done.stdout), done.stdout
