"""Garbage collection: an object goes when none of its owners is left.

Owners are named by `metadata.ownerReferences`, by uid. The three ways to delete an owner:
- background: the API removes it at once; its dependents are found ownerless here and deleted.
- foreground: the API sets the finalizer `foregroundDeletion`; dependents are deleted first, and when none is left that
  blocks its owner's deletion, the finalizer is removed.
- orphan: the finalizer `orphan`; dependents lose their reference, then the finalizer is removed.

An owner that no cache shows is read live before it counts as absent: a cache may be behind, and deleting wrongly
cannot be mended. An owner that was seen absent stays absent, since uids are never used twice. A reference to a kind
that is not served counts as present, because nothing can be known of it. Source of the rules:
k8s.io/kubernetes/pkg/controller/garbagecollector.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from control.controllers.intents import WARNING, Delete, Failure, Patch, Plan, RecordEvent, Result
from control.controllers.runtime import Enqueue
from control.controllers.served import Served
from control.events import reference
from steersman import ApiError, AsyncClient
from steersman.types import KubeObject, OwnerReference

NAME = "generic-garbage-collector"
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
ABSENT_REMEMBERED = 10_000  # uids of owners known to be gone; a forgotten one is read live again


class Owner(Enum):
    """What is known of an owner."""

    PRESENT = "present"
    ABSENT = "absent"
    WAITING = "waiting for its dependents to go"
    INVALID = "invalid"  # a namespaced owner of a cluster-scoped object: it cannot be found, so the object is kept


class Key(NamedTuple):
    """Names one object of any kind; `kind` is "apps/v1/Deployment"."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Dependent:
    """An object that names the one looked at as its owner."""

    key: Key
    obj: KubeObject
    reference: OwnerReference
    has_other_owner: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    key, obj: the object looked at.
    owners: what is known of each of its owners, by uid.
    dependents: objects that name it as their owner; only filled while it is being deleted with a finalizer of ours.
    has_dependents: whether it owns anything.
    """

    key: Key
    obj: KubeObject
    owners: Mapping[str, Owner] = field(default_factory=dict)
    dependents: tuple[Dependent, ...] = ()
    has_dependents: bool = False


def reconcile(view: View, now: dt.datetime) -> Result:  # noqa: ARG001 - every decision has this form
    """Delete the object, its dependents, or references, as its owners and finalizers ask."""
    plan = Plan()
    finalizers = view.obj.metadata.finalizers
    if view.obj.deleting:
        if ORPHAN in finalizers:
            _orphan(view, plan)
        elif FOREGROUND in finalizers:
            _foreground(view, plan)
        return plan.result()
    if view.obj.metadata.owner_references:
        _judge_owners(view, plan)
    return plan.result()


def _judge_owners(view: View, plan: Plan) -> None:
    obj, references = view.obj, view.obj.metadata.owner_references
    states = {ref.uid: view.owners.get(ref.uid, Owner.PRESENT) for ref in references}
    if Owner.INVALID in states.values():
        wrong = next(ref for ref in references if states[ref.uid] is Owner.INVALID)
        message = f"a cluster-scoped object cannot be owned by {_named(wrong)}, which is in a namespace: it is kept"
        plan.add(RecordEvent(reference(obj), WARNING, "OwnerRefInvalidNamespace", message), message)
    solid = [ref for ref in references if states[ref.uid] in (Owner.PRESENT, Owner.INVALID)]
    lost = [ref for ref in references if states[ref.uid] is Owner.ABSENT]
    blocking = [ref for ref in references if states[ref.uid] is Owner.WAITING]
    if not lost and not blocking:
        return
    if solid:
        gone = [*lost, *blocking]
        plan.add(
            _drop_references(view.key, obj, [ref.uid for ref in gone]),
            f"drop the references to {', '.join(_named(ref) for ref in gone)}: another owner is left",
        )
        return
    waiting_with_dependents = blocking and view.has_dependents
    if ORPHAN in obj.metadata.finalizers:
        propagation = "Orphan"
    elif waiting_with_dependents or FOREGROUND in obj.metadata.finalizers:
        propagation = "Foreground"
    else:
        propagation = "Background"
    why = "is gone" if lost and not blocking else "is being deleted and waits for its dependents"
    owner = _named((blocking or lost)[0])
    plan.add(
        Delete(view.key.kind, obj.name, obj.namespace, uid=obj.uid, propagation=propagation),
        f"delete {obj.name}: its owner {owner} {why}",
    )


def _foreground(view: View, plan: Plan) -> None:
    """Delete the dependents; let the owner go when none is left that blocks it."""
    blocking = [d for d in view.dependents if d.reference.block_owner_deletion]
    for dependent in view.dependents:
        if dependent.obj.deleting:
            continue
        if dependent.has_other_owner:
            plan.add(
                _drop_references(dependent.key, dependent.obj, [view.obj.uid]),
                f"drop {dependent.obj.name}'s reference to {view.obj.name}: another owner is left",
            )
        else:
            plan.add(
                Delete(
                    dependent.key.kind,
                    dependent.obj.name,
                    dependent.obj.namespace,
                    uid=dependent.obj.uid,
                    propagation="Foreground",
                ),
                f"delete {dependent.obj.name}: its owner {view.obj.name} is being deleted in the foreground",
            )
    if not blocking:
        plan.add(_drop_finalizer(view, FOREGROUND), f"let {view.obj.name} go: no dependent blocks its deletion")


def _orphan(view: View, plan: Plan) -> None:
    """Take the reference from every dependent, then let the owner go."""
    for dependent in view.dependents:
        plan.add(
            _drop_references(dependent.key, dependent.obj, [view.obj.uid]),
            f"orphan {dependent.obj.name}: its owner {view.obj.name} is deleted without it",
        )
    if not view.dependents:
        plan.add(_drop_finalizer(view, ORPHAN), f"let {view.obj.name} go: its dependents are orphaned")


def _drop_references(key: Key, obj: KubeObject, uids: Sequence[str]) -> Patch:
    rest = [ref.to_dict() for ref in obj.metadata.owner_references if ref.uid not in uids]
    return Patch(
        key.kind,
        obj.name,
        {"metadata": {"ownerReferences": rest}},
        obj.namespace,
        uid=obj.uid,
        revision=obj.metadata.resource_version,
    )


def _drop_finalizer(view: View, finalizer: str) -> Patch:
    rest = [name for name in view.obj.metadata.finalizers if name != finalizer]
    return Patch(
        view.key.kind,
        view.obj.name,
        {"metadata": {"finalizers": rest}},
        view.obj.namespace,
        uid=view.obj.uid,
        revision=view.obj.metadata.resource_version,
    )


def _named(ref: OwnerReference) -> str:
    return f"{ref.kind} {ref.name}"


class GarbageCollector:
    """Looks at objects whose owners changed, and at owners that are being deleted."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, client: AsyncClient, served: Sequence[Served]) -> None:
        self._client = client
        self._served = {one.kind: one for one in served}
        self._by_group = {(one.group, one.name): one for one in served}
        self._absent: OrderedDict[str, None] = OrderedDict()

    def watch(self, enqueue: Enqueue) -> None:
        for one in self._served.values():

            def changed(old: Any, new: Any, one: Served = one) -> None:
                if new is None:
                    self._gone(one, old, enqueue)
                    return
                meta = new.metadata
                if (old is None and meta.owner_references) or (
                    old is not None and meta.owner_references != old.metadata.owner_references
                ):
                    enqueue(Key(one.kind, new.namespace, new.name), meta.revision)
                if new.deleting and (FOREGROUND in meta.finalizers or ORPHAN in meta.finalizers):
                    enqueue(Key(one.kind, new.namespace, new.name), meta.revision)

            one.cache.subscribe(changed)

    def _gone(self, one: Served, old: Any, enqueue: Enqueue) -> None:
        """An object went: look at what it owned, and at owners that waited for it."""
        self._remember_absent(old.uid)
        cause = one.cache.revision
        for dependent in self._dependents(old.uid):
            enqueue(dependent.key, cause)
        for ref in old.metadata.owner_references:
            owner = self._cached(ref, old.namespace)
            if owner is not None and owner[1].deleting:
                enqueue(Key(owner[0].kind, owner[1].namespace, owner[1].name), cause)

    def _remember_absent(self, uid: str) -> None:
        self._absent[uid] = None
        if len(self._absent) > ABSENT_REMEMBERED:
            self._absent.popitem(last=False)

    def _dependents(self, uid: str) -> list[Dependent]:
        found = []
        for one in self._served.values():
            for obj in one.cache.by_index("owners", uid):
                references = obj.metadata.owner_references
                ref = next(r for r in references if r.uid == uid)
                others = any(r.uid != uid and r.uid not in self._absent for r in references)
                found.append(Dependent(Key(one.kind, obj.namespace, obj.name), obj, ref, others))
        return found

    def _cached(self, ref: OwnerReference, namespace: str) -> tuple[Served, Any] | None:
        one = self._kind(ref)
        if one is None:
            return None
        obj = one.cache.get(namespace if one.namespaced else "", ref.name)
        return (one, obj) if obj is not None and obj.uid == ref.uid else None

    def _kind(self, ref: OwnerReference) -> Served | None:
        return self._by_group.get((ref.api_version.rpartition("/")[0], ref.kind))

    async def observe(self, key: Key, failure: Failure | None) -> View | None:  # noqa: ARG002
        obj = self._served[key.kind].cache.get(key.namespace, key.name)
        if obj is None:
            return None
        if obj.deleting:
            return View(key, obj, dependents=tuple(self._dependents(obj.uid)))
        owners = {}
        for ref in obj.metadata.owner_references:
            owners[ref.uid] = await self._owner(ref, obj.namespace)
        owns = any(one.cache.by_index("owners", obj.uid) for one in self._served.values())
        return View(key, obj, owners, (), owns)

    async def _owner(self, ref: OwnerReference, namespace: str) -> Owner:
        if ref.uid in self._absent:
            return Owner.ABSENT
        kind = self._kind(ref)
        if kind is None:
            return Owner.PRESENT
        if kind.namespaced and not namespace:
            return Owner.INVALID
        cached = self._cached(ref, namespace)
        if cached is None:
            try:
                live = await self._client.get(kind.view, ref.name, namespace if kind.namespaced else "")
            except ApiError as error:
                if error.reason != "NotFound":
                    raise
                self._remember_absent(ref.uid)
                return Owner.ABSENT
            if live.uid != ref.uid:
                self._remember_absent(ref.uid)
                return Owner.ABSENT
            owner: KubeObject = live
        else:
            owner = cached[1]
        waits = owner.deleting and FOREGROUND in owner.metadata.finalizers and ref.block_owner_deletion
        return Owner.WAITING if waits else Owner.PRESENT
