"""Proposals of this member: gathered until the next pump, then followed until they are applied.

A proposal's fate is certain only when its index is applied: the entry there is the one proposed, or another (of another
term), which means that it never will be. When leadership is lost before that, the proposer is told that it is uncertain:
waiting could take as long as the next leader takes to come.
"""

from __future__ import annotations

import asyncio

from control.raft.core import Core
from control.raft.interface import BusyError, NotLeaderError
from control.raft.messages import Entry
from control.raft.metrics import RaftMetrics
from steersman.clock import Clock

Outcome = asyncio.Future[object]


class Proposals:
    """What has been proposed here and not been answered."""

    def __init__(self, clock: Clock, metrics: RaftMetrics) -> None:
        self.term = 0  # in which those followed were proposed; 0: none are
        self._clock = clock
        self._metrics = metrics
        self._waiting: list[tuple[bytes, Outcome, float]] = []
        self._followed: dict[int, tuple[int, Outcome, float]] = {}  # by index: term, outcome, when proposed

    def add(self, data: bytes, loop: asyncio.AbstractEventLoop) -> Outcome:
        """Take a proposal for the next `offer`."""
        outcome: Outcome = loop.create_future()
        self._waiting.append((data, outcome, self._clock.monotonic()))
        return outcome

    def track(self, index: int, term: int, loop: asyncio.AbstractEventLoop) -> Outcome:
        """Follow an entry that was proposed otherwise."""
        outcome: Outcome = loop.create_future()
        self.term = term
        self._followed[index] = (term, outcome, self._clock.monotonic())
        return outcome

    def offer(self, core: Core) -> None:
        """Hand everything that waits to the core, as one."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            index = core.propose([data for data, _, _ in waiting])
        except (NotLeaderError, BusyError) as error:
            self._metrics.proposals.labels("refused").inc(len(waiting))
            for _, outcome, _ in waiting:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        self.term = core.term
        for offset, (_, outcome, started) in enumerate(waiting):
            self._followed[index + offset] = (core.term, outcome, started)

    def resolve(self, entry: Entry, result: object) -> None:
        """An entry was applied: whoever proposed something at its index has an answer."""
        followed = self._followed.pop(entry.index, None)
        if followed is None:
            return
        term, outcome, started = followed
        if outcome.done():
            return
        if term == entry.term:
            self._metrics.proposals.labels("applied").inc()
            self._metrics.commit_seconds.observe(self._clock.monotonic() - started)
            outcome.set_result(result)
        else:
            self._metrics.proposals.labels("refused").inc()
            outcome.set_exception(NotLeaderError("another leader's entry took the place of this one"))

    def fail(self, why: str, leader: str) -> None:
        """Leadership is over: tell everyone."""
        waiting, self._waiting = self._waiting, []
        followed, self._followed = self._followed, {}
        self.term = 0
        self._metrics.proposals.labels("refused").inc(len(waiting))
        self._metrics.proposals.labels("uncertain").inc(len(followed))
        for _, outcome, _ in waiting:
            if not outcome.done():
                outcome.set_exception(NotLeaderError(why, leader=leader))
        for _, outcome, _ in followed.values():
            if not outcome.done():
                outcome.set_exception(
                    NotLeaderError(f"{why}: the proposal may still be committed", leader=leader, uncertain=True)
                )
