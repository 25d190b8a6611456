"""Rules for volumes: one source each, and what each source needs.

Source: Kubernetes' core validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.registry import formats
from control.registry.pods.containers import (
    VOLUME_FIELDS,
    validate_field_ref,
    validate_inner_path,
    validate_resource_ref,
)
from control.registry.problems import Problems, at
from steersman import quantity

HOST_PATH_TYPES = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
MODE_MAX = 0o777  # permission bits of a projected file
TOKEN_SECONDS = (600, 1 << 32)  # shortest and longest life that may be asked of a projected token


def validate_volumes(volumes: Any, path: str, problems: Problems) -> None:
    """Check a pod spec's volumes."""
    names = set()
    for index, volume in enumerate(volumes):
        where = at(path, index)
        name = volume.get("name", "")
        if not name:
            problems.required(f"{where}.name")
        else:
            problems.format(f"{where}.name", name, formats.dns_label(name))
            if name in names:
                problems.duplicate(f"{where}.name", name)
            names.add(name)
        sources = [kind for kind in volume if kind != "name"]
        if not sources:
            problems.required(where, "must specify a volume type")
        for kind in sources[1:]:
            problems.forbidden(f"{where}.{kind}", "may not specify more than 1 volume type")
        if sources:
            _validate_source(sources[0], volume[sources[0]], f"{where}.{sources[0]}", problems)


def _validate_source(kind: str, source: Mapping[str, Any], path: str, problems: Problems) -> None:
    match kind:
        case "emptyDir":
            if "sizeLimit" in source and quantity.parse(source["sizeLimit"]) < 0:
                problems.forbidden(f"{path}.sizeLimit", "must not be negative")
            if not source.get("medium", "").startswith("HugePages"):
                problems.one_of(f"{path}.medium", source.get("medium", ""), ("", "Memory"))
        case "hostPath":
            _require(source, path, "path", problems)
            if ".." in source.get("path", "").split("/"):
                problems.invalid(f"{path}.path", source["path"], "must not contain '..'")
            problems.one_of(f"{path}.type", source.get("type", ""), HOST_PATH_TYPES)
        case "configMap":
            _require(source, path, "name", problems)
            _validate_files(source, path, problems)
        case "secret":
            _require(source, path, "secretName", problems)
            _validate_files(source, path, problems)
        case "persistentVolumeClaim":
            _require(source, path, "claimName", problems)
        case "nfs":
            _require(source, path, "server", problems)
            _require(source, path, "path", problems)
            if source.get("path") and not source["path"].startswith("/"):
                problems.invalid(f"{path}.path", source["path"], "must be an absolute path")
        case "downwardAPI":
            _validate_mode(source, path, "defaultMode", problems)
            _validate_downward(source.get("items", ()), f"{path}.items", problems)
        case "projected":
            _validate_mode(source, path, "defaultMode", problems)
            for index, projection in enumerate(source.get("sources", ())):
                _validate_projection(projection, at(f"{path}.sources", index), problems)
        case "csi":
            _require(source, path, "driver", problems)
        case "image":
            _require(source, path, "reference", problems)
        case "ephemeral":
            _require(source, path, "volumeClaimTemplate", problems)


def _validate_projection(projection: Mapping[str, Any], path: str, problems: Problems) -> None:
    kinds = list(projection)
    if len(kinds) != 1:
        problems.forbidden(path, "must specify exactly 1 volume type")
        return
    kind, source = kinds[0], projection[kinds[0]]
    where = f"{path}.{kind}"
    match kind:
        case "configMap" | "secret":
            _require(source, where, "name", problems)
            _validate_files(source, where, problems)
        case "downwardAPI":
            _validate_downward(source.get("items", ()), f"{where}.items", problems)
        case "serviceAccountToken":
            _require(source, where, "path", problems)
            problems.between(f"{where}.expirationSeconds", source.get("expirationSeconds"), *TOKEN_SECONDS)


def _validate_files(source: Mapping[str, Any], path: str, problems: Problems) -> None:
    _validate_mode(source, path, "defaultMode", problems)
    for index, item in enumerate(source.get("items", ())):
        where = at(f"{path}.items", index)
        _require(item, where, "key", problems)
        _require(item, where, "path", problems)
        if item.get("path"):
            validate_inner_path(item["path"], f"{where}.path", problems)
        _validate_mode(item, where, "mode", problems)


def _validate_downward(items: Any, path: str, problems: Problems) -> None:
    for index, item in enumerate(items):
        where = at(path, index)
        _require(item, where, "path", problems)
        if item.get("path"):
            validate_inner_path(item["path"], f"{where}.path", problems)
        _validate_mode(item, where, "mode", problems)
        if ("fieldRef" in item) == ("resourceFieldRef" in item):
            problems.required(where, "exactly one of fieldRef and resourceFieldRef")
        elif "fieldRef" in item:
            validate_field_ref(item["fieldRef"], f"{where}.fieldRef", VOLUME_FIELDS, problems)
        else:
            validate_resource_ref(item["resourceFieldRef"], f"{where}.resourceFieldRef", problems)
            if not item["resourceFieldRef"].get("containerName"):
                problems.required(f"{where}.resourceFieldRef.containerName")


def _require(source: Mapping[str, Any], path: str, name: str, problems: Problems) -> None:
    if not source.get(name):
        problems.required(f"{path}.{name}")


def _validate_mode(source: Mapping[str, Any], path: str, name: str, problems: Problems) -> None:
    mode = source.get(name)
    if mode is not None and not 0 <= mode <= MODE_MAX:
        problems.invalid(f"{path}.{name}", mode, "must be a number between 0 and 0777 (octal), both inclusive")
