from __future__ import annotations

from typing import Any

import pytest

from control.controllers.intents import Create, Delete, Failure, Patch, UpdateStatus
from control.controllers.replicaset import BURST, View, deletion_rank, pod_document, reconcile


def of(result: Any, kind: type) -> list[Any]:
    return [intent for intent in result.intents if isinstance(intent, kind)]


@pytest.mark.parametrize(
    ("replicas", "running", "created", "deleted"),
    [(3, 0, 3, 0), (3, 2, 1, 0), (3, 3, 0, 0), (1, 3, 0, 2), (0, 2, 0, 2), (5_000, 0, BURST, 0)],
)
def test_as_many_pods_as_wanted(
    replica_set: Any, pod: Any, now: Any, replicas: int, running: int, created: int, deleted: int
) -> None:
    rs = replica_set(replicas=replicas)
    result = reconcile(View(rs, tuple(pod(f"p{n}", owner=rs) for n in range(running))), now)
    assert (len(of(result, Create)), len(of(result, Delete))) == (created, deleted)
    assert result.reasons or not (created or deleted)


def test_finished_and_deleted_pods_do_not_count(replica_set: Any, pod: Any, now: Any) -> None:
    rs = replica_set(replicas=1)
    gone = pod("a", owner=rs, meta={"deletionTimestamp": "2026-01-01T11:59:00Z"})
    failed = pod("b", owner=rs, phase="Failed", ready=False)
    result = reconcile(View(rs, (gone, failed)), now)
    assert len(of(result, Create)) == 1
    assert of(result, Delete) == []


def test_every_field_of_the_template_reaches_the_pod(replica_set: Any) -> None:
    document = pod_document(replica_set())
    assert document["spec"]["futureField"] == 1
    assert document["metadata"]["ownerReferences"][0]["uid"] == "uid-web-1"
    assert document["metadata"]["generateName"] == "web-1-"


def test_matching_orphans_are_adopted_instead_of_creating(replica_set: Any, pod: Any, now: Any) -> None:
    rs = replica_set(replicas=1)
    result = reconcile(View(rs, (pod("free"),)), now)
    (patch,) = of(result, Patch)
    assert (patch.name, patch.uid, patch.format) == ("free", "uid-free", "strategic")
    assert patch.patch["metadata"]["ownerReferences"][0]["uid"] == rs.uid
    assert of(result, Create) == []


def test_pods_that_match_no_longer_are_released_and_replaced(replica_set: Any, pod: Any, now: Any) -> None:
    rs = replica_set(replicas=1)
    result = reconcile(View(rs, (pod("a", owner=rs, labels={"app": "other"}),)), now)
    (patch,) = of(result, Patch)
    assert patch.patch["metadata"]["ownerReferences"] == [{"$patch": "delete", "uid": rs.uid}]
    assert len(of(result, Create)) == 1


def test_a_deleted_set_touches_no_pod(replica_set: Any, pod: Any, now: Any) -> None:
    rs = replica_set(meta={"deletionTimestamp": "2026-01-01T11:59:00Z"})
    result = reconcile(View(rs, (pod("free"), pod("own", owner=rs))), now)
    assert [type(intent) for intent in result.intents] == [UpdateStatus]


def test_refused_creations_are_tried_one_by_one_and_told(replica_set: Any, now: Any) -> None:
    failure = Failure("Forbidden", "exceeded quota: pods", "Pod", "create")
    result = reconcile(View(replica_set(replicas=50), (), failure=failure), now)
    assert len(of(result, Create)) == 1
    (status,) = of(result, UpdateStatus)
    (condition,) = status.status["conditions"]
    assert (condition["type"], condition["reason"], condition["message"]) == (
        "ReplicaFailure",
        "FailedCreate",
        "exceeded quota: pods",
    )


def test_deletion_order_is_kubernetes_order(pod: Any) -> None:
    late = "2026-01-01T11:30:00Z"
    ranked = [
        pod("unassigned", phase="Pending", ready=False),
        pod("pending", node="n2", phase="Pending", ready=False),
        pod("unready", node="n2", ready=False),
        pod("cheap", node="n2", meta={"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}),
        pod("crowded", node="n1"),
        pod("ready-later", node="n2", since=late),
        pod("restarted", node="n2", status={"containerStatuses": [{"restartCount": 3}]}),
        pod("settled", node="n2"),
    ]
    crowding = {"n1": 5, "n2": 1}
    mixed = ranked[::2] + ranked[1::2]
    ordered = sorted(mixed, key=lambda one: deletion_rank(one, crowding))
    assert [one.name for one in ordered] == [one.name for one in ranked]


def test_available_only_after_min_ready_seconds(replica_set: Any, pod: Any, now: Any) -> None:
    rs = replica_set(replicas=2, spec={"minReadySeconds": 60})
    old, young = pod("old", owner=rs), pod("young", owner=rs, since="2026-01-01T11:59:30Z")
    result = reconcile(View(rs, (old, young)), now)
    (status,) = of(result, UpdateStatus)
    assert (status.status["readyReplicas"], status.status["availableReplicas"]) == (2, 1)
    assert result.requeue_after == 30.0


def test_nothing_is_written_when_nothing_changed(replica_set: Any, pod: Any, now: Any) -> None:
    counts = {
        "replicas": 1,
        "fullyLabeledReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "terminatingReplicas": 0,
        "observedGeneration": 1,
    }
    rs = replica_set(replicas=1, status=counts)
    assert reconcile(View(rs, (pod("a", owner=rs),)), now).intents == ()
