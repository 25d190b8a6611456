"""What breaks and what must hold then: no acknowledged write lost, no pod twice, no container restarted without need."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from steersman import ApiError, Client
from steersman.types import Node, Pod
from tests.e2e.raised import Lab, deployment, eventually, pod, service, uptime, visitor

NODE_LOSS_S = 20.0  # node killed to pods Ready elsewhere, by default settings
MARGIN_S = 5.0  # for a machine that does other things too
MEMBER_READ = """
import json, sys
from steersman import Client
with Client.connect(sys.argv[1]) as client:
    found = client.list("configmaps", sys.argv[2], stale_ok=True)
    print(json.dumps({d["metadata"]["name"]: d["data"]["n"] for d in found.items if "n" in d.get("data", {})}))
"""


@pytest.fixture(autouse=True)
def well(lab: Lab) -> Iterator[None]:
    """Each fault hits a cluster that is well, and what it broke is mended for the next."""
    lab.settle()
    yield
    lab.command("heal")
    for host in lab.topology.hosts:
        if not lab.processes(host.name):
            lab.command("start", host.name)
    lab.settle(90)


class Writer:
    """Creates numbered ConfigMaps as fast as they are acknowledged; knows which were."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.namespace = namespace
        self.acknowledged: list[int] = []
        self.longest_gap = 0.0
        self._client = Client.connect(lab.topology.name, path=lab.config)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number, last = 0, time.monotonic()
        while not self._stop.is_set():
            document = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"w-{number}"},
                "data": {"n": str(number)},
            }
            try:
                self._client.create(document, namespace=self.namespace, timeout=2.0)
            except ApiError as error:
                if error.reason != "AlreadyExists":  # one whose answer was lost is there all the same
                    continue
            now = time.monotonic()
            self.longest_gap, last = max(self.longest_gap, now - last), now
            self.acknowledged.append(number)
            number += 1

    def more(self, count: int, within: float = 20.0) -> None:
        """Wait for further acknowledged writes."""
        wanted = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= wanted, f"{count} more writes acknowledged", within)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self._client.close()

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        self._thread.start()
        try:
            yield self
        finally:
            self.stop()


def assert_on_every_member(lab: Lab, namespace: str, acknowledged: list[int], tmp_path: Path) -> None:
    config = lab.member_config(tmp_path)
    for member in lab.members:

        def all_there(member: str = member) -> bool:
            done = lab.from_switch(sys.executable, "-c", MEMBER_READ, member, namespace, config=config)
            assert done.returncode == 0, done.stderr
            held = json.loads(done.stdout)
            lost = [number for number in acknowledged if held.get(f"w-{number}") != str(number)]
            assert not lost, f"{member} lacks {len(lost)} of {len(acknowledged)} acknowledged writes: {lost[:10]}"
            return True

        eventually(all_there, f"every acknowledged write is on {member}", 30, every=0.5)


def test_killing_agents_and_containerd_restarts_no_container(lab: Lab, namespace: str) -> None:
    lab.apply(deployment("steady", 6), service("steady"), pod("asker"), namespace=namespace)
    pods = [*lab.wait_count(namespace, "app=steady", 6), *lab.wait_ready(namespace, "asker")]
    before = lab.incarnations(pods)
    running = {node: lab.running(node) for node in lab.nodes}
    request = "timeout 5 wget -q -O - http://steady/ | head -n 1"
    for process in ("node", "containerd", "node"):
        for node in lab.nodes:
            lab.kill_process(node, process)
        eventually(lambda: "says" in lab.in_pod(namespace, "asker", request), "the Service answers", 20)
        for node in lab.nodes:  # each agent is at work again: it starts a pod and takes it away
            name = f"probe-{node}"
            lab.apply(pod(name, node=node), namespace=namespace)
            lab.wait_ready(namespace, name, within=30)
            lab.client.delete("pods", name, namespace, grace=0)
    assert lab.incarnations(pods) == before
    eventually(lambda: {node: lab.running(node) for node in lab.nodes} == running, "the same containers run", 20)


def test_a_killed_shim_costs_one_restart_and_leaves_no_second_instance(lab: Lab, namespace: str) -> None:
    lab.apply(deployment("victim", 1, "while :; do sleep 1; done # victim-loop"), namespace=namespace)
    (victim,) = lab.wait_count(namespace, "app=victim", 1)
    (before,) = lab.incarnations([victim]).values()
    node, container_id = victim.spec.node_name, before.container_id.rpartition("/")[2]
    shims = [pid for pid, line in lab.processes(node).items() if "containerd-shim" in line and container_id in line]
    if not shims:
        shims = [pid for pid, line in lab.processes(node).items() if "containerd-shim" in line]
    os.kill(shims[0], signal.SIGKILL)

    def back() -> bool:
        pods = lab.ready_pods(namespace, "app=victim")
        return len(pods) == 1 and next(iter(lab.incarnations(pods).values())) != before

    eventually(back, "the pod runs again", 60)
    instances = [line for line in lab.processes(node).values() if "victim-loop" in line]
    assert len(instances) == len(
        [found for found in lab.pods(namespace, "app=victim") if found.spec.node_name == node]
    ), instances


