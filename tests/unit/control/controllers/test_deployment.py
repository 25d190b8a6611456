from __future__ import annotations

from typing import Any

import pytest

from control.controllers import rollout
from control.controllers.deployment import View, reconcile
from control.controllers.intents import Create, Delete, Failure, Patch, UpdateStatus

OWNER = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "uid-web", "controller": True}]


def of(result: Any, kind: type) -> list[Any]:
    return [intent for intent in result.intents if isinstance(intent, kind)]


def sizes(result: Any) -> dict[str, int]:
    return {p.name: p.patch["spec"]["replicas"] for p in of(result, Patch) if "replicas" in p.patch.get("spec", {})}


def condition(result: Any, kind: str) -> tuple[str, str, str]:
    (status,) = of(result, UpdateStatus)
    return next((c["status"], c["reason"], c["message"]) for c in status.status["conditions"] if c["type"] == kind)


@pytest.fixture
def owned(replica_set: Any) -> Any:
    """A ReplicaSet of the Deployment, sized for `desired` pods."""

    def build(name: str, replicas: int, available: int, image: str, revision: int, desired: int = 4) -> Any:
        annotations = {
            rollout.REVISION: str(revision),
            rollout.DESIRED: str(desired),
            rollout.MAXIMUM: str(desired + 1),
        }
        meta = {"ownerReferences": OWNER, "annotations": annotations, "creationTimestamp": f"2026-01-0{revision}"}
        counts = {
            "replicas": replicas,
            "readyReplicas": available,
            "availableReplicas": available,
            "observedGeneration": 1,
        }
        return replica_set(name, replicas, image=image, meta=meta, status=counts)

    return build


def test_the_first_replica_set_is_named_by_the_template_hash(deployment: Any, now: Any) -> None:
    found = deployment()
    result = reconcile(View(found, ()), now)
    (create,) = of(result, Create)
    name, digest = rollout.child_name(found)
    document = create.document
    assert document["metadata"]["name"] == name == f"web-{digest}"
    assert document["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert document["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] == digest
    assert document["spec"]["template"]["spec"]["futureField"] == 1
    assert document["spec"]["replicas"] == 4
    assert document["metadata"]["annotations"][rollout.REVISION] == "1"
    assert condition(result, "Progressing") == ("True", "NewReplicaSetCreated", f'Created new replica set "{name}"')


def test_a_taken_name_raises_the_collision_count(deployment: Any, replica_set: Any, now: Any) -> None:
    found = deployment()
    occupant = replica_set(rollout.child_name(found)[0], image="other")
    result = reconcile(View(found, (), occupant), now)
    assert of(result, Create) == []
    (status,) = of(result, UpdateStatus)
    assert status.status["collisionCount"] == 1


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        # (wanted, available) of each; surge 1, unavailable 1 of 4
        ((0, 0), (4, 4), {"new": 1, "old": 3}),  # grow by the surge, shrink by what may be missing
        ((1, 0), (3, 3), {"new": 2}),  # 3 available is the least: nothing to take
        ((2, 2), (3, 3), {"old": 1}),  # two more than the least are available
        ((1, 0), (4, 2), {"old": 3}),  # pods that serve nobody go first
        ((3, 3), (1, 1), {"new": 4, "old": 0}),
        ((4, 4), (0, 0), {}),
        ((4, 1), (1, 1), {}),  # the new ones are not available yet
    ],
)
def test_rolling_steps(
    deployment: Any, owned: Any, now: Any, new: tuple[int, int], old: tuple[int, int], expected: dict[str, int]
) -> None:
    found = deployment(4, image="web:2", strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}})
    sets = (owned("old", *old, "web:1", 1), owned("new", *new, "web:2", 2))
    assert sizes(reconcile(View(found, sets), now)) == expected


