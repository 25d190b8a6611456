"""Hosts that live and die, wires that are cut, a registry that serves what was pushed, a balancer that finds who is there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import cgroups, hosts, images, library, segment
from lab.topology import REGISTRY_ADDRESS, REGISTRY_PORT, LabError

REGISTRY_URL = f"http://{REGISTRY_ADDRESS}:{REGISTRY_PORT}/v2/"
POLL_S = 0.02

# hosts outlive who started them: nobody holds on to their process objects
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def until(condition: Callable[[], Any], what: str, within: float = 15.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(POLL_S)
    return found


def runs(pid: int) -> bool:
    """Whether a process is there and no mere entry that its parent, this test, has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(parts: Any, namespace: str = "", url: str = REGISTRY_URL) -> bool:
    """Whether the registry answers a host of the segment within a second."""
    inside = namespace or parts.topology.namespace(parts.node)
    argv = ["ip", "netns", "exec", inside, "curl", "-s", "-m", "1", "-o", "/dev/null", url]
    return subprocess.run(argv, check=False).returncode == 0


def test_a_host_is_a_machine_of_its_own_and_restarts_what_ends(parts: Any) -> None:
    t, host = parts.topology, parts.registry
    until(lambda: answers(parts), "the registry answers")
    told = subprocess.run(
        hosts.enter_argv(t, host, ["sh", "-c", "hostname; ls /run; cat /etc/hosts; ls /proc | grep -c '^[0-9]'"]),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert told.startswith("registry\nlab\n")
    assert "172.29.0.101 node-1" in told
    assert int(told.split()[-1]) < 10, "it sees its own processes only"
    before = hosts.services(t, host)["registry"]
    os.kill(before, signal.SIGKILL)
    until(lambda: hosts.services(t, host).get("registry", before) != before, "the registry was started again")
    until(lambda: answers(parts), "it answers again")
    assert "signal SIGKILL" in (t.host_directory(host) / "log" / "registry.log").read_text()


def test_a_killed_host_keeps_its_disk_and_nothing_else(parts: Any) -> None:
    t, host = parts.topology, parts.registry
    until(lambda: answers(parts), "the registry answers")
    image = images.build([[images.File("/hello", b"hello")]], command=("/hello",))
    library.in_thread(lambda: library.push_all(t, [("greetings/hello", "v1", image)])).result(30)
    manifest = REGISTRY_URL + "greetings/hello/manifests/v1"
    pids = cgroups.processes(f"{t.cgroup}/{host.name}")
    hosts.kill(t, host)
    assert hosts.state(t, host) == "off"
    assert not any(map(runs, pids))
    with pytest.raises(LabError, match="off already"):
        hosts.kill(t, host)
    hosts.boot(t, host, {})
    with pytest.raises(LabError, match="running already"):
        hosts.boot(t, host, {})
    until(lambda: answers(parts), "the registry answers again")
    argv = ["ip", "netns", "exec", t.switch, "curl", "-s", "-H", f"Accept: {images.MANIFEST_TYPE}", manifest]
    assert subprocess.run(argv, check=True, capture_output=True).stdout == image.manifest.data


def test_a_paused_host_stands_still_with_its_connections_open(parts: Any) -> None:
    t, host = parts.topology, parts.registry
    until(lambda: answers(parts), "the registry answers")
    hosts.pause(t, host, paused=True)
    assert hosts.state(t, host) == "paused"
    assert not answers(parts)
    hosts.pause(t, host, paused=False)
    assert hosts.state(t, host) == "running"
    assert answers(parts)
    hosts.pause(t, host, paused=True)
    hosts.kill(t, host)  # a frozen one dies as well
    assert hosts.state(t, host) == "off"


@pytest.mark.parametrize(("receiver", "sender"), [("registry", "node-1"), ("node-1", "registry")])
def test_a_cut_loses_packets_one_way_until_it_is_healed(parts: Any, receiver: str, sender: str) -> None:
    t = parts.topology
    until(lambda: answers(parts), "the registry answers")
    segment.cut(t, receiver, sender)
    assert not answers(parts)
    assert answers(parts, t.switch), "others are not cut off"
    segment.cut(t, "registry", "api")
    assert not answers(parts, t.switch)
    assert segment.heal(t) == len({receiver, "registry"})
    assert answers(parts)
    assert answers(parts, t.switch)
    assert segment.heal(t) == 0


@pytest.fixture
def balancer_port(parts: Any, unused_port: int) -> Iterator[int]:
    """A balancer whose first member is nowhere and whose second is the registry."""
    route = f"{unused_port}=172.29.0.200:1,{REGISTRY_ADDRESS}:{REGISTRY_PORT}"
    with subprocess.Popen([sys.executable, "-m", "lab.balancer", parts.topology.switch, route]) as process:
        yield unused_port
        process.kill()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_balancer_passes_over_members_that_are_not_there(parts: Any, balancer_port: int) -> None:
    until(lambda: answers(parts), "the registry answers")
    address = ("127.0.0.1", balancer_port)

    def asked() -> bytes:
        try:
            with socket.create_connection(address, timeout=5) as sock:
                sock.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
                sock.shutdown(socket.SHUT_WR)  # half a connection is carried too
                received = b""
                while data := sock.recv(4096):
                    received += data
                return received
        except OSError:
            return b""

    until(asked, "the balancer listens")
    assert all(asked().startswith(b"HTTP/1.0 200 OK") for _ in range(4))
    hosts.kill(parts.topology, parts.registry)
    assert asked() == b"", "with nobody there the connection is closed, not left hanging"
