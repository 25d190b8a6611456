"""The main job on a control plane whose state is in etcd: `steer lab up --store etcd`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab import cgroups, segment
from tests.e2e.raised import Lab, deployment, eventually, own_topology, service

TAKEOVER_S = (
    12.0  # etcd elects, the dead leader's lease of 5 s ends, another member takes over; a loaded machine's margin
)


@pytest.fixture(scope="module")
def on_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    found = Lab(own_topology("d", 3, 1, "etcd"), tmp_path_factory.mktemp("etcd") / "config.yaml")
    try:
        found.up()
        yield found
    finally:
        found.down()
    assert segment.namespaces("e2eetcd") == []
    assert cgroups.processes(found.topology.cgroup) == []
    assert not found.topology.directory.exists()


def test_the_main_job(on_etcd: Lab) -> None:
    lab = on_etcd
    assert "Ready" in lab.steer("get", "nodes")
    members = lab.client.cluster_status().members
    assert [member.name for member in members] == lab.members
    assert all(member.reachable and not member.problem for member in members)
    lab.apply(deployment("web", 3), service("web"))
    first = lab.wait_count("default", "app=web", 3)
    lab.apply(deployment("web", 3, "sleep 1000000"))
    lab.steer("rollout", "status", "deployment/web", timeout=90)
    second = lab.wait_count("default", "app=web", 3)
    assert not {pod.uid for pod in first} & {pod.uid for pod in second}
    lab.steer("scale", "deployment/web", "--replicas", "2")
    lab.wait_count("default", "app=web", 2)
    lab.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "xyzzy-plugh"}})
    assert "word" in lab.steer("get", "secret", "s", "-o", "json")
    for host in lab.members:
        found = lab.on(host, "grep -rl -e xyzzy-plugh -e eHl6enktcGx1Z2 /var/lib/steersman; true")
        assert found == "", "a secret lies unencrypted in etcd"


def test_another_member_leads_when_the_leaders_host_is_lost_and_writes_go_on(on_etcd: Lab) -> None:
    lab = on_etcd
    written: list[str] = []

    def write() -> bool:
        name = f"n-{len(written)}"
        lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": name}})
        written.append(name)
        return True

    for _ in range(20):
        write()
    old = lab.leader()
    lab.command("kill", old)
    begin = time.monotonic()
    eventually(write, "writes go on", TAKEOVER_S)
    took = time.monotonic() - begin
    for _ in range(20):
        eventually(write, "writes go on", TAKEOVER_S)
    assert lab.leader(other_than=old) in lab.members
    assert took < TAKEOVER_S
    gone = {member.name: member.reachable for member in lab.client.cluster_status().members}
    assert gone.pop(old) is False
    assert all(gone.values())
    lab.command("start", old)
    eventually(
        lambda: all(member.reachable for member in lab.client.cluster_status().members), "the old leader is back", 30
    )
    kept = json.loads(lab.steer("get", "configmaps", "-o", "json"))["items"]
    assert set(written) <= {item["metadata"]["name"] for item in kept}, "an acknowledged write is gone"


def test_a_rolling_restart_of_members_and_etcds_loses_no_pod(on_etcd: Lab) -> None:
    lab = on_etcd
    before = lab.incarnations(lab.wait_count("default", "app=web", 2))
    for host in lab.members:
        lab.kill_process(host, "control")
        lab.kill_process(host, "etcd")
        eventually(
            lambda: all(member.reachable for member in lab.client.cluster_status().members), f"{host} is back", 40
        )
        eventually(lambda: lab.client.cluster_status().leader, "a member leads", 20)
    eventually(lambda: "Ready" in lab.steer("get", "nodes"), "the node is Ready", 30)
    lab.steer("scale", "deployment/web", "--replicas", "3")
    lab.wait_count("default", "app=web", 3)
    after = lab.incarnations(lab.wait_count("default", "app=web", 3))
    assert before.items() <= after.items(), "pods ran on meanwhile"
