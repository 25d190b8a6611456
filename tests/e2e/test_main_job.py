"""What a person does with the guestbook: apply, look, use, scale, update, go back, delete."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from steersman.types import Service
from tests.e2e.raised import FRONTEND, STEER, Lab, eventually, pod, visitor

GUESTBOOK = "examples/guestbook/"
FRONTENDS = "tier=frontend"


@pytest.fixture(scope="module")
def guestbook(lab: Lab) -> Iterator[dict[str, object]]:
    """The guestbook as `steer apply` leaves it; yields what the nodes had before it."""
    before = lab.footprint()
    said = lab.steer("apply", "-f", GUESTBOOK)
    assert "deployment.apps/frontend created" in said
    assert "service/store created" in said
    for name in ("store", "frontend"):
        assert "successfully rolled out" in lab.steer(
            "rollout", "status", f"deploy/{name}", "--timeout", "90", timeout=100
        )
    yield before
    lab.run("delete", "pod", "guest", "talker", "visitor", "--ignore-not-found", "--force", "--grace-period=0")
    lab.run("delete", "-f", GUESTBOOK, "--ignore-not-found", "--timeout", "60", timeout=90)


def cluster_ip(lab: Lab, name: str) -> str:
    return lab.client.get(Service, name).spec.cluster_ip


def test_applied_pods_run_spread_over_the_nodes(lab: Lab, guestbook: object) -> None:
    table = lab.steer("get", "pods", "-o", "wide", "-l", FRONTENDS).splitlines()
    assert table[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    rows = [line.split() for line in table[1:]]
    assert [(row[1], row[2]) for row in rows] == [("1/1", "Running")] * 3
    assert {row[6] for row in rows} == set(lab.nodes)
    assert len({row[5] for row in rows}) == 3
    assert "unchanged" in lab.steer("apply", "-f", GUESTBOOK)


def test_entries_are_posted_through_the_service_from_nodes_and_pods(lab: Lab, guestbook: object) -> None:
    for node in lab.nodes:
        page = lab.on(node, f"curl -sS -m 5 'http://{cluster_ip(lab, 'frontend')}/?entry=from+{node}'")
        assert page.startswith("Welcome to the guestbook, says frontend-")
        assert f"* from {node}" in page
    lab.apply(pod("guest"))
    lab.wait_ready("default", "guest")
    for name in ("frontend", "frontend.default.svc.cluster.local"):
        page = lab.in_pod("default", "guest", f"timeout 5 wget -q -O - 'http://{name}/?entry=to+{name}'")
        assert f"* to {name}" in page
        assert "* from node-1" in page
    lab.client.delete("pods", "guest", "default", grace=0)


def test_logs_follow_and_name_pods(lab: Lab, guestbook: object) -> None:
    assert re.match(r"guestbook frontend v1 on frontend-\S+, port 8080", lab.steer("logs", "deploy/frontend"))
    everything = lab.steer("logs", "-l", FRONTENDS, "--prefix", "--tail", "1")
    assert len(set(re.findall(r"\[pod/(frontend-\S+)/frontend\]", everything))) == 3
    lab.apply(pod("talker", "echo first; mkfifo /tmp/go; cat /tmp/go; sleep 3600"))
    lab.wait_ready("default", "talker")
    with subprocess.Popen(
        [STEER, "logs", "-f", "talker"], stdout=subprocess.PIPE, text=True, env=lab.environment
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        lab.in_pod("default", "talker", "while [ ! -p /tmp/go ]; do sleep 0.05; done; echo second > /tmp/go")
        assert follower.stdout.readline() == "second\n"
        follower.kill()
    lab.client.delete("pods", "talker", "default", grace=0)


def test_exec_carries_streams_and_exit_codes(lab: Lab, guestbook: object) -> None:
    name = lab.steer("exec", "deploy/frontend", "--", "hostname").strip()
    assert name in {found.name for found in lab.pods("default", FRONTENDS)}
    ended = lab.run("exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (ended.returncode, ended.stdout, ended.stderr) == (42, "out\n", "err\n")
    megabyte = bytes(range(256)) * 4096
    ended = lab.run("exec", "-i", name, "--", "sha256sum", stdin=megabyte)
    assert ended.stdout.split()[0] == hashlib.sha256(megabyte).hexdigest()
    ended = lab.run("exec", name, "--", "no-such-program")
    assert ended.returncode != 0
    assert "no-such-program" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_exec_with_a_terminal_is_a_terminal(lab: Lab, guestbook: object) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    command = [STEER, "exec", "-it", "deploy/frontend", "--", "sh"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=lab.environment, start_new_session=True
    ) as shell:
        os.close(theirs)

        def read_until(mark: bytes) -> bytes:
            seen = b""
            deadline = time.monotonic() + 20
            while mark not in seen and time.monotonic() < deadline:
                if select.select([ours], [], [], 0.2)[0]:
                    try:
                        seen += os.read(ours, 4096)
                    except OSError:  # the far end closed the terminal
                        break
            return seen

        assert b"# " in read_until(b"# ")
        os.write(ours, b"tty; stty size\r")
        seen = read_until(b"33 99")
        assert b"/dev/pts/" in seen
        assert b"33 99" in seen, seen
        os.write(ours, b"exit 7\r")
        assert shell.wait(20) == 7, seen
    os.close(ours)


def test_describe_tells_the_pods_story(lab: Lab, guestbook: object) -> None:
    (first, *_) = lab.pods("default", FRONTENDS)
    told = lab.steer("describe", "pod", first.name)
    loose = re.sub(r"\s+", " ", told)
    for words in (
        f"Node: {first.spec.node_name}",
        f"{FRONTEND}:v1",
        "Controlled By: ReplicaSet/frontend-",
        "Scheduled",
        "Started",
    ):
        assert words in loose, f"{words!r} is missing in:\n{told}"
    told = re.sub(r"\s+", " ", lab.steer("describe", "deploy/frontend"))
    assert "3 desired | 3 updated | 3 total | 3 available | 0 unavailable" in told
    assert first.name in lab.steer("describe", "node", first.spec.node_name)


def test_scale_to_ten_and_back(lab: Lab, guestbook: object) -> None:
    lab.steer("scale", "deploy/frontend", "--replicas", "10")
    lab.steer("rollout", "status", "deploy/frontend", "--timeout", "60", timeout=70)
    pods = lab.wait_count("default", FRONTENDS, 10)
    spread = [sum(found.spec.node_name == node for found in pods) for node in lab.nodes]
    assert max(spread) - min(spread) <= 1, spread
    slices = lab.client.list("endpointslices", "default", labels="kubernetes.io/service-name=frontend").items
    addresses = {address for slice_ in slices for endpoint in slice_["endpoints"] for address in endpoint["addresses"]}
    assert addresses == {found.status.pod_ip for found in pods}
    lab.steer("scale", "deploy/frontend", "--replicas", "3")
    lab.wait_count("default", FRONTENDS, 3)


def test_rolling_update_loses_no_request_and_can_be_undone(lab: Lab, guestbook: object) -> None:
    lab.apply(pod("visitor", visitor("http://frontend/", timeout_s=5)))
    lab.wait_ready("default", "visitor")
    eventually(lambda: len(lab.log("default", "visitor")) > 5, "the visitor asks")

    def update_to(version: str, *command: str) -> None:
        lab.steer(*command)
        lab.steer("rollout", "status", "deploy/frontend", "--timeout", "60", timeout=70)
        pods = lab.wait_count("default", FRONTENDS, 3)
        assert {found.spec.containers[0].image for found in pods} == {f"{FRONTEND}:{version}"}
        eventually(
            lambda: all(f"({version})" in line for line in lab.log("default", "visitor")[-5:]), f"{version} answers"
        )

    update_to("v2", "set", "image", "deploy/frontend", f"frontend={FRONTEND}:v2")
    history = lab.steer("rollout", "history", "deploy/frontend")
    assert re.search(r"^1\s", history, re.MULTILINE), history
    assert re.search(r"^2\s", history, re.MULTILINE), history
    update_to("v1", "rollout", "undo", "deploy/frontend")
    assert re.search(r"^3\s", lab.steer("rollout", "history", "deploy/frontend"), re.MULTILINE)
    asked = lab.log("default", "visitor")
    failed = [line for line in asked if not line.startswith("ok ")]
    assert not failed, f"{len(failed)} of {len(asked)} requests failed: {failed[:5]}"
    assert len(asked) > 30
    lab.client.delete("pods", "visitor", "default", grace=0)


def test_delete_leaves_nothing_behind(lab: Lab, guestbook: dict[str, object]) -> None:
    freed = cluster_ip(lab, "frontend")
    lab.run("delete", "pod", "guest", "talker", "visitor", "--ignore-not-found", "--force", "--grace-period=0")
    lab.steer("delete", "-f", GUESTBOOK, "--timeout", "60", timeout=90)
    eventually(lambda: not lab.pods("default"), "no pod is left", 60)
    assert lab.client.list("replicasets", "default").items == ()
    assert [
        s
        for s in lab.client.list("endpointslices", "default").items
        if s["metadata"]["name"].startswith(("frontend", "store"))
    ] == []

    def as_before() -> bool:
        now = lab.footprint()
        left = {
            node: {
                what: sorted(set(now[node][what]) - set(before[what]))
                for what in ("containers", "links", "nft elements", "routes")
            }
            for node, before in guestbook.items()
        }
        assert not any(any(things.values()) for things in left.values()), left
        return all(now[node]["nft chains"] <= before["nft chains"] for node, before in guestbook.items())

    eventually(as_before, "containers, links, routes and nft elements are gone", 30, every=0.5)
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "again"},
            "spec": {"clusterIP": freed, "ports": [{"port": 80}]},
        }
    )
    lab.steer("delete", "service", "again")
