"""A store without consensus, in memory: for tests, the simulator, and trying things out.

It keeps the same state machine as the embedded store and promises the same, except that it forgets everything when the
process ends. `commit` applies at once, without giving way to other tasks. `lead` makes it lose and regain leadership,
so that what depends on a leader can be tested without a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from control.raft.interface import LeaderState
from control.store.engine import Engine
from control.store.interface import KeyValue, NoLeaderError, Range, Store, StoreError, Txn, TxnResult
from control.store.mvcc import Budget, validate
from control.store.watch import Watcher
from steersman.clock import Clock, ManualClock


class LocalStore(Store):
    """A `Store` in memory. Without a clock, time stands still."""

    def __init__(self, clock: Clock | None = None, budget: Budget | None = None, name: str = "local") -> None:
        self.name = name
        self._clock = clock or ManualClock()
        self._engine = Engine(budget)
        self.index = self._engine.index
        self.history = self._engine.history
        self._failure: StoreError | None = None
        self._leader = LeaderState(name, 1, is_self=True)
        self._led = asyncio.Event()

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._engine.state.revision

    @property
    def compacted(self) -> int:
        """Revisions up to and including this one are forgotten."""
        return self._engine.state.compacted

    async def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """See `Store.commit`."""
        self._require_leader()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        for txn in txns:
            validate(txn)
        return self._engine.apply(txns, int(self._clock.now().timestamp() * 1000))

    async def barrier(self) -> int:
        """See `Store.barrier`."""
        if not self._leader.leader:
            raise NoLeaderError("there is no leader")
        return self.revision

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """See `Store.get`."""
        return self._engine.get(key, revision)

    async def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """See `Store.range`."""
        return self._engine.range(prefix, revision=revision, limit=limit, after=after)

    def watch(self, prefix: str, after: int) -> Watcher:
        """See `Store.watch`."""
        return self._engine.watch(prefix, after)

    def progress(self) -> None:
        """Tell waiting watchers how far they are; the embedded store does so by itself now and then."""
        self._engine.hub.progress()

    def compact(self, revision: int) -> None:
        """Forget history up to and including `revision`."""
        self._engine.state.compact(revision)

    def close(self) -> None:
        """End every watch, as a member that stops does."""
        self._engine.hub.close(NoLeaderError("this member is stopping", leader=self._leader.leader))

    # Leadership, and its loss

    @property
    def leader(self) -> str:
        """Name of the leader; empty: none."""
        return self._leader.leader

    @property
    def is_leader(self) -> bool:
        """Whether this store accepts writes."""
        return self._leader.is_self

    async def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change."""
        last: LeaderState | None = None
        while True:
            while self._leader == last:
                await self._led.wait()
            last = self._leader
            yield last

    def lead(self, leader: str) -> None:
        """Let `leader` lead from now on: this store's own name, another's, or "" for nobody."""
        self._leader = LeaderState(leader, self._leader.term + 1, is_self=leader == self.name)
        self._led.set()
        self._led = asyncio.Event()

    def fail_next(self, error: StoreError) -> None:
        """Make the next commit raise `error` and write nothing."""
        self._failure = error

    def _require_leader(self) -> None:
        if not self._leader.is_self:
            raise NoLeaderError(f"this member does not lead, {self.leader or 'nobody'} does", leader=self.leader)
