"""Deployment: one ReplicaSet per template, and pods moved from the old ones to the new at a controlled rate.

A round does, in Kubernetes' order of precedence: nothing but status when the Deployment is being deleted; scale, but
roll nothing, while it is paused or its `replicas` changed; else one step of its strategy. A step is made from what the
ReplicaSets report, every change in it is safe by itself, and the next report brings the next step.

Invariants of RollingUpdate, for any order of events: the ReplicaSets together never want more than replicas + maxSurge
pods, and a set is scaled down only while at least replicas - maxUnavailable pods stay available.

`undo` is a client's patch of the template, as kubectl does it: the ReplicaSet that has that template becomes the new
one again and gets the next revision. Source of the rules: k8s.io/kubernetes/pkg/controller/deployment.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.controllers import rollout
from control.controllers.deployment_status import StatusDraft, write_status
from control.controllers.intents import NORMAL, WARNING, Create, Delete, Failure, Patch, Plan, RecordEvent, Result
from control.controllers.owners import claim, controller_reference
from control.controllers.runtime import Caches, Enqueue
from control.events import reference
from control.views import Deployment, Pod, ReplicaSet
from steersman.selectors import from_label_selector

NAME = "deployment-controller"


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    deployment: what is wanted.
    replica_sets: of its namespace, those that it controls and those without a controller that its selector matches.
    occupant: whatever ReplicaSet has the name that the present template's would get.
    old_pods: for Recreate, pods of its ReplicaSets that still run, by the uid of their ReplicaSet.
    failure: why the last round's writes were refused.
    """

    deployment: Deployment
    replica_sets: tuple[ReplicaSet, ...]
    occupant: ReplicaSet | None = None
    old_pods: dict[str, int] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(slots=True)
class _Round:
    """What one decision works on: `sizes` is what each ReplicaSet shall have, changed as the decision goes on."""

    deployment: Deployment
    new: ReplicaSet | None
    old: list[ReplicaSet]
    plan: Plan
    draft: StatusDraft
    sizes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def reconcile(view: View, now: dt.datetime) -> Result:
    """One step towards the template, and the status."""
    plan = Plan()
    deployment = view.deployment
    selector = from_label_selector(deployment.spec.selector)
    if not selector:
        message = "This deployment is selecting all pods. A non-empty selector is required."
        plan.add(RecordEvent(reference(deployment), WARNING, "SelectingAll", message))
        return plan.result()
    sets = rollout.oldest_first(claim(deployment, selector, view.replica_sets, plan))
    new = rollout.newest(deployment, sets)
    old = [rs for rs in sets if rs is not new]
    draft = StatusDraft(view.failure)
    current = _Round(deployment, new, old, plan, draft, {rs.name: rs.spec.replicas for rs in sets})
    if deployment.deleting:
        write_status(deployment, new, old, draft, now, plan)
        return plan.result()
    if deployment.spec.paused or _scaling(current):
        _adjust_new(current)
        _scale(current)
    elif deployment.spec.strategy.type == "Recreate":
        _recreate(current, view)
    else:
        _roll(current, view)
    _write_sizes(current)
    if not deployment.spec.paused:
        _clean_up(current)
    write_status(deployment, new, old, draft, now, plan)
    return plan.result()


def _scaling(current: _Round) -> bool:
    """Whether `replicas` changed since the ReplicaSets were last sized."""
    wanted = current.deployment.spec.replicas
    for rs in (current.new, *current.old):
        if rs is not None and rs.spec.replicas > 0:
            sized_for = rollout.annotated(rs, rollout.DESIRED)
            if sized_for is not None and sized_for != wanted:
                return True
    return False


# --- strategies ---


