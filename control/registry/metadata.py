"""metadata: who may set which part of it, and what it may hold (meta/v1 ObjectMeta).

Writers: the server alone writes uid, resourceVersion, generation, creationTimestamp, deletionTimestamp,
deletionGracePeriodSeconds and managedFields; clients write name, generateName and namespace once, and labels,
annotations, finalizers and ownerReferences at any time (no new finalizers on an object being deleted).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from control.registry import formats
from control.registry.context import Context
from control.registry.problems import Problems, at

ANNOTATIONS_LIMIT: Final = 256 << 10  # bytes of all keys and values together: Kubernetes' limit
NAME_BASE_MAX: Final = 58  # of generateName that a generated name keeps: 63 less 5 random characters
GENERATED_SUFFIX: Final = 5

Format = Callable[[str], str | None]

SERVER_FIELDS: Final = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
)
CARRIED_OVER: Final = (
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "managedFields",
)


def fill_for_create(metadata: dict[str, Any], context: Context) -> None:
    """Give a new object its identity; what only the server may set and a client sent is dropped."""
    for name in SERVER_FIELDS:
        metadata.pop(name, None)
    metadata["uid"] = context.uid
    metadata["creationTimestamp"] = context.timestamp
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generated_name(metadata["generateName"], context.suffix)


def generated_name(base: str, suffix: str) -> str:
    """The name that generateName leads to: its first 58 characters and the random suffix."""
    return base[:NAME_BASE_MAX] + suffix[:GENERATED_SUFFIX]


def fill_for_update(metadata: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Carry over what only the server may set."""
    for name in CARRIED_OVER:
        if name in old:
            metadata[name] = old[name]
        else:
            metadata.pop(name, None)
    metadata.pop("selfLink", None)
    metadata["resourceVersion"] = old.get("resourceVersion", "")


def validate(metadata: Mapping[str, Any], namespaced: bool, name_format: Format, problems: Problems) -> None:
    """Check everything in metadata that a client may set."""
    name, base = metadata.get("name", ""), metadata.get("generateName", "")
    if base and (why := name_format(base.rstrip("-.") or "-")):
        problems.invalid("metadata.generateName", base, why)
    if not name:
        problems.required("metadata.name", "name or generateName is required")
    else:
        problems.format("metadata.name", name, name_format(name))
    namespace = metadata.get("namespace", "")
    if namespaced:
        if not namespace:
            problems.required("metadata.namespace")
        else:
            problems.format("metadata.namespace", namespace, formats.dns_label(namespace))
    elif namespace:
        problems.forbidden("metadata.namespace", "not allowed on this type")
    validate_labels(metadata.get("labels", {}), "metadata.labels", problems)
    validate_annotations(metadata.get("annotations", {}), "metadata.annotations", problems)
    for index, name in enumerate(metadata.get("finalizers", ())):
        problems.format(at("metadata.finalizers", index), name, formats.finalizer(name))
    if {"orphan", "foregroundDeletion"} <= set(metadata.get("finalizers", ())):
        problems.invalid(
            "metadata.finalizers",
            metadata["finalizers"],
            "finalizer orphan and foregroundDeletion cannot be both set",
        )
    _validate_owners(metadata.get("ownerReferences", ()), problems)


def validate_labels(labels: Mapping[str, str], path: str, problems: Problems) -> None:
    for key, value in labels.items():
        problems.format(path, key, formats.qualified_name(key))
        problems.format(path, value, formats.label_value(value))


def validate_annotations(annotations: Mapping[str, str], path: str, problems: Problems) -> None:
    size = 0
    for key, value in annotations.items():
        problems.format(path, key, formats.qualified_name(key.lower()))
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        problems.too_long(path, ANNOTATIONS_LIMIT)


def _validate_owners(owners: Any, problems: Problems) -> None:
    controllers = []
    for index, owner in enumerate(owners):
        path = at("metadata.ownerReferences", index)
        if not owner.get("apiVersion"):
            problems.invalid(f"{path}.apiVersion", owner.get("apiVersion", ""), "version must not be empty")
        for name in ("kind", "name", "uid"):
            if not owner.get(name):
                problems.invalid(f"{path}.{name}", owner.get(name, ""), "must not be empty")
        if owner.get("apiVersion") == "v1" and owner.get("kind") == "Event":
            problems.invalid(path, owner, "v1, Kind=Event is disallowed from being an owner")
        if owner.get("controller"):
            controllers.append(f"{owner.get('kind')}/{owner.get('name')}")
    if len(controllers) > 1:
        problems.invalid(
            "metadata.ownerReferences",
            owners,
            "Only one reference can have Controller set to true. Found "
            f'"true" in references for {" and ".join(controllers)}',
        )


def validate_update(metadata: Mapping[str, Any], old: Mapping[str, Any], problems: Problems) -> None:
    """Check what may not change, beyond what `fill_for_update` carries over."""
    problems.immutable("metadata.name", metadata.get("name", ""), old.get("name", ""))
    problems.immutable("metadata.namespace", metadata.get("namespace", ""), old.get("namespace", ""))
    if old.get("deletionTimestamp"):
        added = [name for name in metadata.get("finalizers", ()) if name not in old.get("finalizers", ())]
        if added:
            problems.forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {added}",
            )
