"""The store over Raft: what a member of the control plane runs.

Mechanism. `commit` encodes transactions into a command and proposes it; every member applies the committed commands
to its own state machine (`Engine`), in the log's order, so revisions are the same everywhere. Whoever proposed gets the
results of the apply. Reads and watches are answered from the member's own state; `barrier` before a read makes it
linearizable. Concurrent commits share log entries (`grouping`).

Secrets (`encryption`): with a sealer, what it covers is sealed before it is proposed and opened when it is applied, so the log, the
snapshots and the members' messages hold ciphertext, the state plaintext. A value whose key this member lacks stays sealed in the
state, and reading it is refused with SealedError; `rekey` opens what waited for the keys it brings.

Failure. A member that does not lead refuses writes with NoLeaderError naming the leader; `uncertain` says whether the
write may still happen. A full disk makes the member step down; it refuses with StoreFullError when nobody else leads.
When the state outgrows its quota of memory, creations are refused with StoreFullError; updates, which a graceful
deletion needs, go on for another tenth, and removals always. Stopping ends every watch with NoLeaderError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry

from control.raft.interface import (
    BusyError,
    LeaderState,
    NotLeaderError,
    RaftConfig,
    RaftError,
    RaftStatus,
    StateMachine,
)
from control.raft.messages import Entry, EntryKind
from control.raft.node import RaftNode
from control.store import commands
from control.store.encryption import EncryptionKey, Sealer, is_sealed, require_open, require_open_events
from control.store.engine import Engine
from control.store.grouping import Grouping
from control.store.interface import (
    Check,
    Event,
    KeyValue,
    NoLeaderError,
    OverloadedError,
    Put,
    Range,
    Store,
    StoreError,
    StoreFullError,
    Txn,
    TxnResult,
)
from control.store.metrics import StoreMetrics
from control.store.mvcc import Budget, Version, validate
from control.store.watch import Watcher
from steersman.clock import Clock, Entropy

GIB = 1 << 30
QUOTA_BYTES = 2 * GIB  # of live keys and values: all of it is in memory, and a snapshot of it must fit the disk twice
PROGRESS_S = 5.0  # how often idle watchers learn the newest revision: bookmarks stay this fresh, at one wake-up
PRUNE = 1_000  # unopened values before those that history forgot are looked for, and again at twice what is left
REFRESH_KEYS = 500  # index work per slice of an idle moment: about 2 ms of the event loop


class StoreMachine:
    """The engine as Raft sees it: what comes in is opened, what goes out is sealed.

    Attributes:
        unopened: the versions whose values could not be opened, until `reopen` can.
    """

    def __init__(self, engine: Engine, metrics: StoreMetrics, clock: Clock, sealer: Sealer | None = None) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._sealer = sealer
        self.unopened: list[Version] = []
        self._prune_at = PRUNE

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        """Apply committed commands; the result of an entry is its list of TxnResult."""
        started = self._clock.monotonic()
        results: list[object] = []
        for entry in entries:
            if entry.kind is EntryKind.COMMAND:
                command = commands.decode(entry.data)
                results.append(self._apply(command.txns, command.time))
            else:
                results.append(None)
        self._metrics.apply_seconds.observe(self._clock.monotonic() - started)
        return results

    def _apply(self, txns: Sequence[Txn], time: int) -> list[TxnResult]:
        if self._sealer is None:
            return self._engine.apply(txns, time)
        opened = [self._sealer.open_txn(txn) for txn in txns]
        state = self._engine.state
        before = state.revision
        results = self._engine.apply(opened, time)
        if any(not isinstance(op, Check) and is_sealed(op.value) for txn in opened for op in txn.ops):
            for changed in state.changes(max(before, state.compacted)):
                self.unopened += [version for version in changed if is_sealed(version.kv.value)]
            if len(self.unopened) > self._prune_at:
                self.unopened = [version for version in self.unopened if state.holds(version)]
                self._prune_at = 2 * len(self.unopened) + PRUNE
        return results

    def snapshot(self) -> Iterator[bytes]:
        """See `Mvcc.snapshot`."""
        return self._engine.snapshot(None if self._sealer is None else self._sealer.seal_stored)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """See `Mvcc.restore`."""
        if self._sealer is None:
            self._engine.restore(chunks)
            return
        self._engine.restore(chunks, self._sealer.open_stored)
        self.unopened = [version for version in self._engine.state.versions() if is_sealed(version.kv.value)]

    def reopen(self) -> int:
        """Open what waited for keys that are here now; answers how many values still wait."""
        assert self._sealer is not None
        state = self._engine.state
        waiting: list[Version] = []
        for version in filter(state.holds, self.unopened):
            kv = version.kv
            value = self._sealer.open_stored(kv.key, kv.value, kv.mod_revision)
            if is_sealed(value):
                waiting.append(version)
            else:
                state.reveal(version, value)
                self._engine.index.mark(kv.key)
        self.unopened = waiting
        return len(waiting)


class EmbeddedStore(Store):
    """A `Store` whose state is agreed on by Raft. Made by `open_embedded`, or with a node of one's own."""

    def __init__(
        self,
        make_node: Callable[[StateMachine], RaftNode],
        clock: Clock,
        *,
        budget: Budget | None = None,
        quota_bytes: int = QUOTA_BYTES,
        max_txn_bytes: int = 8 << 20,
        registry: CollectorRegistry | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self._clock = clock
        self._sealer = sealer
        self._engine = Engine(budget)
        self._quota = quota_bytes
        self._max_txn = max_txn_bytes
        self._metrics = StoreMetrics(registry or CollectorRegistry(), self._engine)
        self._grouping = Grouping(self._propose)
        self._idle: asyncio.Task[None] | None = None
        self._engine.hub.check = self._require_open_events
        self.index = self._engine.index
        self.history = self._engine.history
        self._machine = StoreMachine(self._engine, self._metrics, clock, sealer)
        self.raft = make_node(self._machine)

    async def start(self) -> None:
        """Read the disk and take part. Raises LogDamagedError, OSError."""
        await self.raft.start()
        self._idle = asyncio.get_running_loop().create_task(self._look_after())

    async def stop(self) -> None:
        """End every watch and every pending commit, then leave the cluster in order."""
        stopping = NoLeaderError("this member is stopping")
        self._grouping.close(stopping)
        self._engine.hub.close(stopping)
        if self._idle is not None:
            self._idle.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._idle
        await self.raft.stop()

    # Store

    @property
    def revision(self) -> int:
        """The newest revision applied here."""
        return self._engine.state.revision

    @property
    def compacted(self) -> int:
        """Revisions up to and including this one are forgotten."""
        return self._engine.state.compacted

    async def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """See `Store.commit`.

        Raises:
            NoLeaderError: this member does not lead, or stopped leading meanwhile.
            StoreFullError: no room; the message says where.
            OverloadedError: too much waits to be committed.
            ValueError: a transaction writes a key twice or is too large; nothing was proposed.
        """
        if not txns:
            return []
        for txn in txns:
            self._admit(txn)
        started = self._clock.monotonic()
        if not self.raft.is_leader:
            raise self._not_leader("this member does not lead", self.raft.leader, uncertain=False)
        sealed = txns if self._sealer is None else [self._sealer.seal_txn(txn) for txn in txns]
        results = await self._grouping.submit(sealed)
        self._metrics.commit_seconds.observe(self._clock.monotonic() - started)
        return results

    async def barrier(self) -> int:
        """See `Store.barrier`."""
        try:
            await self.raft.barrier()
        except NotLeaderError as error:
            raise NoLeaderError(str(error), leader=error.leader) from error
        return self.revision

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """See `Store.get`."""
        kv = self._engine.get(key, revision)
        if self._machine.unopened:
            self._require_open((kv,))
        return kv

    async def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """See `Store.range`."""
        found = self._engine.range(prefix, revision=revision, limit=limit, after=after)
        if self._machine.unopened:
            self._require_open(found.kvs)
        return found

    def watch(self, prefix: str, after: int) -> Watcher:
        """See `Store.watch`."""
        return self._engine.watch(prefix, after)

    # Encryption

    def rekey(self, keys: Sequence[EncryptionKey]) -> None:
        """Seal with the first of these keys from now on, and open what waited for any of them."""
        if self._sealer is not None and self._sealer.rekey(keys):
            self._machine.reopen()

    def _require_open(self, kvs: Iterable[KeyValue | None]) -> None:
        assert self._sealer is not None
        require_open(kvs, self._sealer.open)

    def _require_open_events(self, events: Iterable[Event]) -> None:
        if self._machine.unopened and self._sealer is not None:
            require_open_events(events, self._sealer.open)

    # Leadership

    @property
    def leader(self) -> str:
        """Name of the leader; empty: none known."""
        return self.raft.leader

    @property
    def is_leader(self) -> bool:
        """Whether this member leads and has applied everything committed before its term."""
        return self.raft.is_leader

    def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change."""
        return self.raft.leadership()

    def status(self) -> RaftStatus:
        """How this member sees itself and the cluster."""
        return self.raft.status()

    # Inside

    async def _propose(self, txns: tuple[Txn, ...]) -> list[TxnResult]:
        now = int(self._clock.now().timestamp() * 1000)
        self._metrics.group_txns.observe(len(txns))
        try:
            result = await self.raft.propose(commands.encode(commands.Command(now, txns)))
        except NotLeaderError as error:
            raise self._not_leader(str(error), error.leader, uncertain=error.uncertain) from error
        except BusyError as error:
            raise OverloadedError(str(error)) from error
        except RaftError as error:
            raise StoreError(str(error)) from error
        assert isinstance(result, list)
        return result

    def _not_leader(self, message: str, leader: str, *, uncertain: bool) -> StoreError:
        """The refusal of a member that does not lead: a full disk is the reason to tell, unless another member can help."""
        problem = "" if leader or uncertain else self.raft.status().problem
        if problem.startswith("disk full"):
            return StoreFullError(problem)
        return NoLeaderError(f"{message}: {problem}" if problem else message, leader=leader, uncertain=uncertain)

    def _admit(self, txn: Txn) -> None:
        """Refuse what must not enter the log: unclear or oversized transactions, and growth beyond the quota."""
        validate(txn)
        size = commands.weight(txn)
        if size > self._max_txn:
            raise ValueError(f"a transaction of {size} bytes is too large: at most {self._max_txn} fit")
        live = self._engine.state.live_bytes + size
        if live <= self._quota:
            return
        for op in txn.ops:
            if isinstance(op, Put):
                update = op.expect != 0 and self._engine.get(op.key) is not None
                if not update or live > self._quota + self._quota // 10:
                    raise StoreFullError(
                        f"the store holds {self._engine.state.live_bytes} bytes, its quota is {self._quota}: "
                        "delete objects or raise the quota"
                    )

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


async def open_embedded(
    config: RaftConfig,
    clock: Clock,
    entropy: Entropy,
    *,
    budget: Budget | None = None,
    quota_bytes: int = QUOTA_BYTES,
    registry: CollectorRegistry | None = None,
    sealer: Sealer | None = None,
) -> EmbeddedStore:
    """Start a member and its store. `stop` it in the end. Raises LogDamagedError, OSError."""
    store = EmbeddedStore(
        lambda machine: RaftNode(config, machine, clock, entropy),
        clock,
        budget=budget,
        quota_bytes=quota_bytes,
        max_txn_bytes=config.max_entry_bytes,
        registry=registry,
        sealer=sealer,
    )
    await store.start()
    return store
