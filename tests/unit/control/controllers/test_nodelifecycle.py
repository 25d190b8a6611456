from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from control.controllers.intents import Delete, Patch
from control.controllers.nodelifecycle import MARGIN_S, View, reconcile
from control.taints import eviction_time
from steersman.types import Node
from steersman.types.core import Taint, Toleration

LEASE = 8.0
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"


def node(ready: str | None = "True", taints: Any = (), **spec: Any) -> Node:
    conditions = [{"type": "Ready", "status": ready}] if ready else []
    return Node.from_dict(
        {
            "metadata": {"name": "n1", "uid": "n", "resourceVersion": "4"},
            "spec": {"taints": list(taints), **spec},
            "status": {"conditions": conditions},
        }
    )


def view(one: Node | None, pods: tuple[Any, ...] = (), silence: float = 0.5, missing: float = 0.0) -> View:
    return View("n1", one, pods, silence, LEASE, missing)


def taints(result: Any) -> set[tuple[str, str]] | None:
    for intent in result.intents:
        if isinstance(intent, Patch) and "spec" in intent.patch:
            return {(t["key"], t["effect"]) for t in intent.patch["spec"]["taints"]}
    return None


def tolerant(pod: Any, seconds: int | None, **more: Any) -> Any:
    limit = {} if seconds is None else {"tolerationSeconds": seconds}
    one = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", **limit}
    return pod("p", node="n1", tolerations=[one], **more)


def test_a_heard_node_is_looked_at_again_when_its_grace_ends(now: Any) -> None:
    result = reconcile(view(node(), silence=3.0), now)
    assert result.intents == ()
    assert result.requeue_after == pytest.approx(LEASE + MARGIN_S - 3.0, abs=0.1)


def test_a_silent_node_is_unknown_tainted_and_its_pods_unready(pod: Any, now: Any) -> None:
    result = reconcile(view(node(), (tolerant(pod, 5),), silence=10.0), now)
    first, unknown, unready = result.intents
    assert taints(result) == {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")}
    assert first.revision == "4"
    assert unknown.patch["status"]["conditions"][0]["status"] == "Unknown"
    assert unready.patch["status"]["conditions"][0] == {
        "type": "Ready",
        "status": "False",
        "reason": "NodeNotReady",
        "message": "Node n1 is not heard from.",
        "lastTransitionTime": "2026-01-01T12:00:00Z",
    }
    assert result.requeue_after == 5.0


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (node("False"), {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")}),
        (node(None), {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")}),
        (node("True", unschedulable=True), {("node.kubernetes.io/unschedulable", "NoSchedule")}),
        (node("True", [{"key": UNREACHABLE, "effect": "NoExecute"}]), set()),
        (node("True", [{"key": "mine", "effect": "NoExecute"}]), None),
    ],
)
def test_taints_follow_the_conditions_and_leave_others_alone(one: Node, expected: Any, now: Any) -> None:
    assert taints(reconcile(view(one), now)) == expected


def lost(now: dt.datetime, since: float) -> Node:
    added = (now - dt.timedelta(seconds=since)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return node("Unknown", [{"key": UNREACHABLE, "effect": e, "timeAdded": added} for e in ("NoSchedule", "NoExecute")])


@pytest.mark.parametrize(
    ("tolerated", "since", "silence", "evicted"),
    [
        (5, 4, 14.0, False),
        (5, 5, 15.0, True),
        (None, 500, 510.0, False),
        (0, 0, 10.0, True),
        (5, 60, 1.0, False),  # heard from again: the taint is about to go
    ],
)
def test_eviction_waits_for_the_fence(
    pod: Any, now: Any, tolerated: int | None, since: float, silence: float, evicted: bool
) -> None:
    result = reconcile(view(lost(now, since), (tolerant(pod, tolerated, ready=False),), silence), now)
    deletes = [(i.name, i.grace) for i in result.intents if isinstance(i, Delete)]
    assert deletes == ([("p", 0)] if evicted else [])


def test_terminating_pods_of_a_lost_node_are_removed_too(pod: Any, now: Any) -> None:
    gone = tolerant(pod, 5, ready=False, meta={"deletionTimestamp": "2026-01-01T11:00:00Z"})
    result = reconcile(view(lost(now, 9), (gone,), 20.0), now)
    assert [i.grace for i in result.intents if isinstance(i, Delete)] == [0]


def test_pods_leave_a_node_that_says_not_ready_with_their_own_grace(pod: Any, now: Any) -> None:
    taint = {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "2026-01-01T11:59:00Z"}
    result = reconcile(view(node("False", [taint, taint | {"effect": "NoSchedule"}]), (pod("p", node="n1"),)), now)
    assert [(i.name, i.grace) for i in result.intents if isinstance(i, Delete)] == [("p", None)]


@pytest.mark.parametrize(("missing", "gone"), [(14.0, False), (15.0, True)])
def test_pods_of_a_node_that_does_not_exist_go_when_it_must_have_stopped_them(
    pod: Any, now: Any, missing: float, gone: bool
) -> None:
    result = reconcile(view(None, (tolerant(pod, 5),), missing=missing), now)
    assert [i.grace for i in result.intents if isinstance(i, Delete)] == ([0] if gone else [])
    assert gone or result.requeue_after == pytest.approx(1.0)


def test_time_added_is_rounded_up_so_that_no_eviction_is_early() -> None:
    now = dt.datetime(2026, 1, 1, 12, 0, 0, 700_000, tzinfo=dt.UTC)
    patch = reconcile(view(node(), silence=10.0), now).intents[0]
    assert patch.patch["spec"]["taints"][0]["timeAdded"] == "2026-01-01T12:00:01Z"


def test_the_shortest_toleration_counts(now: Any) -> None:
    taint = Taint(key="a", effect="NoExecute", time_added="2026-01-01T12:00:00Z")
    tolerations = [
        Toleration(key="a", operator="Exists", toleration_seconds=30),
        Toleration(operator="Exists", toleration_seconds=10),
        Toleration(operator="Exists"),
    ]
    assert eviction_time(tolerations, [taint], now) == now + dt.timedelta(seconds=10)
    assert eviction_time([Toleration(operator="Exists")], [taint], now) is None
    assert eviction_time([], [taint], now) == now
