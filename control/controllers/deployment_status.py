"""A Deployment's status: the counts, and the conditions Available, Progressing and ReplicaFailure.

The reasons and sentences are Kubernetes', because `kubectl rollout status` and people's alerts read them.
Progressing tells of the newest template: True while something moves or once all is there, False when nothing moved for
progressDeadlineSeconds, Unknown while paused. `lastUpdateTime` of it is when something last moved.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from control.controllers import conditions, rollout
from control.controllers.intents import Failure, Plan, UpdateStatus
from control.views import Deployment, ReplicaSet
from steersman.clock import parse_time, rfc3339
from steersman.types.apps import DeploymentStatus
from steersman.types.meta import Condition

NO_DEADLINE = 2**31 - 1  # progressDeadlineSeconds that means "never"
AVAILABLE, PROGRESSING, FAILURE = "Available", "Progressing", "ReplicaFailure"
DONE, TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"


@dataclass(slots=True)
class StatusDraft:
    """What the decision found out that the status tells: names of a ReplicaSet created or found, a name collision."""

    failure: Failure | None = None
    created: str = ""
    found: str = ""
    collision_count: int | None = None


def write_status(
    deployment: Deployment,
    new: ReplicaSet | None,
    old: Sequence[ReplicaSet],
    draft: StatusDraft,
    now: dt.datetime,
    plan: Plan,
) -> None:
    """Add the status to the plan if it changes, and when to look again because of the deadline."""
    sets = [rs for rs in (new, *old) if rs is not None]
    counts = _counts(deployment, new, sets, draft)
    found = _available(deployment, counts, now)
    found = _progressing(deployment, counts, found, new, draft, now)
    found = _failure(found, new, old, draft, now)
    status = msgspec.structs.replace(counts, conditions=found)
    _look_again(deployment, status, now, plan)
    if status != deployment.status:
        plan.add(UpdateStatus(Deployment, deployment.name, document(status), deployment.namespace, uid=deployment.uid))


def document(status: DeploymentStatus) -> dict[str, Any]:
    """The status as it is written: zero counts too, so that a merge lowers them."""
    written: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "updatedReplicas": status.updated_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "unavailableReplicas": status.unavailable_replicas,
        "terminatingReplicas": status.terminating_replicas,
        "conditions": conditions.documents(status.conditions),
    }
    if status.collision_count is not None:
        written["collisionCount"] = status.collision_count
    return written


def _counts(
    deployment: Deployment, new: ReplicaSet | None, sets: Sequence[ReplicaSet], draft: StatusDraft
) -> DeploymentStatus:
    available = sum(rs.status.available_replicas for rs in sets)
    collisions = draft.collision_count if draft.collision_count is not None else deployment.status.collision_count
    return DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=sum(rs.status.replicas for rs in sets),
        updated_replicas=new.status.replicas if new is not None else 0,
        ready_replicas=sum(rs.status.ready_replicas for rs in sets),
        available_replicas=available,
        unavailable_replicas=max(sum(rs.spec.replicas for rs in sets) - available, 0),
        terminating_replicas=sum(rs.status.terminating_replicas or 0 for rs in sets),
        collision_count=collisions,
    )


def _available(deployment: Deployment, counts: DeploymentStatus, now: dt.datetime) -> tuple[Condition, ...]:
    present = deployment.status.conditions
    minimum = deployment.spec.replicas - rollout.limits(deployment)[1]
    if counts.available_replicas >= minimum:
        verdict = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        verdict = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return conditions.put(present, conditions.build(present, AVAILABLE, *verdict, now, updated=True))


def complete(deployment: Deployment, counts: DeploymentStatus) -> bool:
    """Whether every wanted pod is of the newest template and available, and no other pod is left."""
    wanted = deployment.spec.replicas
    return counts.updated_replicas == counts.replicas == counts.available_replicas == wanted


def _progressing(
    deployment: Deployment,
    counts: DeploymentStatus,
    found: tuple[Condition, ...],
    new: ReplicaSet | None,
    draft: StatusDraft,
    now: dt.datetime,
) -> tuple[Condition, ...]:
    if deployment.spec.progress_deadline_seconds >= NO_DEADLINE:
        return conditions.drop(found, PROGRESSING)
    present = conditions.find(found, PROGRESSING)
    paused = present is not None and present.reason == PAUSED

    def verdict(status: str, reason: str, message: str) -> tuple[Condition, ...]:
        return conditions.put(found, conditions.build(found, PROGRESSING, status, reason, message, now, updated=True))

    stuck = present is not None and present.reason == TIMED_OUT
    moving = bool(draft.created) or complete(deployment, counts) or _moved(deployment.status, counts)
    if stuck and not deployment.spec.paused and not moving:
        return found
    if deployment.spec.paused:
        return found if paused else verdict("Unknown", PAUSED, "Deployment is paused")
    if paused:
        return verdict("Unknown", RESUMED, "Deployment is resumed")
    if draft.failure is not None and draft.failure.kind == "ReplicaSet" and draft.failure.verb == "create":
        return verdict("False", "ReplicaSetCreateError", draft.failure.message)
    if draft.created:
        return verdict("True", "NewReplicaSetCreated", f'Created new replica set "{draft.created}"')
    subject = f'ReplicaSet "{new.name}"' if new is not None else f'Deployment "{deployment.name}"'
    if draft.found and (present is None or (present.reason == DONE and subject not in present.message)):
        return verdict("True", "FoundNewReplicaSet", f'Found new replica set "{draft.found}"')
    if counts.replicas == counts.updated_replicas and present is not None and present.reason == DONE:
        return found
    if complete(deployment, counts):
        return verdict("True", DONE, f"{subject} has successfully progressed.")
    if _moved(deployment.status, counts):
        message = f"{subject} is progressing."
        moved = conditions.build(found, PROGRESSING, "True", "ReplicaSetUpdated", message, now, updated=True)
        return conditions.put(found, msgspec.structs.replace(moved, last_update_time=rfc3339(now)))
    limit = _deadline(deployment, present) if present is not None else None
    if limit is not None and now >= limit:
        return verdict("False", TIMED_OUT, f"{subject} has timed out progressing.")
    return found


def _moved(before: DeploymentStatus, after: DeploymentStatus) -> bool:
    """Whether the rollout got on: more new pods, fewer old ones, more ready or available."""
    return (
        after.updated_replicas > before.updated_replicas
        or after.replicas - after.updated_replicas < before.replicas - before.updated_replicas
        or after.ready_replicas > before.ready_replicas
        or after.available_replicas > before.available_replicas
    )


def _deadline(deployment: Deployment, present: Condition) -> dt.datetime | None:
    """When the rollout counts as stuck; None when nothing is under way."""
    if present.reason in (DONE, TIMED_OUT, PAUSED) or not present.last_update_time:
        return None
    return parse_time(present.last_update_time) + dt.timedelta(seconds=deployment.spec.progress_deadline_seconds)


def _look_again(deployment: Deployment, status: DeploymentStatus, now: dt.datetime, plan: Plan) -> None:
    present = conditions.find(status.conditions, PROGRESSING)
    if present is None or deployment.spec.paused or complete(deployment, status):
        return
    limit = _deadline(deployment, present)
    if limit is not None:
        plan.again(max((limit - now).total_seconds(), 0.0) + 0.001)


def _failure(
    found: tuple[Condition, ...],
    new: ReplicaSet | None,
    old: Sequence[ReplicaSet],
    draft: StatusDraft,
    now: dt.datetime,
) -> tuple[Condition, ...]:
    """ReplicaFailure is a ReplicaSet's own, the newest one's first."""
    for rs in (new, *old):
        told = conditions.find(rs.status.conditions, FAILURE) if rs is not None else None
        if told is not None and told.status == "True":
            verdict = conditions.build(found, FAILURE, "True", told.reason, told.message, now, updated=True)
            return conditions.put(found, verdict)
    if draft.failure is not None and draft.failure.kind == "ReplicaSet" and draft.failure.verb == "create":
        verdict = conditions.build(found, FAILURE, "True", "FailedCreate", draft.failure.message, now, updated=True)
        return conditions.put(found, verdict)
    return conditions.drop(found, FAILURE)
