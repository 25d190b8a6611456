"""The scheduling queue: pods to place now, pods that wait out a back-off, pods that nothing could be found for.

A refused pod sleeps until the cluster changes in a way that one of the filters that refused it cares about
(`Filter.wakes`), or until it has slept for five minutes. Higher priority goes first, then who came first.
Source of the scheme: Kubernetes' scheduling queue (KEP-4247).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control.scheduler.plugin import Change, Filter
from control.scheduler.pod import PodFacts
from steersman.clock import Clock

BACKOFF_FIRST_S = 1.0  # Kubernetes' figures
BACKOFF_MAX_S = 10.0
SLEEP_MAX_S = 300.0  # should a change be missed


@dataclass(slots=True)
class Waiting:
    """A pod in the queue. `since` is when it came, in monotonic seconds; `until` when its back-off ends."""

    pod: PodFacts
    since: float
    attempts: int = 0
    until: float = 0.0
    asleep_since: float | None = None
    plugins: frozenset[str] = frozenset()


class SchedulingQueue:
    """Pods without a node, by uid.

    Args:
        filters: of all profiles, to know what wakes whom.
    """

    def __init__(self, clock: Clock, filters: Iterable[Filter]) -> None:
        self._clock = clock
        self._wakes: Mapping[str, Change] = {rule.name: rule.wakes for rule in filters}
        self._waiting: dict[str, Waiting] = {}
        self._active: set[str] = set()
        self._backoff: list[tuple[float, str]] = []

    def __contains__(self, uid: str) -> bool:
        return uid in self._waiting

    def lengths(self) -> dict[str, int]:
        """How many pods are active, backing off, unschedulable."""
        asleep = sum(1 for one in self._waiting.values() if one.asleep_since is not None)
        active = len(self._active)
        return {"active": active, "backoff": len(self._waiting) - active - asleep, "unschedulable": asleep}

    def add(self, pod: PodFacts) -> None:
        """A new pod, or new facts of one in the queue, which may now fit: it is looked at without back-off."""
        known = self._waiting.get(pod.uid)
        if known is None:
            self._waiting[pod.uid] = Waiting(pod, self._clock.monotonic())
        else:
            known.pod = pod
            known.asleep_since = None
        self._active.add(pod.uid)

    def refresh(self, pod: PodFacts) -> None:
        """New facts that change nothing about where it fits."""
        known = self._waiting.get(pod.uid)
        if known is not None:
            known.pod = pod

    def remove(self, uid: str) -> None:
        """The pod is bound or gone."""
        self._waiting.pop(uid, None)
        self._active.discard(uid)

    def take(self, limit: int) -> list[Waiting]:
        """The pods to place now, the most important first. Each must be answered by `remove`, `refused` or `failed`."""
        now = self._clock.monotonic()
        while self._backoff and self._backoff[0][0] <= now:
            until, uid = heapq.heappop(self._backoff)
            one = self._waiting.get(uid)
            if one is not None and one.until == until and one.asleep_since is None:
                self._active.add(uid)
        order = sorted(
            (self._waiting[uid] for uid in self._active), key=lambda w: (-w.pod.priority, w.since, w.pod.key)
        )
        taken = order[:limit]
        for one in taken:
            self._active.discard(one.pod.uid)
            one.attempts += 1
        return taken

    def refused(self, one: Waiting, plugins: frozenset[str]) -> None:
        """No node was found; sleep until one of these filters may change its mind."""
        one.plugins = plugins
        one.asleep_since = self._clock.monotonic()
        one.until = one.asleep_since + _backoff(one.attempts)

    def failed(self, one: Waiting) -> None:
        """The binding was refused or not answered: try again after a back-off."""
        if one.pod.uid not in self._waiting:
            return
        one.asleep_since = None
        one.until = self._clock.monotonic() + _backoff(one.attempts)
        heapq.heappush(self._backoff, (one.until, one.pod.uid))

    def wake(self, change: Change) -> int:
        """The cluster changed: pods that it may help leave their sleep; answers how many."""
        now = self._clock.monotonic()
        woken = 0
        for uid, one in self._waiting.items():
            if one.asleep_since is None or not self._cares(one, change):
                continue
            self._rouse(uid, one, now)
            woken += 1
        return woken

    def _cares(self, one: Waiting, change: Change) -> bool:
        everything = ~Change(0)  # refused before any filter ran: there were no nodes
        return any(change & self._wakes.get(name, everything) for name in one.plugins) or not one.plugins

    def _rouse(self, uid: str, one: Waiting, now: float) -> None:
        one.asleep_since = None
        if one.until <= now:
            self._active.add(uid)
        else:
            heapq.heappush(self._backoff, (one.until, uid))

    def wake_stale(self) -> int:
        """Wake the pods that slept longer than SLEEP_MAX_S."""
        now = self._clock.monotonic()
        stale = [
            (uid, one)
            for uid, one in self._waiting.items()
            if one.asleep_since is not None and now - one.asleep_since >= SLEEP_MAX_S
        ]
        for uid, one in stale:
            self._rouse(uid, one, now)
        return len(stale)

    def next_delay(self) -> float | None:
        """Seconds until a pod is due: 0.0 now, None never (but for changes)."""
        if self._active:
            return 0.0
        now = self._clock.monotonic()
        times = [one.asleep_since + SLEEP_MAX_S for one in self._waiting.values() if one.asleep_since is not None]
        if self._backoff:
            times.append(self._backoff[0][0])
        return max(min(times) - now, 0.0) if times else None


def _backoff(attempts: int) -> float:
    return float(min(BACKOFF_FIRST_S * 2.0 ** min(max(attempts - 1, 0), 16), BACKOFF_MAX_S))
