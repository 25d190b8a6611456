"""ReplicaSet: keep as many matching pods as the spec says.

A pod counts while it is active: not finished, not being deleted. Too few: create the rest in one batch; too many:
delete those that are missed least (`deletion_rank`). Pods without a controller that the selector matches are adopted,
own pods that it matches no longer are released. Source of the rules: k8s.io/kubernetes/pkg/controller/replicaset.

When the API refuses creations (quota, admission), one pod at a time is tried until one passes, and the status says so
in the condition ReplicaFailure.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.controllers import conditions
from control.controllers.intents import (
    NORMAL,
    WARNING,
    Create,
    Delete,
    Failure,
    Plan,
    RecordEvent,
    Result,
    UpdateStatus,
)
from control.controllers.owners import claim, controlled_by, controller_reference
from control.controllers.runtime import Caches, Enqueue
from control.events import reference
from control.views import Pod, ReplicaSet
from steersman.clock import parse_time
from steersman.selectors import from_label_selector
from steersman.types.apps import ReplicaSetStatus

NAME = "replicaset-controller"
BURST = 500  # pods created or deleted in one round: larger steps would hold other work up too long
GENERATED_BASE_MAX = 58  # a generated pod name has 5 more characters, and 63 is the most a host name may have
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    replica_set: what to keep.
    pods: of its namespace, those that it controls and those without a controller that its selector matches.
    crowding: active pods by node name, of all ReplicaSets with the same owner: the more, the sooner one goes.
    failure: why the last round's writes were refused.
    """

    replica_set: ReplicaSet
    pods: tuple[Pod, ...]
    crowding: Mapping[str, int] = field(default_factory=dict)
    failure: Failure | None = None


def reconcile(view: View, now: dt.datetime) -> Result:
    """Adopt, release, create, delete, and say how things are."""
    plan = Plan()
    rs = view.replica_set
    selector = from_label_selector(rs.spec.selector)
    pods = claim(rs, selector, (p for p in view.pods if controlled_by(p, rs) or p.active), plan)
    active = [pod for pod in pods if pod.active]
    if not rs.deleting:
        missing = rs.spec.replicas - len(active)
        if missing > 0:
            _create(view, missing, plan)
        elif missing < 0:
            _delete(view, active, -missing, plan)
    _status(view, active, sum(1 for pod in pods if pod.deleting and not pod.finished), now, plan)
    return plan.result()


def _create(view: View, missing: int, plan: Plan) -> None:
    rs = view.replica_set
    count = 1 if view.failure is not None and view.failure.verb == "create" else min(missing, BURST)
    document = pod_document(rs)
    about = reference(rs)
    intent = Create(
        document,
        rs.namespace,
        done=RecordEvent(about, NORMAL, "SuccessfulCreate", "Created pod: {name}"),
        failed=RecordEvent(about, WARNING, "FailedCreate", "Error creating: "),
    )
    plan.reasons.append(f"create {count} of {missing} missing pods: {rs.spec.replicas} are wanted")
    plan.intents.extend([intent] * count)


def pod_document(rs: ReplicaSet) -> dict[str, Any]:
    """The pod that the template describes, owned by the ReplicaSet; every field of the template is in it."""
    template = msgspec.json.decode(rs.spec.template)
    meta = template.get("metadata") or {}
    kept = {key: meta[key] for key in ("labels", "annotations", "finalizers") if meta.get(key)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **kept,
            "generateName": f"{rs.name[: GENERATED_BASE_MAX - 1]}-",
            "namespace": rs.namespace,
            "ownerReferences": [controller_reference(rs)],
        },
        "spec": template.get("spec") or {},
    }


def _delete(view: View, active: Sequence[Pod], surplus: int, plan: Plan) -> None:
    rs = view.replica_set
    ranked = sorted(active, key=lambda pod: deletion_rank(pod, view.crowding))
    for pod in ranked[: min(surplus, BURST)]:
        plan.add(
            Delete(
                Pod,
                pod.name,
                pod.namespace,
                uid=pod.uid,
                done=RecordEvent(reference(rs), NORMAL, "SuccessfulDelete", f"Deleted pod: {pod.name}"),
                failed=RecordEvent(reference(rs), WARNING, "FailedDelete", f"Error deleting pod {pod.name}: "),
            ),
            f"delete pod {pod.name}: {len(active)} run where {rs.spec.replicas} are wanted",
        )


_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def deletion_rank(pod: Pod, crowding: Mapping[str, int]) -> tuple[Any, ...]:
    """Sorts pods by how little they are missed: the smallest goes first.

    Unassigned before assigned, pending before running, unready before ready, cheaper by annotation, on a crowded node
    before alone, ready for a shorter time, restarted more often, younger.
    """
    try:
        cost = int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        cost = 0
    restarts = max((status.restart_count for status in pod.status.container_statuses), default=0)
    return (
        bool(pod.spec.node_name),
        _PHASES.get(pod.status.phase, 1),
        pod.ready,
        cost,
        -crowding.get(pod.spec.node_name, 0),
        _Newest(pod.ready_since),
        -restarts,
        _Newest(pod.metadata.creation_timestamp),
        pod.name,
    )


