"""How an object is made, changed and deleted: what is the same for every kind.

A kind's own part is in its `Resource`. The order is Kubernetes' (registry/rest): system fields, the kind's resets,
validation; on update first what is carried over from the stored object, then validation of the whole, then of the change.

Status has another writer than spec. So a plain update keeps the stored status, whatever the document says, and a
status update keeps everything but status, labels and annotations. `metadata.generation` counts changes of the spec.

Deletion is a decision (`Deletion`): an object that something holds (finalizers, a pod's containers) is marked with
deletionTimestamp and stays; one that nothing holds goes at once. The update that removes the last hold must then
remove the object: `finished` tells.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from control.registry import actedon, metadata
from control.registry.codec import copy
from control.registry.context import Context
from control.registry.core import NAMESPACES
from control.registry.pods.lifecycle import grace_period
from control.registry.problems import Problems
from control.registry.resources import Document, Resource, spec_of
from steersman.clock import parse_time, rfc3339
from steersman.errors import ApiError, bad_request, conflict

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"  # finalizers that the garbage collector answers to
PROPAGATION: Final = {"Orphan": (ORPHAN,), "Foreground": (FOREGROUND,), "Background": ()}
STALE: Final = "the object has been modified; please apply your changes to the latest version and try again"
STATUS_METADATA: Final = ("labels", "annotations")  # what a status update may change beside the status


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete request leads to.

    Attributes:
        document: the object's last state (remove) or its next one (stay).
        remove: whether the object goes at once.
        reason: what holds an object that stays, for the answer and the log; empty when it goes.
    """

    document: Document
    remove: bool
    reason: str = ""


def prepare_create(resource: Resource, document: Document, context: Context) -> list[str]:
    """Make a decoded document ready to be stored, in place; answer the warnings.

    Raises:
        ApiError: 422, with every field that is wrong.
    """
    meta = document["metadata"]
    metadata.fill_for_create(meta, context)
    status = resource.initial_status(document)
    document.pop("status", None)
    if status is not None:
        document["status"] = status
    if resource.has_generation:
        meta["generation"] = 1
    resource.prepare(document)
    problems = Problems()
    metadata.validate(meta, resource.namespaced, resource.name_format, problems)
    resource.validate(document, problems)
    problems.refuse(resource.kind, meta.get("name", "") or meta.get("generateName", ""), resource.group)
    return actedon.warnings(resource, document)


def prepare_update(
    resource: Resource,
    document: Document,
    old: Mapping[str, Any],
    context: Context,  # noqa: ARG001 - the time is for metadata.managedFields, the place of server-side apply
    subresource: str = "",
) -> list[str]:
    """Make a decoded document ready to replace `old`, in place; answer the warnings.

    After it `document == old` means that the update changes nothing and need not be written.

    Raises:
        ApiError: 400, the names differ; 409, the document was made from another state or object; 422, every field that
            is wrong or may not change; 404, the subresource is not one that can be updated.
    """
    old = dict(old)
    _check_identity(resource, document["metadata"], old["metadata"])
    problems = Problems()
    match subresource:
        case "":
            _update_whole(resource, document, old, problems)
        case "status" if resource.has_status:
            _replace(document, _with_status(document, old))
            metadata.validate(document["metadata"], resource.namespaced, resource.name_format, problems)
            resource.validate_status(document, old, problems)
        case "finalize" if "finalize" in resource.subresources:
            finalizers = document.get("spec", {}).get("finalizers", [])
            _replace(document, copy(old))
            document["spec"]["finalizers"] = finalizers
        case _:
            raise ApiError("NotFound", f"{resource.qualified} have no subresource {subresource!r} that can be updated")
    problems.refuse(resource.kind, document["metadata"]["name"], resource.group)
    return actedon.warnings(resource, document) if subresource == "" and spec_of(document) != spec_of(old) else []


def _update_whole(resource: Resource, document: Document, old: Document, problems: Problems) -> None:
    meta = document["metadata"]
    metadata.fill_for_update(meta, old["metadata"])
    document.pop("status", None)
    if "status" in old:
        document["status"] = old["status"]
    resource.carry(document, old)
    if resource.has_generation and spec_of(document) != spec_of(old):
        meta["generation"] = old["metadata"].get("generation", 0) + 1
    metadata.validate(meta, resource.namespaced, resource.name_format, problems)
    metadata.validate_update(meta, old["metadata"], problems)
    resource.validate(document, problems)
    resource.validate_update(document, old, problems)


def _with_status(document: Document, old: Document) -> Document:
    result = copy(old)
    result["status"] = document.get("status", {})
    for name in STATUS_METADATA:
        if name in document["metadata"]:
            result["metadata"][name] = document["metadata"][name]
        else:
            result["metadata"].pop(name, None)
    return result


