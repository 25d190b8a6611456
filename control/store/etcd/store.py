"""The store on etcd: a `Store` whose truth is an etcd cluster.

Mechanism. A commit sends each transaction to etcd as a transaction of its own (`txn`); independent ones are under way at
the same time, those that share a key one after the other. It returns when the mirror has come to its revision, so whoever
wrote reads what it wrote. `barrier` reads the newest transaction's record linearizably and waits for the mirror to reach
it. Everything else is answered by the mirror.

Leadership is by `election`: only the leader writes, and etcd itself refuses what a deposed leader sends.

Failure. When no answer comes, the outcome is settled before anyone is told: the leader's key is written again
(`refence`), after which the transaction either is in etcd, and the mirror sees its record, or never will be. One that is
not is sent again, so writes ride over an election of etcd. Only when etcd cannot be reached at all for `PATIENCE_S`
the caller is told that the outcome is uncertain; `barrier` fails on this member until that is settled, so that nobody
takes an unsettled write for one that did not happen. A full etcd is told as StoreFullError; unlike the embedded store
it refuses removals too, because they write a record: creations are refused before that, over `quota_bytes`.

Order: transactions of different commits, and independent ones of one commit, may be applied in any order unless they
share a key. Revisions have gaps where etcd's other keys changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from control.raft.interface import LeaderState
from control.store import commands
from control.store.encryption import EncryptionKey, Sealer, require_open, require_open_events
from control.store.engine import Engine
from control.store.etcd.address import EtcdAddress, EtcdTls
from control.store.etcd.administration import EtcdAdministration
from control.store.etcd.client import CALL_S, EtcdClient, EtcdError, EtcdUnsureError
from control.store.etcd.election import Election
from control.store.etcd.layout import Layout, TxnRecord
from control.store.etcd.mirror import Follower, Mirror
from control.store.etcd.txn import Fenced, Plan, Stale, plan
from control.store.interface import (
    Committed,
    Delete,
    Event,
    KeyValue,
    NoLeaderError,
    Put,
    Range,
    Store,
    StoreError,
    StoreFullError,
    Txn,
    TxnResult,
)
from control.store.metrics import StoreMetrics
from control.store.mvcc import Budget, validate
from control.store.watch import Watcher
from steersman.clock import Clock, Entropy

log = logging.getLogger("control.store.etcd")

MAX_IN_FLIGHT: Final = 128  # transactions under way: etcd groups what comes together, more only wait there
MAX_TXN_BYTES: Final = 1_400_000  # etcd takes 1.5 MiB by default (--max-request-bytes), headers included
QUOTA_BYTES: Final = (
    1 << 30
)  # of live keys and values; etcd's file may hold twice that by default, history and waste included
PATIENCE_S: Final = 6.0  # a write waits so long for an etcd that elects or restarts; less than clients' time-outs
CONFIRM_S: Final = 5.0  # likewise a barrier
RETRY_S: Final = 0.1
COMPACT_EVERY_S: Final = 60.0  # how often the leader has etcd forget what the mirror forgot
PROGRESS_S: Final = 5.0  # how often idle watchers learn the newest revision
REFRESH_KEYS: Final = 500  # index work per slice of an idle moment: about 2 ms of the event loop
REPORT_S: Final = 10.0  # how often a member that waits for etcd at its start says so


class EtcdStore(Store):
    """A member's store on etcd. Made in a running event loop; `start` it, and `stop` it in the end. Raises OSError (the TLS files).

    Args:
        name: this member's, by which it is elected.
        advertise: what `status` shows as this member's address.
        members: names that are shown also while they do not run.
    """

    def __init__(
        self,
        address: EtcdAddress,
        tls: EtcdTls,
        name: str,
        clock: Clock,
        entropy: Entropy,
        *,
        advertise: str = "",
        members: Sequence[str] = (),
        budget: Budget | None = None,
        quota_bytes: int = QUOTA_BYTES,
        registry: CollectorRegistry | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._clock = clock
        self._quota = quota_bytes
        self._layout = Layout(address.prefix, sealer)
        self._engine = Engine(state=Mirror(budget))
        self._metrics = StoreMetrics(registry or CollectorRegistry(), self._engine)
        self._nonce = entropy.token(12)
        self._count = itertools.count()
        self._flying: dict[str, int] = {}  # transactions under way by nonce: where the mirror saw them, 0: not yet
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._doubt = 0  # a fence under which something may still be on its way; 0: none
        self._settling = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._engine.hub.check = self._require_open_events
        self._client = EtcdClient(address, tls)
        layout, engine = self._layout, self._engine
        self._follower = Follower(self._client, layout, engine, self._saw, self._metrics, clock)
        self._election = Election(self._client, layout, name, advertise, clock, self.barrier)
        self._administration = EtcdAdministration(
            name, tuple(members), self, self._client, self._follower, self._election
        )
        self.index = self._engine.index
        self.history = self._engine.history

    async def start(self) -> None:
        """Load the state and take part; waits for etcd as long as it takes."""
        create = asyncio.get_running_loop().create_task
        self._tasks.append(create(self._follower.run(), name="etcd mirror"))
        while not self._follower.loaded.is_set():
            try:
                async with asyncio.timeout(REPORT_S):
                    await self._follower.loaded.wait()
            except TimeoutError:
                log.warning("waiting for etcd: %s", self._follower.problem)
        self._tasks += (
            create(self._election.run(), name="etcd election"),
            create(self._look_after(), name="etcd idle work"),
            create(self._compact(), name="etcd compaction"),
        )

    async def stop(self) -> None:
        """End every watch, hand leadership over, close the connections."""
        self._stopped = True
        stopping = NoLeaderError("this member is stopping", uncertain=True)
        self._engine.hub.close(stopping)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._election.resign()
        await self._follower.close(stopping)
        await self._client.close()

    # Store

    @property
    def revision(self) -> int:
        """The newest revision of this store that the mirror has."""
        return self._engine.state.revision

    @property
    def compacted(self) -> int:
        """Revisions up to and including this one are forgotten."""
        return self._engine.state.compacted

    async def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """See `Store.commit`.

        Raises:
            NoLeaderError: this member does not lead, or etcd cannot be reached.
            StoreFullError: etcd, or the quota, has no room.
            OverloadedError: etcd has too much to do.
            ValueError: a transaction writes a key twice or is too large; it was not proposed.
        """
        if not txns:
            return []
        for txn in txns:
            self._admit(txn)
        if not self.is_leader:
            raise self._not_leader()
        started = self._clock.monotonic()
        self._metrics.group_txns.observe(len(txns))
        if len(txns) == 1:
            results: list[TxnResult] = [await self._carry_out(txns[0])]
        else:
            results = await self._carry_out_all(txns)
        self._metrics.commit_seconds.observe(self._clock.monotonic() - started)
        return results

    async def barrier(self) -> int:
        """See `Store.barrier`."""
        try:
            async with asyncio.timeout(CONFIRM_S):
                if self._doubt:
                    await self._settle(self._doubt)
                while True:
                    try:
                        head, now = await self._follower.head()
                        break
                    except EtcdUnsureError:
                        await asyncio.sleep(RETRY_S)
                newest = head.mod_revision if head is not None else 0
                await self._follower.reached(newest)
        except (EtcdError, TimeoutError) as error:
            raise NoLeaderError(
                f"etcd confirms no read: {error or 'it does not answer'}", leader=self.leader
            ) from error
        self._follower.complete_to(newest, now)
        return self.revision

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """See `Store.get`. Raises SealedError."""
        kv = self._engine.get(key, revision)
        self._require_open((kv,))
        return kv

    async def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """See `Store.range`. Raises SealedError."""
        found = self._engine.range(prefix, revision=revision, limit=limit, after=after)
        self._require_open(found.kvs)
        return found

    def watch(self, prefix: str, after: int) -> Watcher:
        """See `Store.watch`."""
        return self._engine.watch(prefix, after)

    def rekey(self, keys: Sequence[EncryptionKey]) -> None:
        """Seal with the first of these keys from now on, and open what waited for any of them."""
        sealer = self._layout.sealer
        if sealer is not None and sealer.rekey(keys) and self._layout.unopened:
            self._layout.unopened = False
            self._follower.reload()

    def _require_open(self, kvs: Iterable[KeyValue | None]) -> None:
        if self._layout.unopened and self._layout.sealer is not None:
            require_open(kvs, self._layout.sealer.open)

    def _require_open_events(self, events: Iterable[Event]) -> None:
        if self._layout.unopened and self._layout.sealer is not None:
            require_open_events(events, self._layout.sealer.open)

    # Leadership

    @property
    def leader(self) -> str:
        """Name of the leader; empty: none known."""
        return self._election.state.leader

    @property
    def is_leader(self) -> bool:
        """Whether this member leads and has every write of earlier leaders."""
        return not self._stopped and self._election.is_leader

    def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change."""
        return self._election.follow()

    @property
    def raft(self) -> EtcdAdministration:
        """The members."""
        return self._administration

    # Committing

    async def _carry_out_all(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """Carry out transactions at the same time, those that share a key in their order."""
        last: dict[str, asyncio.Task[TxnResult]] = {}
        tasks: list[asyncio.Task[TxnResult]] = []

        async def in_turn(before: set[asyncio.Task[TxnResult]], txn: Txn) -> TxnResult:
            if before:
                await asyncio.wait(before)
            return await self._carry_out(txn)

        for txn in txns:
            before = {last[op.key] for op in txn.ops if op.key in last}
            task = asyncio.create_task(in_turn(before, txn))
            last.update((op.key, task) for op in txn.ops)
            tasks.append(task)
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not failures:
            return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        if len(failures) == len(outcomes) and not any(getattr(failure, "uncertain", False) for failure in failures):
            raise failures[0]
        raise NoLeaderError(
            f"{len(failures)} of {len(outcomes)} writes failed: {failures[0]}", leader=self.leader, uncertain=True
        ) from failures[0]

    async def _carry_out(self, txn: Txn) -> TxnResult:
        """Bring one transaction to its end."""
        nonce = f"{self._nonce}-{next(self._count)}"
        self._flying[nonce] = 0
        try:
            async with self._slots:
                result = await self._insist(txn, nonce)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._follower.reached(result.revision)
            except TimeoutError:
                message = f"revision {result.revision} was committed, but etcd's watch does not bring it"
                raise NoLeaderError(message, leader=self.leader, uncertain=True) from None
            # Before the first transaction of all, the state is that of the moment when it was loaded.
            return result if result.revision else msgspec.structs.replace(result, revision=self.revision)
        finally:
            del self._flying[nonce]

    async def _insist(self, txn: Txn, nonce: str) -> TxnResult:
        """Send a transaction until its outcome is known."""
        deadline = self._clock.monotonic() + PATIENCE_S
        present = {op.key: self._present(op.key) for op in txn.ops if isinstance(op, Delete) and op.expect is None}
        while True:
            fence = self._election.fence
            if not fence or not self.is_leader:
                raise self._not_leader()
            now = int(self._clock.now().timestamp() * 1000)
            planned = plan(txn, self._layout, fence, nonce, now, present)
            losses = self._follower.losses
            try:
                outcome = planned.outcome(await self._client.txn(planned.request, CALL_S))
            except EtcdUnsureError as error:
                committed = await self._find_out(planned, nonce, losses, error)
                if committed is not None:
                    return committed
                if self._clock.monotonic() > deadline:
                    raise NoLeaderError(f"etcd did not take the write: {error}", leader=self.leader) from error
                await asyncio.sleep(RETRY_S)
                continue
            if isinstance(outcome, Stale):
                present = {**present, **outcome.found}
            elif isinstance(outcome, Fenced):
                if self._election.fence == fence:  # etcd knows before the watch has told
                    with contextlib.suppress(EtcdError, TimeoutError):
                        async with asyncio.timeout(PATIENCE_S):
                            await self._election.refence(fence)
            else:
                return outcome

    async def _find_out(self, planned: Plan, nonce: str, losses: int, error: EtcdError) -> Committed | None:
        """What became of a transaction that was not answered: its result, or None: it was not applied and never will be.

        Raises NoLeaderError, uncertain, when etcd cannot be asked.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._settle(planned.fence)
        except (StoreError, TimeoutError) as unsettled:
            self._doubt = planned.fence
            message = f"{error}; {unsettled or 'etcd does not answer: it is not known what became of the write'}"
            raise NoLeaderError(message, leader=self.leader, uncertain=True) from error
        revision = self._flying[nonce]
        if revision:
            return planned.committed(revision)
        if self._follower.losses != losses:
            message = f"{error}; and etcd's history of that moment was compacted"
            raise NoLeaderError(message, leader=self.leader, uncertain=True) from error
        return None

    async def _settle(self, fence: int) -> None:
        """Make sure that nothing sent under `fence` can be applied later, and that the mirror has what was."""
        async with self._settling:
            await self._election.refence(fence)
            head, _ = await self._follower.head()
            await self._follower.reached(head.mod_revision if head is not None else 0)
            if self._doubt == fence:
                self._doubt = 0

    def _saw(self, record: TxnRecord, revision: int) -> None:
        if record.nonce in self._flying:
            self._flying[record.nonce] = revision

    def _present(self, key: str) -> int:
        kv = self._engine.get(key)
        return 0 if kv is None else kv.mod_revision

    def _not_leader(self) -> NoLeaderError:
        problem = self._election.problem
        message = "this member is stopping" if self._stopped else "this member does not lead"
        return NoLeaderError(f"{message}: {problem}" if problem else message, leader=self.leader)

    def _admit(self, txn: Txn) -> None:
        """Refuse what etcd would refuse, or what would fill it."""
        validate(txn)
        size = commands.weight(txn)
        if size > MAX_TXN_BYTES:
            raise ValueError(f"a transaction of {size} bytes is too large: at most {MAX_TXN_BYTES} fit")
        live = self._engine.state.live_bytes + size
        if live > self._quota and any(isinstance(op, Put) and self._engine.get(op.key) is None for op in txn.ops):
            raise StoreFullError(
                f"the store holds {self._engine.state.live_bytes} bytes, its quota is {self._quota}: delete objects"
            )

    # Housekeeping

    async def _look_after(self) -> None:
        """Tell idle watchers how far they are, and keep the wanted indexes fresh."""
        told = -1
        while True:
            if self.revision != told:
                told = self.revision
                self._engine.hub.progress()
                while self.index.refresh(REFRESH_KEYS):
                    await asyncio.sleep(0)
            await asyncio.sleep(PROGRESS_S)

    async def _compact(self) -> None:
        """While leading, have etcd forget what the budget of history has forgotten here."""
        done = self.compacted
        while self._address.compact:
            await asyncio.sleep(COMPACT_EVERY_S)
            if self.is_leader and self.compacted > done:
                done = await self.compact(self.compacted)

    async def compact(self, revision: int) -> int:
        """Have etcd forget what was up to `revision`; answers that revision. What fails is tried again a minute later."""
        try:
            await self._client.compact(revision)
        except StoreError as error:
            if "compacted" not in str(error):
                log.info("etcd was not compacted: %s", error)
                return 0
        return revision