@dataclass(frozen=True, slots=True)
class _Newest:
    """Sorts RFC 3339 times newest first."""

    time: str

    def __lt__(self, other: _Newest) -> bool:
        return self.time > other.time


def available_at(pod: Pod, min_ready_seconds: int) -> dt.datetime | None:
    """When the pod has been ready for long enough; None while it is not ready."""
    since = pod.ready_since
    if not pod.ready:
        return None
    if not since:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
    return parse_time(since) + dt.timedelta(seconds=min_ready_seconds)


def _status(view: View, active: Sequence[Pod], terminating: int, now: dt.datetime, plan: Plan) -> None:
    rs = view.replica_set
    template = msgspec.json.decode(rs.spec.template)
    labels = ((template.get("metadata") or {}).get("labels") or {}).items()
    ready = available = 0
    for pod in active:
        moment = available_at(pod, rs.spec.min_ready_seconds)
        if moment is None:
            continue
        ready += 1
        if rs.spec.min_ready_seconds == 0 or moment <= now:
            available += 1
        else:
            plan.again((moment - now).total_seconds())
    new = ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=sum(1 for pod in active if labels <= pod.metadata.labels.items()),
        ready_replicas=ready,
        available_replicas=available,
        terminating_replicas=terminating,
        observed_generation=rs.metadata.generation,
        conditions=_conditions(view, now),
    )
    if new == rs.status:
        return
    status: dict[str, Any] = {
        "replicas": new.replicas,
        "fullyLabeledReplicas": new.fully_labeled_replicas,
        "readyReplicas": new.ready_replicas,
        "availableReplicas": new.available_replicas,
        "terminatingReplicas": new.terminating_replicas,
        "observedGeneration": new.observed_generation,
    }
    if new.conditions or rs.status.conditions:
        status["conditions"] = conditions.documents(new.conditions)
    plan.add(UpdateStatus(ReplicaSet, rs.name, status, rs.namespace, uid=rs.uid))


def _conditions(view: View, now: dt.datetime) -> tuple[Any, ...]:
    present = view.replica_set.status.conditions
    failure = view.failure
    if failure is None or failure.kind != "Pod":
        return conditions.drop(present, "ReplicaFailure")
    reason = "FailedCreate" if failure.verb == "create" else "FailedDelete"
    return conditions.put(present, conditions.build(present, "ReplicaFailure", "True", reason, failure.message, now))


class ReplicaSetController:
    """Looks at a ReplicaSet when it or one of its pods changes."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, caches: Caches) -> None:
        self._sets = caches["ReplicaSet"]
        self._pods = caches["Pod"]

    def watch(self, enqueue: Enqueue) -> None:
        def changed(old: ReplicaSet | None, new: ReplicaSet | None) -> None:
            rs = new or old
            assert rs is not None
            enqueue((rs.namespace, rs.name), new.metadata.revision if new else self._sets.revision)

        def pod_changed(old: Pod | None, new: Pod | None) -> None:
            cause = new.metadata.revision if new else self._pods.revision
            for pod in (old, new):
                owner = pod.metadata.controller if pod is not None else None
                if owner is not None and owner.kind == "ReplicaSet" and pod is not None:
                    enqueue((pod.namespace, owner.name), cause)
            if new is not None and new.metadata.controller is None and new.active:
                for rs in self._sets.list(new.namespace):
                    if from_label_selector(rs.spec.selector).matches(new.metadata.labels):
                        enqueue((rs.namespace, rs.name), cause)

        self._sets.subscribe(changed)
        self._pods.subscribe(pod_changed)

    async def observe(self, key: tuple[str, str], failure: Failure | None) -> View | None:
        rs = self._sets.get(*key)
        if rs is None:
            return None
        own = self._pods.by_index("owner", rs.uid)
        selector = from_label_selector(rs.spec.selector)
        orphans = [
            pod
            for pod in self._pods.by_index("orphan", rs.namespace)
            if pod.metadata.controller is None and selector.matches(pod.metadata.labels)
        ]
        crowding: Mapping[str, int] = {}
        if len(own) > rs.spec.replicas:  # only then is anything deleted
            crowding = self._crowding(rs)
        pods = sorted((*own, *orphans), key=lambda pod: pod.name)
        return View(rs, tuple(pods), crowding, failure)

    def _crowding(self, rs: ReplicaSet) -> Mapping[str, int]:
        owner = rs.metadata.controller
        related = self._sets.by_index("owner", owner.uid) if owner is not None else [rs]
        return Counter(
            pod.spec.node_name
            for one in related
            for pod in self._pods.by_index("owner", one.uid)
            if pod.active and pod.spec.node_name
        )
