"""Namespace: empty one that is being deleted, then let it go.

A terminating namespace takes no new objects (admission sees to that). All that is in it is deleted kind by kind, pods
with their own grace; what has finalizers is waited for. When the caches show nothing any more, every kind is asked once
live, because an object may have been created at the last moment; only then the finalizer `kubernetes` is removed and
the API removes the namespace. Conditions say what is waited for, in Kubernetes' words.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from control.controllers import conditions
from control.controllers.intents import Delete, Failure, Patch, Plan, Result, UpdateStatus
from control.controllers.runtime import Caches, Enqueue
from control.controllers.served import Served
from steersman import ApiError, AsyncClient
from steersman.types import KubeObject, Namespace
from steersman.types.meta import Condition

NAME = "namespace-controller"
FINALIZER = "kubernetes"
ROUND_MAX = 400  # deletions asked for at once: one batch
POLL_S = 5.0  # look again at what no watch tells of; everything else comes by watch

CONTENT_DELETED = "All content successfully deleted, may be waiting on finalization"
CONTENT_GONE = "All content successfully removed"
FINALIZERS_GONE = "All content-preserving finalizers finished"


@dataclass(frozen=True, slots=True)
class Content:
    """One object in the namespace; `kind` as an intent names it, `resource` as people do ("pods")."""

    kind: str
    resource: str
    obj: KubeObject


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    namespace: the one that is looked at.
    content: what is in it, from the caches or, when these show nothing, from live lists.
    problem: why the content could not be listed, "" when it could.
    """

    namespace: Namespace
    content: tuple[Content, ...] = ()
    problem: str = ""
    failure: Failure | None = None


def reconcile(view: View, now: dt.datetime) -> Result:
    """Delete what is left, or finalize."""
    plan = Plan()
    namespace = view.namespace
    if not namespace.deleting:
        return plan.result()
    pending = [item for item in view.content if not item.obj.deleting]
    for item in pending[:ROUND_MAX]:
        obj = item.obj
        plan.add(
            Delete(item.kind, obj.name, obj.namespace, uid=obj.uid, propagation="Background"),
            f"delete {item.resource} {obj.name}: its namespace {namespace.name} is terminating",
        )
    if len(pending) > ROUND_MAX:
        plan.again(0.0)
    found = _conditions(view, now)
    if view.content or view.problem:
        plan.again(POLL_S)
    elif FINALIZER in namespace.spec.finalizers:
        rest = [name for name in namespace.spec.finalizers if name != FINALIZER]
        plan.add(
            Patch(Namespace, namespace.name, {"spec": {"finalizers": rest}}, subresource="finalize", uid=namespace.uid),
            f"remove the finalizer {FINALIZER} of namespace {namespace.name}: nothing is left in it",
        )
        return plan.result()
    if found != namespace.status.conditions:
        status = {"phase": "Terminating", "conditions": conditions.documents(found)}
        plan.add(UpdateStatus(Namespace, namespace.name, status, uid=namespace.uid))
    return plan.result()


def _conditions(view: View, now: dt.datetime) -> tuple[Condition, ...]:
    found = view.namespace.status.conditions

    def set_to(kind: str, wrong: bool, reason: str, message: str, fine: tuple[str, str]) -> None:
        nonlocal found
        verdict = ("True", reason, message) if wrong else ("False", *fine)
        found = conditions.put(found, conditions.build(found, kind, *verdict, now))

    set_to(
        "NamespaceDeletionDiscoveryFailure",
        bool(view.problem),
        "DiscoveryFailed",
        view.problem,
        ("ResourcesDiscovered", "All resources successfully discovered"),
    )
    refused = view.failure is not None and view.failure.verb == "delete"
    set_to(
        "NamespaceDeletionContentFailure",
        refused,
        "ContentDeletionFailed",
        view.failure.message if view.failure is not None else "",
        ("ContentDeleted", CONTENT_DELETED),
    )
    kinds = Counter(item.resource for item in view.content)
    remaining = ", ".join(f"{resource} has {count} resource instances" for resource, count in sorted(kinds.items()))
    set_to(
        "NamespaceContentRemaining",
        bool(kinds),
        "SomeResourcesRemain",
        f"Some resources are remaining: {remaining}",
        ("ContentRemoved", CONTENT_GONE),
    )
    finalizers = Counter(name for item in view.content for name in item.obj.metadata.finalizers)
    holding = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    set_to(
        "NamespaceFinalizersRemaining",
        bool(finalizers),
        "SomeFinalizersRemain",
        f"Some content in the namespace has finalizers remaining: {holding}",
        ("ContentHasNoFinalizers", FINALIZERS_GONE),
    )
    return found


class NamespaceController:
    """Looks at a namespace that is being deleted, when it or anything in it changes."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, client: AsyncClient, caches: Caches, served: Sequence[Served]) -> None:
        self._client = client
        self._namespaces = caches["Namespace"]
        self._served = [one for one in served if one.namespaced]

    def watch(self, enqueue: Enqueue) -> None:
        def changed(old: Namespace | None, new: Namespace | None) -> None:  # noqa: ARG001
            if new is not None and new.deleting:
                enqueue(new.name, new.metadata.revision)

        self._namespaces.subscribe(changed)
        for one in self._served:
            cache = one.cache

            def gone(old: Any, new: Any, cache: Any = cache) -> None:
                if new is None and old is not None:
                    namespace = self._namespaces.get("", old.namespace)
                    if namespace is not None and namespace.deleting:
                        enqueue(old.namespace, cache.revision)

            cache.subscribe(gone)

    async def observe(self, key: str, failure: Failure | None) -> View | None:
        namespace = self._namespaces.get("", key)
        if namespace is None or not namespace.deleting:
            return None
        content = tuple(Content(one.kind, one.resource, obj) for one in self._served for obj in one.cache.list(key))
        if content:
            return View(namespace, content, "", failure)
        found: list[Content] = []
        try:
            for one in self._served:
                listed = await self._client.list(one.view, key, limit=ROUND_MAX)
                found.extend(Content(one.kind, one.resource, obj) for obj in listed.items)
        except ApiError as error:
            return View(namespace, (), f"Cannot list the content: {error}", failure)
        return View(namespace, tuple(found), "", failure)
