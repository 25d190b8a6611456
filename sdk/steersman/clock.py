"""Time and chance, injected.

Decisions are pure functions of the log; whoever decides is handed the time and never reads it. This module is the
only place that touches the machine's clocks and entropy (a lint rule holds everyone else to that), so that tests and
the simulator can put their own in its place.
"""

from __future__ import annotations

import datetime as dt
import random
import secrets
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def now(self) -> dt.datetime:
        """The wall-clock time, UTC, time-zone aware; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...


class Entropy(Protocol):
    """Where identities and jitter come from."""

    def uid(self) -> str:
        """A fresh RFC 4122 version 4 UUID, as Kubernetes writes metadata.uid."""
        ...

    def suffix(self, length: int = 5) -> str:
        """A name suffix from the alphabet of Kubernetes' generateName (no vowels, no 0, 1, 3)."""
        ...

    def token(self, length: int) -> str:
        """An unguessable string of lower-case letters and digits, for secrets."""
        ...

    def jitter(self) -> float:
        """A number in [0, 1) that spreads retries; never used for identity."""
        ...


SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # k8s.io/apimachinery/pkg/util/rand
TOKEN_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"  # noqa: S105 - an alphabet, not a password


class SystemClock:
    """The machine's clocks."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """The machine's random number generator."""

    def uid(self) -> str:
        return str(uuid.uuid4())

    def suffix(self, length: int = 5) -> str:
        return "".join(secrets.choice(SUFFIX_ALPHABET) for _ in range(length))

    def token(self, length: int) -> str:
        return "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(length))

    def jitter(self) -> float:
        return random.random()


class ManualClock:
    """A clock that moves only when told to: for tests and the simulator."""

    def __init__(self, start: dt.datetime | None = None) -> None:
        self._now = start or dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self._monotonic = 0.0

    def now(self) -> dt.datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks."""
        self._now += dt.timedelta(seconds=seconds)
        self._monotonic += seconds


class SeededEntropy:
    """The same identities for the same seed: for tests and the simulator."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def uid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def suffix(self, length: int = 5) -> str:
        return "".join(self._random.choice(SUFFIX_ALPHABET) for _ in range(length))

    def token(self, length: int) -> str:
        return "".join(self._random.choice(TOKEN_ALPHABET) for _ in range(length))

    def jitter(self) -> float:
        return self._random.random()


def rfc3339(moment: dt.datetime) -> str:
    """Write a time as Kubernetes' metav1.Time does: seconds, UTC, "Z"."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: dt.datetime) -> str:
    """Write a time as Kubernetes' metav1.MicroTime does (leases, event times)."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> dt.datetime:
    """Read an RFC 3339 time.

    Raises:
        ValueError: it is not one.
    """
    return dt.datetime.fromisoformat(text)