def _replace(document: Document, by: Document) -> None:
    document.clear()
    document.update(by)


def _check_identity(resource: Resource, meta: Document, old: Mapping[str, Any]) -> None:
    name = old["name"]
    if meta.get("name", name) != name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    meta["name"] = name
    if resource.namespaced and meta.setdefault("namespace", old["namespace"]) != old["namespace"]:
        raise bad_request(
            f"the namespace of the object ({meta['namespace']}) does not match the namespace on the request ({old['namespace']})"
        )
    check_preconditions(resource, old, uid=meta.get("uid", ""), revision=meta.get("resourceVersion", ""))
    if not meta.get("resourceVersion") and not resource.unconditional_update:
        problems = Problems()
        problems.invalid("metadata.resourceVersion", 0, "must be specified for an update")
        problems.refuse(resource.kind, name, resource.group)


def check_preconditions(resource: Resource, old: Mapping[str, Any], *, uid: str = "", revision: str | int = "") -> None:
    """Check that a stored object's metadata is of the object and the state that the client meant.

    Raises:
        ApiError: 409, it is not.
    """
    name, given = old["name"], str(revision or "")
    if uid and uid != old.get("uid"):
        raise conflict(
            resource.plural,
            name,
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old.get('uid')}",
            group=resource.group,
        )
    if given and given != old.get("resourceVersion"):
        raise conflict(resource.plural, name, STALE, group=resource.group)


def prepare_delete(
    resource: Resource,
    current: Mapping[str, Any],
    context: Context,
    *,
    grace: int | None = None,
    propagation: str = "",
) -> Deletion:
    """Decide what deleting an object leads to.

    `grace` is the seconds that the client grants (None: the object's own wish); only graceful kinds heed it.
    `propagation` is "Background", "Foreground" or "Orphan": what happens to the objects that this one owns; empty: as
    the object's finalizers say.

    Raises:
        ApiError: 400, the propagation is unknown.
    """
    if propagation and propagation not in PROPAGATION:
        raise bad_request(f"propagationPolicy {propagation!r} is unknown: use one of {', '.join(PROPAGATION)}")
    document = copy(dict(current))
    meta = document["metadata"]
    if propagation:
        kept = [name for name in meta.get("finalizers", ()) if name not in (ORPHAN, FOREGROUND)]
        meta["finalizers"] = [*kept, *PROPAGATION[propagation]]
        if not meta["finalizers"]:
            del meta["finalizers"]
    seconds = _grace(resource, document, grace)
    reason = _held(resource, document, seconds)
    if not reason:
        return Deletion(document, remove=True)
    _mark(resource, document, context, seconds)
    return Deletion(document, remove=False, reason=reason)


def _grace(resource: Resource, document: Document, asked: int | None) -> int:
    if not resource.graceful:
        return 0
    meta = document["metadata"]
    if "deletionTimestamp" in meta:  # a second request may only hurry it
        under_way = int(meta.get("deletionGracePeriodSeconds", 0))
        return under_way if asked is None else min(under_way, grace_period(document, asked))
    return grace_period(document, asked)


def _held(resource: Resource, document: Document, seconds: int) -> str:
    """What keeps a deleted object in the store; empty: nothing."""
    if finalizers := document["metadata"].get("finalizers"):
        return f"held by finalizers {', '.join(finalizers)}"
    if resource is NAMESPACES and document.get("spec", {}).get("finalizers"):
        return "held until everything in the namespace is gone"
    if seconds:
        return f"stopping within {seconds} s"
    return ""


def _mark(resource: Resource, document: Document, context: Context, seconds: int) -> None:
    meta = document["metadata"]
    moment = context.now + dt.timedelta(seconds=seconds)
    if "deletionTimestamp" not in meta:
        meta["deletionTimestamp"] = rfc3339(moment)
        if "generation" in meta:
            meta["generation"] += 1
    elif parse_time(meta["deletionTimestamp"]) > moment:
        meta["deletionTimestamp"] = rfc3339(moment)
    meta["deletionGracePeriodSeconds"] = seconds
    if resource is NAMESPACES:
        document.setdefault("status", {})["phase"] = "Terminating"


def finished(resource: Resource, document: Mapping[str, Any]) -> bool:
    """Whether nothing holds an object that is being deleted any more: it must be removed now."""
    meta = document["metadata"]
    return "deletionTimestamp" in meta and not _held(
        resource, dict(document), int(meta.get("deletionGracePeriodSeconds", 0)) if resource.graceful else 0
    )
