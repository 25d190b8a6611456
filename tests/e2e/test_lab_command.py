"""`steer lab`: whatever state a lab is in, `down` leaves nothing of it, and the next one can be raised."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroups, segment
from tests.e2e.raised import STEER, Lab, eventually, own_topology, pod

BALANCER = "lab.balancer"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Lab]:
    """A lab of one and one that is not up, on ports of its own."""
    found = Lab(own_topology("s", 1, 1), tmp_path / "config.yaml")
    found.down()
    yield found
    found.down()


def pids_of(lab: Lab) -> list[int]:
    return cgroups.processes(lab.topology.cgroup)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def assert_nothing_left(lab: Lab, pids: dict[int, str]) -> None:
    t = lab.topology
    assert segment.namespaces(t.name) == []
    assert not t.directory.exists()
    assert [pid for pid, line in pids.items() if line and command_line(pid) == line] == []
    groups = list(Path("/sys/fs/cgroup").glob(f"*/steersman/{t.name}"))
    assert [*groups, *Path("/sys/fs/cgroup").glob(f"steersman/{t.name}")] == []
    assert f"/{t.name}/" not in Path("/proc/self/mountinfo").read_text()
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"p-(node|control|registry)", links)
    assert t.name not in (lab.config.read_text() if lab.config.exists() else "")


def test_down_clears_up_a_lab_that_was_half_raised(small: Lab) -> None:
    t = small.topology
    where = ("--grpc-port", str(t.grpc_port), "--rest-port", str(t.rest_port))
    command = [STEER, "lab", "up", "--name", t.name, "--control", "1", "--nodes", "1", *where]
    for hosts_up in (0, 2):
        with subprocess.Popen(command, env=small.environment, stderr=subprocess.DEVNULL) as raising:
            eventually(
                lambda count=hosts_up: len(segment.namespaces(t.name)) > count, "it is being raised", 20, every=0.01
            )
            raising.send_signal(signal.SIGKILL)
        pids = {pid: command_line(pid) for pid in pids_of(small)}
        again = small.run("lab", "up", "--name", t.name, "--control", "1", "--nodes", "1", *where)
        assert again.returncode == 1
        assert f"steer lab down --name {t.name}" in again.stderr
        assert "down" in small.down()
        assert_nothing_left(small, pids)


def test_down_ends_everything_of_a_lab_in_use(small: Lab) -> None:
    small.up()
    assert small.topology.name in small.steer("lab", "list")
    small.apply(pod("busy"))
    small.wait_ready("default", "busy")
    small.on("node-1", "test $(hostname) = node-1")
    assert small.steer("lab", "exec", "--name", small.topology.name, "node-1", "--", "hostname") == "node-1\n"
    pids = {pid: command_line(pid) for pid in pids_of(small)}
    balancers = [pid for pid, line in pids.items() if BALANCER in line]
    assert len(balancers) == 1
    os.kill(balancers[0], signal.SIGKILL)
    status = small.run("lab", "status", "--name", small.topology.name)
    assert status.returncode == 1
    assert "control-1" in status.stdout
    assert "the API does not answer" in status.stderr
    assert small.down() == f"lab/{small.topology.name} down\n"
    assert_nothing_left(small, pids)
    assert small.down() == f"lab/{small.topology.name} was not up\n"


def test_misuse_is_told_in_a_sentence(small: Lab) -> None:
    for arguments, words in (
        (("lab", "up", "--name", "Bad_Name"), "lower-case"),
        (("lab", "up", "--name", small.topology.name, "--control", "2"), "odd"),
        (("lab", "kill", "--name", small.topology.name, "node-1"), f"no lab {small.topology.name!r} is up"),
    ):
        done = small.run(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