@pytest.mark.parametrize("how", ["process", "host"])
def test_every_acknowledged_write_survives_the_leaders_death(
    lab: Lab, namespace: str, tmp_path: Path, how: str
) -> None:
    with Writer(lab, namespace).writing() as writer:
        writer.more(50)
        for _ in range(3 if how == "process" else 1):
            leader = lab.leader()
            if how == "process":
                lab.kill_process(leader, "control")
            else:
                lab.command("kill", leader)
            writer.more(50)
        if how == "host":
            lab.command("start", leader)
        lab.settle()
        writer.more(10)
    assert_on_every_member(lab, namespace, writer.acknowledged, tmp_path)
    assert writer.longest_gap < 10, f"no write was acknowledged for {writer.longest_gap:.1f} s"


def test_a_leader_cut_off_gives_way_and_comes_back_without_loss(lab: Lab, namespace: str, tmp_path: Path) -> None:
    with Writer(lab, namespace).writing() as writer:
        writer.more(20)
        old = lab.leader()
        for other in lab.members:
            if other != old:
                lab.command("cut", old, other)
        lab.leader(other_than=old, within=15)
        writer.more(30)
        lab.command("heal")
        lab.settle()
        writer.more(10)
    assert_on_every_member(lab, namespace, writer.acknowledged, tmp_path)


def test_a_member_without_disk_space_steps_down_says_so_and_comes_back(
    lab: Lab, namespace: str, tmp_path: Path
) -> None:
    t = lab.topology
    victim = lab.members[-1]
    state = t.host_directory(t.host(victim)) / "state"
    kept = tmp_path / "state"
    lab.command("kill", victim)
    subprocess.run(["cp", "-a", str(state), str(kept)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=700", "tmpfs", str(state)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(state)], check=True)
        lab.command("start", victim)
        lab.settle()
        if lab.leader() != victim:
            lab.steer("cluster", "transfer-leader", victim)
        eventually(lambda: lab.leader() == victim, f"{victim} leads", 15)
        filler = state / "filler"
        fill(filler)

        def problem() -> str:
            members = lab.client.cluster_status().members
            return next(member.problem for member in members if member.name == victim)

        lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "w-0"}}, namespace=namespace)
        written = 0

        def write_on() -> str:
            nonlocal written
            data = {"x": chr(ord("a") + written % 26) * 900_000, "n": str(written)}
            lab.client.patch("configmaps", "w-0", {"data": data}, namespace, timeout=10)
            written += 1
            return problem()

        told = eventually(write_on, f"{victim} says that its disk is full", 60, every=0)
        assert "disk full" in told, told
        assert "room" in told, told
        lab.leader(other_than=victim, within=15)
        before = written
        eventually(lambda: write_on() is not None and written >= before + 3, "writes go on without it", 20)
        filler.unlink()
        eventually(lambda: not problem(), f"{victim} is back", 30)
        lab.settle()
        last = lab.client.get("configmaps", "w-0", namespace)["data"]["n"]
        config = lab.member_config(tmp_path)

        def caught_up() -> bool:
            done = lab.from_switch(sys.executable, "-c", MEMBER_READ, victim, namespace, config=config)
            return bool(json.loads(done.stdout)["w-0"] == last)

        eventually(caught_up, f"{victim} has the last write", 30, every=0.5)
    finally:
        if lab.processes(victim):
            lab.command("kill", victim)
        copy_tree(state, kept)
        subprocess.run(["umount", str(state)], check=True)
        subprocess.run(["cp", "-a", f"{kept}/.", str(state)], check=True)
        lab.command("start", victim)


