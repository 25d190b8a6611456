"""Tables: what `get` prints, made by the server (meta.k8s.io/v1 Table).

Each kind brings its columns and a function from a document to cells (see `Resource`); here are the parts that they share:
ages as kubectl writes them, and the document around the rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from steersman.clock import parse_time

if TYPE_CHECKING:
    from control.registry.resources import Resource

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400  # seconds


def human_duration(seconds: float) -> str:
    """A duration in at most two units, the second one only while it tells something.

    >>> [human_duration(s) for s in (5, 119, 120, 185, 601, 4 * 3600 + 120, 3 * 86400 + 4 * 3600, 800 * 86400)]
    ['5s', '119s', '2m', '3m5s', '10m', '4h2m', '3d4h', '2y70d']
    """
    if seconds < -1:
        return "<invalid>"
    whole = max(0, int(seconds))
    if whole < 2 * MINUTE:
        return f"{whole}s"
    if whole < 10 * MINUTE:
        return _two(whole, MINUTE, "m", 1, "s")
    if whole < 3 * HOUR:
        return f"{whole // MINUTE}m"
    if whole < 8 * HOUR:
        return _two(whole, HOUR, "h", MINUTE, "m")
    if whole < 2 * DAY:
        return f"{whole // HOUR}h"
    if whole < 8 * DAY:
        return _two(whole, DAY, "d", HOUR, "h")
    if whole < 2 * YEAR:
        return f"{whole // DAY}d"
    if whole < 8 * YEAR:
        return _two(whole, YEAR, "y", DAY, "d")
    return f"{whole // YEAR}y"


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large}{large_name}" + (f"{rest}{small_name}" if rest else "")


def age(timestamp: str | None, now: dt.datetime) -> str:
    """How long ago an RFC 3339 time was; "<unknown>" where none is told."""
    return human_duration((now - parse_time(timestamp)).total_seconds()) if timestamp else UNKNOWN


def created(document: Mapping[str, Any], now: dt.datetime) -> str:
    """An object's age."""
    return age(document["metadata"].get("creationTimestamp"), now)


def selector_text(labels: Mapping[str, str]) -> str:
    """Labels as a selector column prints them."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or NONE


def table(
    resource: Resource,
    documents: Iterable[Mapping[str, Any]],
    now: dt.datetime,
    *,
    wide: bool = True,
    include: str = "Metadata",
    revision: int = 0,
    continue_token: str = "",
    remaining: int = 0,
) -> dict[str, Any]:
    """The Table of these objects.

    `wide` says whether the columns of priority 1 are in it (clients choose among columns by themselves), `include` what
    each row carries beside its cells: "Metadata", "Object" or "None". `revision`, `continue_token` and `remaining` are
    those of the list that the objects come from.
    """
    chosen = [index for index, column in enumerate(resource.columns) if wide or column.priority == 0]
    metadata: dict[str, Any] = {"resourceVersion": str(revision) if revision else ""}
    if continue_token:
        metadata["continue"] = continue_token
    if remaining:
        metadata["remainingItemCount"] = remaining
    assert resource.row is not None
    rows = []
    for document in documents:
        cells = resource.row(dict(document), now)
        row: dict[str, Any] = {"cells": [cells[index] for index in chosen]}
        if include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": document["metadata"],
            }
        elif include == "Object":
            row["object"] = document
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": column.type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            }
            for column in (resource.columns[index] for index in chosen)
        ],
        "rows": rows,
    }
