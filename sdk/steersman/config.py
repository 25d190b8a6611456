"""Where clusters are and who one is there: the SDK's configuration file.

`$STEERSMAN_CONFIG`, else `~/.steersman/config.yaml`:

    current: lab
    clusters:
      lab:
        members: ["127.0.0.1:7443"]     # gRPC addresses; any of them answers
        ca: lab/ca.crt                  # relative paths are relative to this file
        certificate: lab/admin.crt
        key: lab/admin.key
        namespace: default
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class ConfigError(Exception):
    """The configuration is missing or wrong; the message says where and how to mend it."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One cluster as one user sees it: paths are absolute."""

    name: str
    members: tuple[str, ...]
    ca: Path
    certificate: Path
    key: Path
    namespace: str = "default"


def default_path() -> Path:
    """The file that is read when none is named."""
    return Path(os.environ.get("STEERSMAN_CONFIG") or Path.home() / ".steersman" / "config.yaml")


def read(path: Path) -> dict[str, Any]:
    """The file's document, or an empty one when there is no file.

    Raises:
        ConfigError: it is not YAML of the form above.
    """
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        return {"clusters": {}}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.setdefault("clusters", {}), dict):
        raise ConfigError(f"{path}: expected a mapping with `current` and `clusters`")
    return document


def load(path: Path | None = None, cluster: str = "") -> ClusterConfig:
    """The named cluster, or the current one.

    Raises:
        ConfigError: there is none, or a field is missing.
    """
    path = path or default_path()
    document = read(path)
    name = cluster or document.get("current") or ""
    if not name:
        raise ConfigError(f"{path} names no current cluster: start one with `steer lab up`, or set `current`")
    entry = document["clusters"].get(name)
    if not isinstance(entry, dict):
        known = ", ".join(sorted(document["clusters"])) or "none"
        raise ConfigError(f"{path} has no cluster {name!r} (it has: {known})")
    missing = [key for key in ("members", "ca", "certificate", "key") if not entry.get(key)]
    if missing:
        raise ConfigError(f"{path}: clusters.{name} lacks {', '.join(missing)}")
    base = path.parent
    return ClusterConfig(
        name=name,
        members=tuple(entry["members"]),
        ca=base / entry["ca"],
        certificate=base / entry["certificate"],
        key=base / entry["key"],
        namespace=entry.get("namespace") or "default",
    )


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False))
    temporary.replace(path)


def save(cluster: ClusterConfig, path: Path | None = None, *, make_current: bool = True) -> None:
    """Add or replace a cluster; the file is replaced whole, so that a reader never sees half of it."""
    path = path or default_path()
    document = read(path)
    document["clusters"][cluster.name] = {
        "members": list(cluster.members),
        "ca": str(cluster.ca),
        "certificate": str(cluster.certificate),
        "key": str(cluster.key),
        "namespace": cluster.namespace,
    }
    if make_current:
        document["current"] = cluster.name
    _write(path, document)


def forget(name: str, path: Path | None = None) -> None:
    """Remove a cluster; `current` goes with it."""
    path = path or default_path()
    document = read(path)
    if document["clusters"].pop(name, None) is None:
        return
    if document.get("current") == name:
        document["current"] = next(iter(document["clusters"]), "")
    _write(path, document)