def _roll(current: _Round, view: View) -> None:
    """RollingUpdate: grow the new set as far as the surge allows, shrink the old ones as far as availability allows."""
    deployment = current.deployment
    new = _ensure_new(current, view)
    if new is not None:
        current.sizes[new.name] = rollout.new_replicas(deployment, current.sizes[new.name], current.total)
    if sum(rs.spec.replicas for rs in current.old) == 0:
        return
    new_size = current.sizes[new.name] if new is not None else 0
    new_available = rollout.available(new, new_size) if new is not None else 0
    minimum = deployment.spec.replicas - rollout.limits(deployment)[1]
    removable = current.total - minimum - (new_size - new_available)
    if removable <= 0:
        return
    removed = 0
    for rs in current.old:  # first the pods that serve nobody
        unhealthy = max(rs.spec.replicas - rollout.available(rs), 0)
        part = min(removable - removed, unhealthy)
        current.sizes[rs.name] -= part
        removed += part
    spare = sum(rollout.available(rs, current.sizes[rs.name]) for rs in current.old) + new_available - minimum
    for rs in current.old:
        part = min(current.sizes[rs.name], max(spare, 0))
        current.sizes[rs.name] -= part
        spare -= part


def _recreate(current: _Round, view: View) -> None:
    """Recreate: no pod of the new template starts before the last of the old ones is gone."""
    if any(rs.spec.replicas for rs in current.old):
        for rs in current.old:
            current.sizes[rs.name] = 0
        _adjust_new(current)
        return
    waiting = sum(count for uid, count in view.old_pods.items() if current.new is None or uid != current.new.uid)
    if waiting:
        current.plan.reasons.append(f"wait for {waiting} pods of older templates to end")
        _adjust_new(current)
        return
    new = _ensure_new(current, view)
    if new is not None:
        current.sizes[new.name] = current.deployment.spec.replicas


def _scale(current: _Round) -> None:
    """Follow a change of `replicas` without rolling: one active set takes all, several share in proportion."""
    wanted = current.deployment.spec.replicas
    sets = [rs for rs in (*current.old, current.new) if rs is not None]
    active = [rs for rs in sets if rs.spec.replicas > 0]
    if len(active) <= 1:
        only = active[0] if active else current.new or (sets[-1] if sets else None)
        if only is not None:
            current.sizes[only.name] = wanted
        return
    new = current.new
    if new is not None and _saturated(current.deployment, new):
        for rs in current.old:
            current.sizes[rs.name] = 0
        return
    if current.deployment.spec.strategy.type == "RollingUpdate":
        current.sizes.update(rollout.proportions(current.deployment, active))


def _saturated(deployment: Deployment, new: ReplicaSet) -> bool:
    wanted = deployment.spec.replicas
    return (
        new.spec.replicas == wanted
        and rollout.annotated(new, rollout.DESIRED) == wanted
        and new.status.available_replicas == wanted
    )


# --- the new ReplicaSet ---


def _ensure_new(current: _Round, view: View) -> ReplicaSet | None:
    """The ReplicaSet of the present template; asks for it, or for another name, when there is none yet."""
    deployment = current.deployment
    if current.new is not None:
        _adjust_new(current)
        return current.new
    name, digest = rollout.child_name(deployment)
    if view.occupant is not None:
        current.draft.collision_count = (deployment.status.collision_count or 0) + 1
        current.plan.reasons.append(f"the name {name} is taken by another ReplicaSet: choose the next one")
        return None
    size = rollout.new_replicas(deployment, 0, current.total)
    number = _next_revision(current)
    document = _replica_set_document(deployment, name, digest, size, number)
    message = f"Scaled up replica set {name} from 0 to {size}"
    current.plan.add(
        Create(
            document,
            deployment.namespace,
            done=RecordEvent(reference(deployment), NORMAL, "ScalingReplicaSet", message) if size else None,
            failed=RecordEvent(
                reference(deployment), WARNING, "ReplicaSetCreateError", f'Failed to create new replica set "{name}": '
            ),
        ),
        f"create ReplicaSet {name} with {size} pods: no other has the present template",
    )
    current.draft.created = name
    _write_revision(deployment, number, current.plan)
    return None