def fill(filler: Path) -> None:
    """Write until the file system has no room left."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            return


def copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    (target / "filler").unlink(missing_ok=True)


def test_a_killed_nodes_pods_run_elsewhere_soon_and_the_node_comes_back_clean(lab: Lab, namespace: str) -> None:
    lab.apply(deployment("web", 6), service("web"), namespace=namespace)
    lab.wait_count(namespace, "app=web", 6)
    lab.apply(pod("visitor", visitor("http://web/", timeout_s=1), node="node-1"), namespace=namespace)
    lab.wait_ready(namespace, "visitor")
    victim = "node-2"
    assert any(found.spec.node_name == victim for found in lab.pods(namespace, "app=web"))
    eventually(lambda: len(lab.log(namespace, "visitor")) > 5, "the visitor asks")

    begin, killed_at = time.monotonic(), uptime()
    lab.command("kill", victim)

    def elsewhere() -> bool:
        return len([found for found in lab.ready_pods(namespace, "app=web") if found.spec.node_name != victim]) >= 6

    eventually(elsewhere, "six pods Ready on the other nodes", NODE_LOSS_S + MARGIN_S)
    took, replaced_at = time.monotonic() - begin, uptime()
    assert not lab.client.get(Node, victim).ready
    eventually(lambda: float(lab.log(namespace, "visitor")[-1].split()[1]) > replaced_at + 3, "the visitor asks on")
    answers = [line.split()[:2] for line in lab.log(namespace, "visitor") if line.startswith(("ok ", "FAILED "))]
    good = [float(at) for how, at in answers if how == "ok" and float(at) > killed_at - 1]
    silences = [later - sooner for sooner, later in itertools.pairwise(good)]
    assert max(silences) < 6, f"the Service was silent for {max(silences):.1f} s after {victim} was killed"
    late = [at for how, at in answers if how == "FAILED" and float(at) > replaced_at + 1.5]
    assert not late, f"requests failed after the dead pods were replaced ({took:.1f} s): {late}"

    lab.command("start", victim)
    lab.client.wait(Node, victim, lambda node: node.ready, timeout=40)
    eventually(lambda: not lab.client.get(Node, victim).spec.taints, "the taints are gone", 15)

    def only_what_is_assigned() -> bool:
        here = [found for found in lab.pods("") if found.spec.node_name == victim]
        wanted = {str(s.container_id).rpartition("/")[2] for found in here for s in found.status.container_statuses}
        return lab.running(victim) == lab.containers(victim) == wanted

    eventually(only_what_is_assigned, f"{victim} has nothing from before", 20, every=0.5)
    lab.apply(pod("newcomer", node=victim), namespace=namespace)
    lab.wait_ready(namespace, "newcomer", within=30)


def test_a_node_cut_off_stops_its_pods_before_their_replacements_start(lab: Lab, namespace: str) -> None:
    ticking = "while :; do read -r now rest < /proc/uptime; echo tick $now; sleep 0.1; done"
    lab.apply(deployment("ticker", 1, ticking), namespace=namespace)
    (old,) = lab.wait_count(namespace, "app=ticker", 1)
    node = old.spec.node_name
    eventually(lambda: lab.log(namespace, old.name), "it ticks")
    cut_at = uptime()
    for member in lab.members:
        lab.command("cut", node, member)

    def replacement() -> list[Pod]:
        return [found for found in lab.ready_pods(namespace, "app=ticker") if found.spec.node_name != node]

    (new,) = eventually(replacement, "a replacement runs", NODE_LOSS_S + MARGIN_S)
    first = float(eventually(lambda: lab.log(namespace, new.name), "the replacement ticks")[0].split()[1])
    t = lab.topology
    logs = list((t.host_directory(t.host(node)) / "state").rglob(f"*{old.uid}*/**/*.log"))
    assert logs, "the fenced pod's log is on its node"
    ticks = [float(number) for log in logs for number in re.findall(r"tick (\d+\.\d+)", log.read_text())]
    assert cut_at < max(ticks), "it ticked on for its lease"
    assert max(ticks) < first, f"two instances ran at once for {max(ticks) - first:.2f} s"
    assert not [line for line in lab.processes(node).values() if "echo tick" in line], (
        "nothing ticks on the node that was cut off"
    )
    lab.command("heal")
    lab.client.wait(Node, node, lambda found: found.ready, timeout=40)
    eventually(lambda: len(lab.pods(namespace, "app=ticker")) == 1, "one ticker is left")
    eventually(
        lambda: str(old.status.container_statuses[0].container_id).rpartition("/")[2] not in lab.containers(node),
        "the old container is removed",
        20,
    )


def test_a_paused_host_is_given_up_and_taken_back(lab: Lab) -> None:
    """A host that stands still, its connections open: the leader must be replaced, not waited for."""
    old = lab.leader()
    lab.command("pause", old)
    try:
        lab.leader(other_than=old, within=20)
        lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "meanwhile"}, "data": {"n": "1"}})
    finally:
        lab.command("resume", old)
    lab.settle()
    lab.steer("delete", "configmap", "meanwhile")


def test_nothing_was_left_by_all_this(lab: Lab) -> None:
    """After every namespace of the tests is gone: no container, no pod's link, no element of a Service that is no more."""

    def gone() -> bool:
        names = [document["metadata"]["name"] for document in lab.client.list("namespaces").items]
        return not [name for name in names if name.startswith("test-")]

    lab.run("delete", "deploy,pod", "--all", "-n", "default", "--timeout", "60", timeout=90)
    eventually(gone, "the tests' namespaces are gone", 60)
    eventually(lambda: not lab.pods(""), "no pod is left", 60)
    kept: list[Any] = [service["metadata"]["name"] for service in lab.client.list("services").items]
    assert set(kept) == {"kubernetes", "kube-dns"}

    def clean() -> bool:
        for node, found in lab.footprint().items():
            assert found["containers"] == [], f"{node}: {found['containers']}"
            assert not [link for link in found["links"] if link not in ("lo", "eth0") and not link.startswith("st-")], (
                found["links"]
            )
            sandboxes = lab.on(
                node, "find /var/lib/steersman /run -name '*netns*' -type d -exec ls {} \\; 2>/dev/null", check=False
            )
            assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", sandboxes), sandboxes
            services = [
                e for e in found["nft elements"] if "10.96." in e and '10.96.0.1"' not in e and '10.96.0.10"' not in e
            ]
            assert services == [], services
        return True

    eventually(clean, "every node is clean", 30, every=0.5)
