"""Moments as people write them, and the revisions that were the newest at them.

A moment is a revision (`1234`), a time (`2026-01-31T12:00:00Z`) or how long ago (`90s`, `10m`, `1h30m`, `2d`). Times are compared
with those that the log's entries carry, which are the proposing members' clocks and never run backwards.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from control.store.history import History
from control.store.interface import CompactedError
from steersman.clock import parse_time, rfc3339_micro

_AGE = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNITS_S: Final = (86400, 3600, 60, 1)
SKEW_S: Final = 1.0  # a client's clock may be so far ahead before its "now" counts as the future


@dataclass(frozen=True, slots=True)
class Moment:
    """Attributes:
    revision: the newest at that time.
    text: stands for the same state however late it is resolved again.
    time: the moment; of a revision, when it was written, None when that is not known.
    """

    revision: int
    text: str
    time: dt.datetime | None


class TooEarlyError(Exception):
    """The state at a moment is not known: it is before the history that is kept, or before the first write."""


def parse(text: str, now: dt.datetime) -> int | dt.datetime:
    """A revision, or a time. Raises ValueError, saying what may be written."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    age = _AGE.fullmatch(text)
    if age is not None and text:
        ago = sum(float(part) * unit for part, unit in zip(age.groups(), _UNITS_S, strict=True) if part)
        try:
            return now - dt.timedelta(seconds=ago)
        except OverflowError:
            raise ValueError(f"{text!r} is before the beginning of time") from None
    try:
        time = parse_time(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a moment: write a revision (1234), how long ago (10m, 1h30m, 2d) or a time (2026-01-31T12:00:00Z)"
        ) from None
    time = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    if (time - now).total_seconds() > SKEW_S:
        raise ValueError(f"{text} lies in the future")
    return time


def resolve(history: History, moment: int | dt.datetime) -> Moment:
    """The revision that stood for the state at a moment.

    Raises:
        CompactedError: a revision that is forgotten.
        KeyError: a revision that has not happened here.
        TooEarlyError: a time before what is kept.
    """
    if isinstance(moment, int):
        _, time, _ = history.cause_of(moment)
        return Moment(moment, str(moment), time)
    try:
        revision = history.at(moment)
    except CompactedError:
        revision = 0
    if not revision:
        raise TooEarlyError
    return Moment(revision, rfc3339_micro(moment), moment)