def _next_revision(current: _Round) -> int:
    return max((rollout.revision(rs.metadata.annotations) for rs in current.old), default=0) + 1


def _replica_set_document(deployment: Deployment, name: str, digest: str, size: int, number: int) -> dict[str, Any]:
    template = msgspec.json.decode(deployment.spec.template)
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), rollout.HASH_LABEL: digest}
    selector = deployment.spec.selector.to_dict()
    selector["matchLabels"] = {**selector.get("matchLabels", {}), rollout.HASH_LABEL: digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment.namespace,
            "labels": labels,
            "annotations": {
                **_copied(deployment),
                rollout.REVISION: str(number),
                rollout.DESIRED: str(deployment.spec.replicas),
                rollout.MAXIMUM: str(rollout.maximum(deployment)),
            },
            "ownerReferences": [controller_reference(deployment)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": {**template, "metadata": {**meta, "labels": labels}},
        },
    }


def _copied(deployment: Deployment) -> dict[str, str]:
    """Annotations that a ReplicaSet takes over, such as kubernetes.io/change-cause."""
    return {key: value for key, value in deployment.metadata.annotations.items() if key not in rollout.NOT_COPIED}


def _adjust_new(current: _Round) -> None:
    """Give the new set its revision, the Deployment's annotations and minReadySeconds."""
    new, deployment = current.new, current.deployment
    if new is None:
        return
    have = new.metadata.annotations
    annotations = {key: value for key, value in _copied(deployment).items() if have.get(key) != value}
    number = rollout.revision(have)
    highest_old = _next_revision(current) - 1
    if number <= highest_old:
        if number:
            history = have.get(rollout.REVISION_HISTORY, "")
            annotations[rollout.REVISION_HISTORY] = f"{history},{number}" if history else str(number)
        number = highest_old + 1
        annotations[rollout.REVISION] = str(number)
    patch: dict[str, Any] = {}
    if annotations:
        patch["metadata"] = {"annotations": annotations}
    if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds:
        patch["spec"] = {"minReadySeconds": deployment.spec.min_ready_seconds}
    if patch:
        current.plan.add(Patch(ReplicaSet, new.name, patch, new.namespace, uid=new.uid))
    current.draft.found = new.name
    _write_revision(deployment, number, current.plan)


def _write_revision(deployment: Deployment, number: int, plan: Plan) -> None:
    if rollout.revision(deployment.metadata.annotations) != number:
        patch = {"metadata": {"annotations": {rollout.REVISION: str(number)}}}
        plan.add(Patch(Deployment, deployment.name, patch, deployment.namespace, uid=deployment.uid))


# --- writing ---


def _write_sizes(current: _Round) -> None:
    """Scale the sets whose size changed, and note on each what it was sized for."""
    deployment = current.deployment
    desired, most = str(deployment.spec.replicas), str(rollout.maximum(deployment))
    for rs in (*current.old, current.new):
        if rs is None:
            continue
        size = current.sizes[rs.name]
        have = rs.metadata.annotations
        noted = have.get(rollout.DESIRED) == desired and have.get(rollout.MAXIMUM) == most
        if size == rs.spec.replicas and (noted or size == 0):
            continue
        patch: dict[str, Any] = {
            "metadata": {"annotations": {rollout.DESIRED: desired, rollout.MAXIMUM: most}},
        }
        done = None
        reason = ""
        if size != rs.spec.replicas:
            patch["spec"] = {"replicas": size}
            direction = "up" if size > rs.spec.replicas else "down"
            reason = f"Scaled {direction} replica set {rs.name} from {rs.spec.replicas} to {size}"
            done = RecordEvent(reference(deployment), NORMAL, "ScalingReplicaSet", reason)
        current.plan.add(Patch(ReplicaSet, rs.name, patch, rs.namespace, uid=rs.uid, done=done), reason)


