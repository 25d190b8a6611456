"""The work queue of a controller: which keys to look at, and when.

A key is queued at most once, however often it is added; it comes out in the order of its first addition. A key may be
added for later; the earliest such time counts. Failed keys come back after a back-off that doubles per failure.
No I/O, no tasks: the runtime asks what is due and how long to wait.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from steersman.clock import Clock

Key = TypeVar("Key", bound=Hashable)

BACKOFF_FIRST_S = 0.005  # conflicts pass at once
BACKOFF_MAX_S = 60.0  # a refused object is retried about once a minute: quota may have been raised meanwhile


class WorkQueue(Generic[Key]):
    """Keys with the cause (revision) of the latest change that asks for a look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[Key, int] = {}
        self._later: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._causes: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}
        self._sequence = 0

    def __len__(self) -> int:
        """Keys that are due now, delayed ones not counted."""
        return len(self._ready)

    def add(self, key: Key, cause: int = 0) -> None:
        """Look at `key` now, because of revision `cause`."""
        self._ready[key] = max(self._ready.get(key, 0), cause)

    def add_after(self, key: Key, seconds: float, cause: int = 0) -> None:
        """Look at `key` after a while, unless an earlier look is planned already."""
        due = self._clock.monotonic() + max(seconds, 0.0)
        if cause:
            self._causes[key] = max(self._causes.get(key, 0), cause)
        if key in self._later and self._later[key] <= due:
            return
        self._later[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))

    def retry(self, key: Key, cause: int = 0) -> float:
        """Look again after the key's back-off; answers its seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACKOFF_FIRST_S * 2.0 ** min(failures, 32), BACKOFF_MAX_S)
        self.add_after(key, delay, cause)
        return delay

    def forget(self, key: Key) -> None:
        """The key succeeded: its next failure starts with the shortest back-off."""
        self._failures.pop(key, None)

    def take(self, limit: int) -> list[tuple[Key, int]]:
        """Keys that are due, at most `limit`, each with its cause. They may be added again at once."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._later.get(key) == due:
                del self._later[key]
                self.add(key, self._causes.pop(key, 0))
        taken = []
        for key in list(self._ready)[:limit] if len(self._ready) > limit else list(self._ready):
            taken.append((key, self._ready.pop(key)))
        return taken

    def next_delay(self) -> float | None:
        """Seconds until a key is due: 0.0 now, None never."""
        if self._ready:
            return 0.0
        while self._heap and self._later.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # replaced by an earlier time
        return max(self._heap[0][0] - self._clock.monotonic(), 0.0) if self._heap else None
