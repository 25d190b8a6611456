"""The history of one object: each of its writes with when, who, what led to it, and which fields it changed.

Everything is read from the store's versions; nothing is kept for it. A write names the revision that its author had observed
(`Cause.revision`); following those links from write to write gives the chain from, say, a container's start back to the `apply`
that a person began with. The chain ends at a write that observed nothing, or where history was forgotten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from control.store.history import History, Past
from control.store.interface import Cause, CompactedError
from steersman.changes import Change, changes

CHAIN_LIMIT: Final = 16  # links told: apply, deployment, replica set, scheduler and agent are five


@dataclass(frozen=True, slots=True)
class Link:
    """A write that led to another."""

    revision: int
    actor: str
    time: dt.datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One write of the object.

    Attributes:
        kind: ADDED, MODIFIED or DELETED.
        document: the object after the write; of DELETED its last state, None when that is forgotten.
        changes: of MODIFIED; empty when `before_forgotten`.
    """

    past: Past
    kind: str
    document: bytes | None
    chain: tuple[Link, ...]
    changes: tuple[Change, ...]
    before_forgotten: bool


def entries(history: History, key: str, limit: int = 0) -> tuple[list[Entry], bool]:
    """A key's writes, newest first, at most `limit` (0: all that is kept), and whether older ones follow."""
    pasts = history.of(key, limit + 1 if limit else 0)
    found = []
    for number, past in enumerate(pasts[:limit] if limit else pasts):
        before = pasts[number + 1] if number + 1 < len(pasts) else None
        found.append(_entry(history, past, before))
    return found, bool(limit) and len(pasts) > limit


def _entry(history: History, past: Past, before: Past | None) -> Entry:
    links = chain(history, past.cause)
    known = before is not None and not before.deleted
    if past.deleted:
        last = past.kv.value or (before.kv.value if before is not None and known else b"")
        return Entry(past, "DELETED", last or None, links, (), before_forgotten=False)
    if past.kv.create_revision == past.kv.mod_revision:
        return Entry(past, "ADDED", past.kv.value, links, (), before_forgotten=False)
    if before is None or not known:
        return Entry(past, "MODIFIED", past.kv.value, links, (), before_forgotten=True)
    differences = changes(_document(before.kv.value), _document(past.kv.value))
    return Entry(past, "MODIFIED", past.kv.value, links, tuple(differences), before_forgotten=False)


def chain(history: History, cause: Cause) -> tuple[Link, ...]:
    """What led to a write with this cause, nearest first."""
    links: list[Link] = []
    revision = cause.revision
    while revision and len(links) < CHAIN_LIMIT:
        try:
            earlier, time, _ = history.cause_of(revision)
        except (CompactedError, KeyError):
            break
        links.append(Link(revision, earlier.actor, time))
        if earlier.revision >= revision:  # a cause comes before its effect; whoever says otherwise is not followed
            break
        revision = earlier.revision
    return tuple(links)


def _document(value: bytes) -> dict[str, Any]:
    return msgspec.json.decode(value)  # type: ignore[no-any-return]


def texts(differences: Sequence[Change]) -> list[tuple[str, str, str]]:
    """Path, before and after of each change, values as JSON, "" for none."""
    return [(change.path, _json(change.before), _json(change.after)) for change in differences]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list | str | int | float | None) else ""