def _clean_up(current: _Round) -> None:
    """Delete the oldest revisions over the limit, once nothing of them runs and the rollout is complete."""
    deployment = current.deployment
    if not _complete(deployment):
        return
    idle = [
        rs
        for rs in current.old
        if not rs.deleting
        and rs.status.replicas == 0
        and rs.spec.replicas == 0
        and current.sizes[rs.name] == 0
        and rs.status.observed_generation >= rs.metadata.generation
    ]
    alive = [rs for rs in current.old if not rs.deleting]
    surplus = len(alive) - deployment.spec.revision_history_limit
    idle.sort(key=lambda rs: rollout.revision(rs.metadata.annotations))
    for rs in idle[: max(surplus, 0)]:
        current.plan.add(
            Delete(ReplicaSet, rs.name, rs.namespace, uid=rs.uid, propagation="Background"),
            f"delete ReplicaSet {rs.name}: revisionHistoryLimit is {deployment.spec.revision_history_limit}",
        )


def _complete(deployment: Deployment) -> bool:
    status, wanted = deployment.status, deployment.spec.replicas
    return (
        status.updated_replicas == status.replicas == status.available_replicas == wanted
        and status.observed_generation >= deployment.metadata.generation
    )


def still_running(pods: Sequence[Pod]) -> int:
    """Pods that may still be doing something: all but the finished ones, also those being deleted."""
    return sum(1 for pod in pods if not pod.finished)


class DeploymentController:
    """Looks at a Deployment when it, one of its ReplicaSets, or for Recreate one of its pods changes."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, caches: Caches) -> None:
        self._deployments = caches["Deployment"]
        self._sets = caches["ReplicaSet"]
        self._pods = caches["Pod"]

    def watch(self, enqueue: Enqueue) -> None:
        def changed(old: Deployment | None, new: Deployment | None) -> None:
            deployment = new or old
            assert deployment is not None
            cause = new.metadata.revision if new else self._deployments.revision
            enqueue((deployment.namespace, deployment.name), cause)

        def set_changed(old: ReplicaSet | None, new: ReplicaSet | None) -> None:
            cause = new.metadata.revision if new else self._sets.revision
            for rs in (old, new):
                owner = rs.metadata.controller if rs is not None else None
                if owner is not None and owner.kind == "Deployment" and rs is not None:
                    enqueue((rs.namespace, owner.name), cause)
            if new is not None and new.metadata.controller is None:
                for deployment in self._deployments.list(new.namespace):
                    if from_label_selector(deployment.spec.selector).matches(new.metadata.labels):
                        enqueue((deployment.namespace, deployment.name), cause)

        def pod_gone(old: Pod | None, new: Pod | None) -> None:
            if old is None or (new is not None and not new.finished):
                return
            owner = old.metadata.controller
            rs = self._sets.get(old.namespace, owner.name) if owner is not None else None
            parent = rs.metadata.controller if rs is not None else None
            if parent is None or parent.kind != "Deployment":
                return
            deployment = self._deployments.get(old.namespace, parent.name)
            if deployment is not None and deployment.spec.strategy.type == "Recreate":
                enqueue((old.namespace, parent.name), self._pods.revision)

        self._deployments.subscribe(changed)
        self._sets.subscribe(set_changed)
        self._pods.subscribe(pod_gone)

    async def observe(self, key: tuple[str, str], failure: Failure | None) -> View | None:
        deployment = self._deployments.get(*key)
        if deployment is None:
            return None
        own = self._sets.by_index("owner", deployment.uid)
        selector = from_label_selector(deployment.spec.selector)
        orphans = [
            rs for rs in self._sets.by_index("orphan", deployment.namespace) if selector.matches(rs.metadata.labels)
        ]
        sets = (*own, *orphans)
        old_pods = {}
        if deployment.spec.strategy.type == "Recreate":
            old_pods = {rs.uid: still_running(self._pods.by_index("owner", rs.uid)) for rs in sets}
        occupant = self._sets.get(deployment.namespace, rollout.child_name(deployment)[0])
        return View(deployment, sets, occupant, old_pods, failure)
