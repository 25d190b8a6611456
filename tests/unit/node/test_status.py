from __future__ import annotations

from typing import Any

import pytest

from node.nodestatus import HostFacts, HostLoad, NodeStatus
from node.pods.backoff import crashes_after, restart_delay, restarts, retry_delay
from node.pods.state import ContainerLocal, PodLocal, Running, Terminated, Waiting
from node.resources import qos_class, resources
from node.runtime.interface import ContainerKey
from node.status import phase, pod_status
from node.streams import RefusedError, log_attempt
from steersman.types import Pod

NOW = "2026-01-01T00:00:00Z"


def local(*states: Any, done: bool = False) -> PodLocal:
    containers = {
        f"c{i}": ContainerLocal(f"c{i}", state=state, done=done and isinstance(state, Terminated))
        for i, state in enumerate(states)
    }
    return PodLocal("u", "default", "web", NOW, containers=containers)


def two(pod: Any, **spec: Any) -> Pod:
    return Pod.from_dict(pod(containers=[{"name": "c0", "image": "i"}, {"name": "c1", "image": "i"}], **spec))


OK, BAD, UP, WAIT = (
    Terminated(0, "Completed", NOW),
    Terminated(1, "Error", NOW),
    Running(NOW),
    Waiting("ContainerCreating"),
)


@pytest.mark.parametrize(
    ("states", "done", "expected"),
    [
        ((WAIT, UP), False, "Pending"),
        ((UP, UP), False, "Running"),
        ((UP, OK), True, "Running"),
        ((OK, OK), True, "Succeeded"),
        ((OK, BAD), True, "Failed"),
        ((BAD, UP), False, "Running"),
    ],
)
def test_the_phase_follows_the_containers(pod: Any, states: Any, done: bool, expected: str) -> None:
    assert phase(two(pod), local(*states, done=done)) == expected


def test_a_condition_keeps_its_time_until_it_changes(pod: Any) -> None:
    state = local(UP, UP)
    first = pod_status(two(pod), state, host_ip="h", now="t1")
    ready = next(c for c in first["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "False"
    assert ready["message"] == "containers with unready status: [c0 c1]"
    assert ready["lastTransitionTime"] == "t1"
    assert ready["lastProbeTime"] is None
    pod_status(two(pod), state, host_ip="h", now="t2")
    for container in state.containers.values():
        container.ready = True
    times = {
        c["type"]: c.get("lastTransitionTime") for c in pod_status(two(pod), state, host_ip="h", now="t3")["conditions"]
    }
    assert times["Ready"] == times["ContainersReady"] == "t3"
    assert times["Initialized"] == "t1"


def test_readiness_gates_hold_the_pod_back(pod: Any) -> None:
    document = pod(readinessGates=[{"conditionType": "x/ok"}])
    state = PodLocal("u", "default", "web", NOW, containers={"main": ContainerLocal("main", state=UP, ready=True)})
    closed = pod_status(Pod.from_dict(document), state, host_ip="h", now=NOW)
    assert next(c for c in closed["conditions"] if c["type"] == "Ready")["reason"] == "ReadinessGatesNotReady"
    document["status"]["conditions"].append({"type": "x/ok", "status": "True"})
    opened = pod_status(Pod.from_dict(document), state, host_ip="h", now=NOW)
    assert next(c for c in opened["conditions"] if c["type"] == "Ready")["status"] == "True"
    assert {"type": "x/ok", "status": "True"} in opened["conditions"]


def test_the_back_off_ladder() -> None:
    assert [restart_delay(n) for n in (0, 1, 2, 3, 7, 50)] == [0, 0, 10, 20, 300, 300]
    assert [retry_delay(n) for n in (1, 2, 6, 50)] == [10, 20, 300, 300]
    assert crashes_after(5, 599) == 6
    assert crashes_after(5, 600) == 1
    assert [restarts(p, c) for p in ("Always", "OnFailure", "Never") for c in (0, 1)] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("limits", "requests", "qos", "score"),
    [
        ({}, {}, "BestEffort", 1000),
        ({"cpu": "1", "memory": "1Gi"}, {}, "Guaranteed", -997),
        ({}, {"memory": "4Gi"}, "Burstable", 500),
        ({"memory": "1Gi"}, {"cpu": "100m"}, "Burstable", 875),
    ],
)
def test_quality_of_service(pod: Any, limits: Any, requests: Any, qos: str, score: int) -> None:
    found = Pod.from_dict(pod(containers=[{"name": "c", "resources": {"limits": limits, "requests": requests}}]))
    assert qos_class(found) == qos
    assert resources(found, found.spec.containers[0], 8 << 30).oom_score_adj == score


def test_which_log_is_meant(pod: Any) -> None:
    found = Pod.from_dict(pod())
    ids = [ContainerKey(found.uid, "default", "web", "main", n).id for n in range(3)]
    state = ContainerLocal(
        "main", container_id=ids[2], attempt=2, state=UP, last=Terminated(1, "Error", NOW, container_id=ids[1])
    )
    assert log_attempt(found, "main", state, previous=False) == 2
    assert log_attempt(found, "main", state, previous=True) == 1
    waiting = ContainerLocal("main", state=Waiting("ImagePullBackOff", "no"))
    with pytest.raises(RefusedError, match="waiting to start: ImagePullBackOff: no"):
        log_attempt(found, "main", waiting, previous=False)
    with pytest.raises(RefusedError, match="previous terminated container"):
        log_attempt(found, "main", ContainerLocal("main", container_id=ids[0], state=UP), previous=True)


def test_a_node_says_why_it_is_not_ready_and_repeats_only_what_changed() -> None:
    facts = HostFacts(4, 8 << 30, 100 << 30, "m", "s", "b", "6.1", "Debian", "amd64")
    load = HostLoad(4 << 30, 50 << 30, 100, 32768)
    status = NodeStatus("node-1", "10.0.0.1", facts, "containerd://1")
    document, changed = status.document(load, [], problem="no network", now="t1")
    ready = next(c for c in document["conditions"] if c["type"] == "Ready")
    assert changed
    assert ready["status"] == "False"
    assert ready["message"] == "no network"
    assert status.document(load, [], problem="no network", now="t2")[1] is False
    full = HostLoad(50 << 20, 1 << 30, 32000, 32768)
    document, changed = status.document(full, [], problem="", now="t3")
    assert changed
    assert all(c["status"] == "True" and c["lastTransitionTime"] == "t3" for c in document["conditions"])
