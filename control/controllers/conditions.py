"""Conditions of a status: Kubernetes' rules for replacing one (lastTransitionTime moves only with the status)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from steersman.clock import rfc3339
from steersman.types.meta import Condition


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == kind), None)


def build(
    conditions: Iterable[Condition],
    kind: str,
    status: str,
    reason: str,
    message: str,
    now: dt.datetime,
    *,
    updated: bool = False,
) -> Condition:
    """The condition as it should be; the present one when nothing about it changes.

    With `updated` it carries lastUpdateTime, as a Deployment's conditions do.
    """
    old = find(conditions, kind)
    if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
        return old
    moment = rfc3339(now)
    since = old.last_transition_time if old is not None and old.status == status else moment
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        last_update_time=moment if updated else "",
    )


def put(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """The conditions with `new` in its type's place, or at the end."""
    if any(c.type == new.type for c in conditions):
        return tuple(new if c.type == new.type else c for c in conditions)
    return (*conditions, new)


def drop(conditions: Sequence[Condition], kind: str) -> tuple[Condition, ...]:
    """The conditions without that type."""
    return tuple(c for c in conditions if c.type != kind)


def documents(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """Conditions as they are written."""
    return [c.to_dict() for c in conditions]
