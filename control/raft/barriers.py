"""Read points asked for on this member, sharing questions to the leader.

One question is under way at a time and stands for everyone who waited when it was asked; later callers share the next
one. (They must not share the one under way: it may have been answered before they called.) A question or its answer can
be lost, so it is asked again after a few ticks, under another number.
"""

from __future__ import annotations

import asyncio

from control.raft.core import Core
from control.raft.interface import NotLeaderError
from control.raft.metrics import RaftMetrics
from steersman.clock import Entropy

ASK_AGAIN_TICKS = 4  # two heartbeats: the leader repeats its own round with each
CONTEXT_RANGE = 1 << 48


class Barriers:
    """Callers that wait for a read point."""

    def __init__(self, entropy: Entropy, metrics: RaftMetrics) -> None:
        # Numbers must not repeat across restarts: an answer to an older process would be too old.
        self._context = int(entropy.jitter() * CONTEXT_RANGE)
        self._metrics = metrics
        self._waiting: list[asyncio.Future[int]] = []
        self._asking: list[asyncio.Future[int]] = []
        self._asked = False  # the question for `_asking` is on its way
        self._age = 0
        self._confirmed: list[tuple[int, list[asyncio.Future[int]]]] = []

    @property
    def due(self) -> bool:
        """Whether `ask` has something to do."""
        return bool(self._waiting or self._asking) and not self._asked

    def add(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[int]:
        """A caller waits; its future gets the applied index."""
        future: asyncio.Future[int] = loop.create_future()
        self._waiting.append(future)
        return future

    def ask(self, core: Core) -> None:
        """Ask the leader, unless a question is under way or no leader is known."""
        if not self.due:
            return
        self._asking = [future for future in self._asking + self._waiting if not future.done()]
        self._waiting = []
        if self._asking:
            self._context += 1
            self._age = 0
            self._asked = core.read_index(self._context)

    def tick(self) -> None:
        """Let a tick pass; a question that is too old is asked again."""
        self._age += 1
        if self._asked and self._age >= ASK_AGAIN_TICKS:
            self._asked = False

    def ask_again(self) -> None:
        """Who leads changed: the answer to the present question will not come."""
        self._asked = False

    def confirmed(self, context: int, index: int, applied: int) -> None:
        """The leader answered: those who asked may read once `index` is applied."""
        if context != self._context or not self._asked:
            return
        futures, self._asking, self._asked = self._asking, [], False
        if index <= applied:
            self._release(futures, applied)
        else:
            self._confirmed.append((index, futures))

    def applied(self, applied: int) -> None:
        """The state machine has got so far."""
        if not self._confirmed:
            return
        still = []
        for index, futures in self._confirmed:
            if index <= applied:
                self._release(futures, applied)
            else:
                still.append((index, futures))
        self._confirmed = still

    def fail(self, why: str) -> None:
        """Nobody will be answered."""
        futures = self._waiting + self._asking + [future for _, waiting in self._confirmed for future in waiting]
        self._waiting, self._asking, self._confirmed, self._asked = [], [], [], False
        for future in futures:
            if not future.done():
                self._metrics.barriers.labels("refused").inc()
                future.set_exception(NotLeaderError(why))

    def _release(self, futures: list[asyncio.Future[int]], applied: int) -> None:
        for future in futures:
            if not future.done():
                self._metrics.barriers.labels("confirmed").inc()
                future.set_result(applied)