def test_a_set_just_scaled_down_does_not_lend_its_old_count(deployment: Any, owned: Any, now: Any) -> None:
    found = deployment(4, image="web:2", strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    old = owned("old", 3, 4, "web:1", 1)  # wants 3, still reports 4
    result = reconcile(View(found, (old, owned("new", 2, 1, "web:2", 2))), now)
    assert sizes(result) == {}


def test_paused_deployments_scale_but_do_not_roll(deployment: Any, owned: Any, now: Any) -> None:
    found = deployment(6, image="web:2", paused=True)
    result = reconcile(View(found, (owned("old", 4, 4, "web:1", 1),)), now)
    assert sizes(result) == {"old": 6}
    assert of(result, Create) == []
    assert condition(result, "Progressing") == ("Unknown", "DeploymentPaused", "Deployment is paused")


def test_scaling_during_a_rollout_is_shared_in_proportion(deployment: Any, owned: Any, now: Any) -> None:
    found = deployment(8, image="web:2", strategy={"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}})
    sets = (owned("old", 3, 3, "web:1", 1), owned("new", 2, 0, "web:2", 2))
    assert sizes(reconcile(View(found, sets), now)) == {"old": 6, "new": 4}


def test_recreate_waits_for_the_last_old_pod(deployment: Any, owned: Any, now: Any) -> None:
    found = deployment(4, image="web:2", strategy={"type": "Recreate"})
    running = owned("old", 4, 4, "web:1", 1)
    assert sizes(reconcile(View(found, (running,)), now)) == {"old": 0}
    stopped = owned("old", 0, 0, "web:1", 1)
    waiting = reconcile(View(found, (stopped,), old_pods={"uid-old": 1}), now)
    assert (of(waiting, Create), sizes(waiting)) == ([], {})
    (create,) = of(reconcile(View(found, (stopped,)), now), Create)
    assert create.document["spec"]["replicas"] == 4


def test_undo_gives_the_old_set_the_next_revision(deployment: Any, owned: Any, now: Any) -> None:
    found = deployment(4, image="web:1", meta={"annotations": {rollout.REVISION: "2"}})
    sets = (owned("first", 0, 0, "web:1", 1), owned("second", 4, 4, "web:2", 2))
    result = reconcile(View(found, sets), now)
    notes = {p.name: p.patch["metadata"]["annotations"] for p in of(result, Patch) if "metadata" in p.patch}
    assert notes["web"] == {rollout.REVISION: "3"}
    revised = [p for p in of(result, Patch) if p.name == "first" and rollout.REVISION in str(p.patch)]
    assert revised[0].patch["metadata"]["annotations"][rollout.REVISION] == "3"
    assert revised[0].patch["metadata"]["annotations"][rollout.REVISION_HISTORY] == "1"


def test_a_rollout_without_progress_is_told_after_its_deadline(deployment: Any, owned: Any, now: Any) -> None:
    def stuck(since: str) -> Any:
        progressing = {
            "type": "Progressing",
            "status": "True",
            "reason": "ReplicaSetUpdated",
            "message": 'ReplicaSet "new" is progressing.',
            "lastUpdateTime": since,
            "lastTransitionTime": since,
        }
        counts = {"replicas": 5, "updatedReplicas": 2, "readyReplicas": 3, "availableReplicas": 3}
        found = deployment(4, image="web:2", progressDeadlineSeconds=60, status={"conditions": [progressing], **counts})
        return reconcile(View(found, (owned("old", 3, 3, "web:1", 1), owned("new", 2, 0, "web:2", 2))), now)

    early = stuck("2026-01-01T11:59:30Z")
    assert early.requeue_after == pytest.approx(30, abs=0.1)
    assert condition(early, "Progressing")[1] == "ReplicaSetUpdated"
    assert condition(stuck("2026-01-01T11:58:00Z"), "Progressing") == (
        "False",
        "ProgressDeadlineExceeded",
        'ReplicaSet "new" has timed out progressing.',
    )


def test_history_is_kept_to_its_limit_oldest_first(deployment: Any, owned: Any, now: Any) -> None:
    counts = {"replicas": 4, "updatedReplicas": 4, "readyReplicas": 4, "availableReplicas": 4, "observedGeneration": 1}
    found = deployment(4, image="web:5", revisionHistoryLimit=2, status=counts)
    sets = [owned(f"s{n}", 0, 0, f"web:{n}", n) for n in (1, 2, 3, 4)] + [owned("s5", 4, 4, "web:5", 5)]
    result = reconcile(View(found, tuple(sets)), now)
    assert [intent.name for intent in of(result, Delete)] == ["s1", "s2"]


def test_a_refused_replica_set_is_told(deployment: Any, now: Any) -> None:
    failure = Failure("Forbidden", "exceeded quota", "ReplicaSet", "create")
    result = reconcile(View(deployment(), (), failure=failure), now)
    assert condition(result, "Progressing") == ("False", "ReplicaSetCreateError", "exceeded quota")
    assert condition(result, "ReplicaFailure")[:2] == ("True", "FailedCreate")
    assert len(of(result, Create)) == 1


def test_an_empty_selector_is_refused_aloud(deployment: Any, now: Any) -> None:
    (event,) = reconcile(View(deployment(selector={}), ()), now).intents
    assert event.reason == "SelectingAll"
