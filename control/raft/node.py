"""The running member: the Raft core, its log on disk and its transport, driven by one event loop.

One callback, `_pump`, does what the core says there is to do: it hands in the proposals that have gathered, sends
messages, applies what is committed, and starts writing the next batch. Everything that may change the core (a message,
a tick, a proposal, a finished write) asks for one pump at the loop's next turn, so what arrives together is handled
together: one message per peer, one write, one fdatasync.

The loop never waits for the disk. A thread of its own writes the log, one batch at a time, while the loop gathers the
next; another thread writes snapshots. The core decides what has to wait for which write (see `core`).

When the disk fails (no room, an error, a sync that fails) nothing of the batch is acknowledged: the member halts. It
gives up leadership to whoever is most advanced, refuses proposals, and says why in `status().problem`, also to the
other members. Once a second it tries whether the disk takes the log again, and then starts from the disk as after a
crash, keeping the state machine, which has only ever applied what was durable. A state machine that raises, or a disk
that has lost what it acknowledged, halts the member for good: going on would make it differ from the others.

The module is longer than most: it is the one place where the core's duties (persist, then send, then apply) meet disk,
network and callers, and each duty's order against the others is what must be read together.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry

from control.raft import membership as changes
from control.raft.barriers import Barriers
from control.raft.core import Batch, Core, CoreConfig, ReadState, Role, Stored
from control.raft.files import Closeable, File, Files, OsFiles
from control.raft.interface import (
    LeaderState,
    NotLeaderError,
    RaftConfig,
    RaftError,
    RaftStatus,
    StateMachine,
    TlsFiles,
)
from control.raft.messages import Entry, EntryKind, InstallSnapshot, Membership, Message, SnapshotMeta, size
from control.raft.metrics import RaftMetrics
from control.raft.pace import DiskPace
from control.raft.proposals import Proposals
from control.raft.status import describe, explain
from control.raft.transport import GrpcTransport, Transport
from control.raft.wal import Wal
from steersman.clock import Clock, Entropy
from steersman.logs import fields

__all__ = ["Entry", "LeaderState", "NotLeaderError", "RaftConfig", "RaftNode", "StateMachine", "TlsFiles"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_DISK_S = 1.0  # often enough that nobody waits for it after making room, seldom enough to cost nothing


class RaftNode:
    """One member of the cluster. Everything is called from one event loop."""

    def __init__(
        self,
        config: RaftConfig,
        state_machine: StateMachine,
        clock: Clock,
        entropy: Entropy,
        *,
        transport: Transport | None = None,
        files: Files | None = None,
        metrics: RaftMetrics | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics or RaftMetrics(CollectorRegistry())
        self._machine = state_machine
        self._clock = clock
        self._entropy = entropy
        self._files: Files = files or OsFiles(config.data_dir / "raft")
        self._wal = Wal(self._files, config.segment_bytes)
        self._transport = transport or GrpcTransport(config, entropy, self.metrics)
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="raft-log")
        self._snapshot_thread = ThreadPoolExecutor(1, thread_name_prefix="raft-snapshot")
        self._lock: Closeable | None = None
        self._loop: asyncio.AbstractEventLoop
        self._core: Core | None = None  # None: not started, halted or stopped
        self._saving: asyncio.Future[None] | None = None
        self._pace = DiskPace()
        self._pumping = False  # a pump is scheduled
        self._timer: asyncio.TimerHandle | None = None
        self._proposals = Proposals(clock, self.metrics)
        self._barriers = Barriers(entropy, self.metrics)
        self._members: Membership | None = None  # as last told to the transport
        self._applied = 0
        self._bytes_since_snapshot = 0
        self._snapshotting: asyncio.Task[None] | None = None
        self._snapshot_not_before = 0  # an applied index: after a failure, do not try again at once
        self._recovering: asyncio.Task[None] | None = None
        self._problem = ""
        self._snapshot_problem = ""
        self._leadership = LeaderState("", 0, is_self=False)
        self._leadership_changed = asyncio.Event()
        self._stopped = False

    # --- life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the disk, restore the state machine, listen, take part. Raises LogDamagedError, OSError."""
        self._loop = asyncio.get_running_loop()
        self._lock = self._files.lock()
        stored = await self._on_log_thread(self._wal.open, self._bootstrap())
        if stored.snapshot.index:
            self._machine.restore(self._wal.snapshots.chunks(stored.snapshot))
        self._applied = stored.snapshot.index
        await self._transport.start(self)
        self._begin(stored)
        self._timer = self._loop.call_later(self.config.tick_s, self._tick)

    async def stop(self) -> None:
        """Hand leadership over if held, finish the write under way, close everything. Pending calls get NotLeaderError."""
        if self._stopped:
            return
        if self._core is not None and self._core.role is Role.LEADER:
            await self._hand_over_before_stop(self._core)
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._core = None
        self._fail_pending("the member is stopping")
        self._publish_leadership(LeaderState("", self._leadership.term, is_self=False), force=True)
        tasks = [task for task in (self._recovering, self._snapshotting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.stop()
        self._log_thread.shutdown()
        self._snapshot_thread.shutdown()
        self._wal.close()
        if self._lock is not None:
            self._lock.close()

    def _bootstrap(self) -> Membership:
        """The first membership; used only when the folder is empty."""
        members = dict(sorted(self.config.members.items()))
        derived = hashlib.sha256(repr(members).encode()).hexdigest()[:16] if members else ""
        return Membership(frozenset(members), frozenset(), members, self.config.cluster_id or derived)

    def _begin(self, stored: Stored) -> None:
        """Take part, from what the disk holds."""
        config = CoreConfig(
            name=self.config.name,
            heartbeat_ticks=self.config.heartbeat_ticks,
            election_ticks=self.config.election_ticks,
            max_append_bytes=self.config.max_append_bytes,
            max_inflight_bytes=self.config.max_inflight_bytes,
            max_uncommitted_bytes=self.config.max_uncommitted_bytes,
        )
        self._core = Core(config, stored, self._entropy, applied=self._applied)
        if self._core.membership.voters == {self.config.name}:
            self._core.campaign()  # nobody else could lead: no need to wait
        self._members = None
        self._problem = ""
        self._transport.announce("")
        logger.info(
            "taking part %s",
            fields(
                name=self.config.name,
                term=self._core.term,
                first=self._core.log.offset + 1,
                last=self._core.log.last_index,
                snapshot=stored.snapshot.index,
                voters=",".join(sorted(self._core.membership.voters)),
            ),
        )
        self._wake()

    async def _hand_over_before_stop(self, core: Core) -> None:
        """Let another member lead first, so that stopping a leader costs no election time-out."""
        others = [
            (core.progress[name].match, name)
            for name in core.membership.voters
            if name in core.progress and name != self.config.name and self._transport.reachable(name)
        ]
        if others:
            try:
                await self.transfer_leadership(max(others)[1])
            except (RaftError, TimeoutError) as error:
                logger.info("stopping without a hand-over: %s", error)

    # --- what the store calls -------------------------------------------------------------------------------------------

    async def propose(self, data: bytes) -> object:
        """Offer an entry; answer the state machine's result when it is committed and applied here.

        Raises:
            NotLeaderError: this member does not lead (or, `uncertain`, stopped leading: it may still be committed).
            BusyError: too much waits to be committed.
            ValueError: the entry is larger than `max_entry_bytes`.
        """
        if len(data) > self.config.max_entry_bytes:
            raise ValueError(f"an entry of {len(data)} bytes is larger than the limit of {self.config.max_entry_bytes}")
        core = self._leading_core()
        if core.transferee:
            raise NotLeaderError(f"{self.config.name} is handing leadership over to {core.transferee}")
        future = self._proposals.add(data, self._loop)
        self._wake()
        return await future

    async def barrier(self, timeout_s: float = 5.0) -> int:
        """Wait until this member has applied everything acknowledged anywhere before the call; answer the applied index.

        Works on every member. Raises NotLeaderError when no leader confirms within `timeout_s`.
        """
        if self._core is None:
            raise NotLeaderError(self._problem or f"{self.config.name} is not running")
        future = self._barriers.add(self._loop)
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            self.metrics.barriers.labels("refused").inc()
            raise NotLeaderError(
                f"no leader confirmed a read within {timeout_s:g} s", leader=self._leadership.leader
            ) from None

    @property
    def leader(self) -> str:
        """Name of the leader; empty: none known."""
        return self._leadership.leader

    @property
    def term(self) -> int:
        """The newest term seen."""
        return self._leadership.term

    @property
    def is_leader(self) -> bool:
        """Whether this member leads and has applied everything committed before its term."""
        return self._leadership.is_self

    async def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change (a slow reader sees only the newest)."""
        seen: LeaderState | None = None
        while not self._stopped:
            if self._leadership != seen:
                seen = self._leadership
                yield seen
            else:
                await self._leadership_changed.wait()

    async def transfer_leadership(self, to: str) -> None:
        """Make `to` the leader; returns when it leads. Raises NotLeaderError, MembershipError (not a voter), TimeoutError."""
        core = self._leading_core()
        core.transfer(to)
        self._wake()
        limit_s = 3 * self.config.election_ticks * self.config.tick_s
        try:
            async with asyncio.timeout(limit_s):
                async for state in self.leadership():
                    if state.leader == to:
                        return
        except TimeoutError:
            raise TimeoutError(
                f"{to} did not take over within {limit_s:g} s; leader: {self.leader or 'none'}"
            ) from None
        raise NotLeaderError(f"{self.config.name} is stopping")

    async def add_member(self, name: str, address: str) -> None:
        """Add a learner: it receives the log and does not vote. Raises MembershipError, NotLeaderError."""
        await self._change_membership(lambda current: changes.add_learner(current, name, address))

    async def promote_member(self, name: str) -> None:
        """Make a learner that has caught up a voter. Raises MembershipError, NotLeaderError."""
        await self._change_membership(lambda current: changes.promote(current, name))

    async def remove_member(self, name: str) -> None:
        """Remove a member; a leader that removes itself steps down when that is committed."""
        await self._change_membership(lambda current: changes.remove(current, name))

    async def _change_membership(self, change: Callable[[Membership], Membership]) -> None:
        core = self._leading_core()
        future = self._proposals.track(core.change_membership(change), core.term, self._loop)
        self._wake()
        await future

    @property
    def addresses(self) -> dict[str, str]:
        """Name -> Raft address of every member in force here; empty while this member does not take part."""
        return dict(self._core.membership.addresses) if self._core is not None else {}

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """The state as of the last applied entry, to be read by whoever wants to keep it; see `StateMachine.snapshot`.

        Raises NotLeaderError when this member does not take part.
        """
        core = self._core
        term = core.log.term(self._applied) if core is not None else None
        if core is None or term is None:
            raise NotLeaderError(self._problem or f"{self.config.name} is not running")
        return SnapshotMeta(self._applied, term, core.history.at(self._applied)), self._machine.snapshot()

    def _leading_core(self) -> Core:
        core = self._core
        if core is None:
            raise NotLeaderError(self._problem or f"{self.config.name} is not running")
        if core.role is not Role.LEADER:
            raise NotLeaderError(f"{self.config.name} does not lead", leader=core.leader)
        return core

    def status(self) -> RaftStatus:
        """What this member knows of itself and of the cluster."""
        core = self._core
        problem = self._problem or self._snapshot_problem
        if core is None:
            name, term, leader = self.config.name, self.term, self.leader
            return RaftStatus(name, "", "stopped", term, leader, 0, self._applied, 0, 0, 0, (), problem)
        return describe(core, self._transport, self._applied, problem)

    # --- what the transport calls ---------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        """Which cluster this member belongs to; empty: not known yet."""
        return self._core.membership.cluster_id if self._core is not None else ""

    def stranger(self, name: str) -> str:
        """What to tell a sender that is no member as far as this leader knows; empty: it is one, or this member cannot tell.

        Only for its log: whoever was added by a newer leader is told wrongly, and nothing depends on it.
        """
        core = self._core
        if core is None or core.role is not Role.LEADER or name in core.membership:
            return ""
        return f"{name} is not a member of this cluster (any more): stop it, or add it again"

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages from another member."""
        core = self._core
        if core is None:
            return
        try:
            for message in messages:
                core.step(message)
        except Exception as error:  # lost entries, a broken invariant: see the module's docstring
            self._halt(error)
        else:
            self._wake()

    def unreachable(self, name: str) -> None:
        """Messages to a member were dropped."""
        if self._core is not None:
            self._core.report_unreachable(name)

    def snapshot_sent(self, name: str, *, arrived: bool) -> None:
        """A snapshot that was to be sent has arrived, or has not."""
        if arrived:
            self.metrics.snapshots.labels("sent").inc()
        if self._core is not None:
            self._core.report_snapshot(name, arrived=arrived)
            self._wake()

    async def incoming_size(self, meta: SnapshotMeta) -> int:
        """How much of a snapshot has arrived in an earlier attempt."""
        return await self._on_snapshot_thread(self._wal.snapshots.incoming_size, meta)

    async def receive_snapshot(self, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        """Keep a piece of a snapshot. Raises OSError."""
        await self._on_snapshot_thread(self._wal.snapshots.receive, meta, offset, data)

    async def finish_snapshot(self, message: InstallSnapshot) -> None:
        """All of a snapshot has arrived. Raises LogDamagedError when it is not what was sent, OSError."""
        await self._on_snapshot_thread(self._wal.snapshots.check_incoming, message.meta)
        self.receive([message])

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._pumping and self._core is not None:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self.config.tick_s, self._tick)
        core = self._core
        if core is None:
            return
        core.tick()
        self._barriers.tick()
        if core.has_ready or self._barriers.due:
            self._wake()
        self._note_leadership(core)

    def _pump(self) -> None:
        self._pumping = False
        core = self._core
        if core is None:
            return
        try:
            self._proposals.offer(core)
            self._barriers.ask(core)
            if core.has_ready:
                self._handle_ready(core)
        except Exception as error:
            self._halt(error)
            return
        self._note_leadership(core)
        self._note_progress(core)
        if core.has_ready:
            self._wake()

    def _handle_ready(self, core: Core) -> None:
        ready = core.ready()
        self._send(core, ready.messages)
        if ready.batch is not None:
            self._save(core, ready.batch)
        if ready.committed:
            self._apply(core, ready.committed)
        self._answer_reads(ready.reads)

    def _send(self, core: Core, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, InstallSnapshot):
                self._send_snapshot(core, message)
        self._transport.send([message for message in messages if not isinstance(message, InstallSnapshot)])

    def _send_snapshot(self, core: Core, message: InstallSnapshot) -> None:
        try:
            file: File = self._wal.snapshots.open(message.meta)
        except OSError as error:
            logger.warning(
                "cannot send a snapshot %s", fields(to=message.to, index=message.meta.index, error=str(error))
            )
            core.report_snapshot(message.to, arrived=False)
        else:
            self._transport.send_snapshot(message, file)

    def _save(self, core: Core, batch: Batch) -> None:
        self._saving = self._loop.run_in_executor(self._log_thread, self._write, batch)
        self._saving.add_done_callback(partial(self._saved, core, batch, self._clock.monotonic()))

    def _write(self, batch: Batch) -> None:
        """Runs in the log's thread."""
        started = self._clock.monotonic()
        self._wal.save(batch)
        self.metrics.save_seconds.observe(self._clock.monotonic() - started)

    def _saved(self, core: Core, batch: Batch, started: float, saving: asyncio.Future[None]) -> None:
        if core is not self._core or saving.cancelled():
            return  # halted or stopped meanwhile: nothing may be promised any more
        error = saving.exception()
        if isinstance(error, Exception):
            self._halt(error)
            return
        self._adapt(core, self._clock.monotonic() - started)
        try:
            if batch.snapshot is not None:
                self._install(batch.snapshot.meta)
            core.advance(batch)
            self._send(core, batch.messages)
        except Exception as error:
            self._halt(error)
            return
        self.metrics.saved_entries.inc(len(batch.entries))
        self.metrics.saved_bytes.inc(sum(map(size, batch.entries)))
        self._wake()

    def _adapt(self, core: Core, save_seconds: float) -> None:
        """Let elections wait for a slow disk; see `pace`."""
        self._pace.observe(save_seconds)
        ticks = self._pace.election_ticks(self.config.election_ticks, self.config.tick_s)
        if ticks != core.config.election_ticks:
            core.config = replace(core.config, election_ticks=ticks)
            self.metrics.election_timeout_seconds.set(ticks * self.config.tick_s)

    def _apply(self, core: Core, entries: Sequence[Entry]) -> None:
        commands = [entry for entry in entries if entry.kind is EntryKind.COMMAND]
        results = iter(self._machine.apply(commands) if commands else ())
        for entry in entries:
            self._bytes_since_snapshot += size(entry)
            self._proposals.resolve(entry, next(results) if entry.kind is EntryKind.COMMAND else None)
        self._applied = entries[-1].index
        self._barriers.applied(self._applied)
        self._maybe_snapshot(core)

    def _answer_reads(self, reads: Sequence[ReadState]) -> None:
        for read in reads:
            self._barriers.confirmed(read.context, read.index, self._applied)

    def _fail_pending(self, why: str) -> None:
        self._proposals.fail(why, self._leadership.leader)
        self._barriers.fail(why)

    def _note_leadership(self, core: Core) -> None:
        """Tell those who follow it who leads now."""
        leads = core.role is Role.LEADER
        state = LeaderState(core.leader, core.term, leads and self._applied >= core.term_start)
        before = self._leadership
        if state == before:
            return
        if self._proposals.term not in (0, core.term) or not leads:
            self._proposals.fail(f"{self.config.name} stopped leading", core.leader)
        if state.leader != before.leader or state.term != before.term:
            self._barriers.ask_again()
        self._publish_leadership(state)

    def _publish_leadership(self, state: LeaderState, *, force: bool = False) -> None:
        if state.leader and state.leader != self._leadership.leader:
            self.metrics.leader_changes.inc()
            logger.info("following a leader %s", fields(leader=state.leader, term=state.term))
        if state != self._leadership or force:
            self._leadership = state
            self._leadership_changed.set()
            self._leadership_changed = asyncio.Event()
        self.metrics.term.set(state.term)
        self.metrics.is_leader.set(int(state.is_self))

    def _note_progress(self, core: Core) -> None:
        """Keep the metrics and the transport up to date."""
        self.metrics.commit_index.set(core.log.commit)
        self.metrics.applied_index.set(self._applied)
        self.metrics.log_entries.set(core.log.last_index - core.log.offset)
        if core.membership is not self._members:
            self._members = core.membership
            self._transport.set_members(core.membership.addresses)

    # --- snapshots ------------------------------------------------------------------------------------------------------

    def _maybe_snapshot(self, core: Core) -> None:
        due = (
            self._applied - core.snapshot.index >= self.config.snapshot_entries
            or self._bytes_since_snapshot >= self.config.snapshot_bytes
        )
        if not due or self._snapshotting is not None or self._applied < self._snapshot_not_before:
            return
        self._snapshotting = self._begin_snapshot(core, self.config.trailing_entries)

    async def purge(self) -> None:
        """Write a snapshot now and keep nothing of the log before it: for what must leave the disk, as a key that is given up.

        Followers that are behind get the snapshot. Entries that were written but not applied when this was called may stay: look,
        and call again.

        Raises:
            RaftError: the snapshot cannot be written, or this member does not take part at the moment.
        """
        if self._snapshotting is not None:
            await asyncio.shield(self._snapshotting)
        core = self._core
        if core is None:
            raise RaftError(self._problem or "this member does not run")
        try:
            await self._on_log_thread(self._wal.roll)
        except OSError as error:
            raise RaftError(f"cannot begin a new segment of the log: {error}") from error
        if core is self._core and self._snapshotting is None and self._applied > core.snapshot.index:
            self._snapshotting = self._begin_snapshot(core, 0)
        if self._snapshotting is not None:
            await asyncio.shield(self._snapshotting)
        if self._snapshot_problem:
            raise RaftError(self._snapshot_problem)

    def _begin_snapshot(self, core: Core, trailing_entries: int) -> asyncio.Task[None]:
        term = core.log.term(self._applied)
        assert term is not None
        meta = SnapshotMeta(self._applied, term, core.history.at(self._applied))
        self._bytes_since_snapshot = 0
        chunks = self._machine.snapshot()  # a consistent view of now; read by the thread while we go on
        write = partial(self._wal.snapshots.write, meta, chunks)
        return self._loop.create_task(self._snapshot(core, meta, write, trailing_entries))

    async def _snapshot(self, core: Core, meta: SnapshotMeta, write: Callable[[], int], trailing_entries: int) -> None:
        started = self._clock.monotonic()
        try:
            length = await self._on_snapshot_thread(write)
        except Exception as error:  # no room, mostly: the log stays longer, nothing is lost
            self._snapshot_problem = f"no snapshot since entry {core.snapshot.index}: {error}"
            self._snapshot_not_before = meta.index + max(1, self.config.snapshot_entries // 10)
            self.metrics.snapshots.labels("failed").inc()
            logger.warning("a snapshot failed %s", fields(index=meta.index, error=str(error)))
        else:
            self._snapshot_problem = ""
            seconds = self._clock.monotonic() - started
            self.metrics.snapshots.labels("written").inc()
            self.metrics.snapshot_bytes.set(length)
            self.metrics.snapshot_seconds.set(seconds)
            logger.info("wrote a snapshot %s", fields(index=meta.index, bytes=length, seconds=f"{seconds:.3f}"))
            if core is self._core and meta.index > core.snapshot.index:
                upto = core.log.trailing(meta.index, trailing_entries, self.config.trailing_bytes)
                core.compact(meta, upto)
                await self._on_log_thread(self._forget, core.snapshot, upto)
        finally:
            self._snapshotting = None

    def _forget(self, snapshot: SnapshotMeta, upto: int) -> None:
        """Runs in the log's thread: remove what a durable snapshot stands for."""
        try:
            self._wal.compact(upto)
            self._wal.snapshots.remove_before(snapshot)
        except OSError as error:
            logger.warning("cannot remove old parts of the log %s", fields(error=str(error)))

    def _install(self, meta: SnapshotMeta) -> None:
        """A snapshot from the leader is durable: it is the state now."""
        self._machine.restore(self._wal.snapshots.chunks(meta))
        self._applied = meta.index
        self._bytes_since_snapshot = 0
        self._barriers.applied(meta.index)
        self.metrics.snapshots.labels("installed").inc()
        self._loop.run_in_executor(self._log_thread, self._forget, meta, meta.index)
        logger.info("installed a snapshot %s", fields(index=meta.index, term=meta.term))

    # --- trouble --------------------------------------------------------------------------------------------------------

    def _halt(self, error: Exception) -> None:
        """Stop taking part; see the module's docstring."""
        core = self._core
        if core is None:
            return
        self._problem = explain(error, self._files.describe(""), self.config.segment_bytes)
        logger.error("halted: %s", self._problem, exc_info=None if isinstance(error, OSError) else error)
        core.resign()
        self._transport.send([message for message in core.ready().messages if not isinstance(message, InstallSnapshot)])
        self._core = None
        self._transport.announce(self._problem)
        self._fail_pending(self._problem)
        self._publish_leadership(LeaderState("", core.term, is_self=False))
        if isinstance(error, OSError):
            self.metrics.disk_failures.inc()
            self._recovering = self._loop.create_task(self._recover())

    async def _recover(self) -> None:
        """Try until the disk takes the log again."""
        while True:
            await asyncio.sleep(RETRY_DISK_S)
            self._transport.announce(self._problem)
            try:
                await self._on_log_thread(self._wal.recover)
                wal = Wal(self._files, self.config.segment_bytes)
                stored = await self._on_log_thread(wal.open, self._bootstrap())
                self._wal = wal
                self._begin(stored)
            except OSError as error:
                self._problem = explain(error, self._files.describe(""), self.config.segment_bytes)
            except Exception as error:  # the disk has lost something: nothing that waiting could mend
                self._core = None
                self._problem = explain(error, self._files.describe(""), self.config.segment_bytes)
                self._transport.announce(self._problem)
                logger.exception("cannot take part again")
                return
            else:
                self._recovering = None
                logger.info("the disk works again")
                return

    async def _on_log_thread(self, function: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._log_thread, function, *args)

    async def _on_snapshot_thread(self, function: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._snapshot_thread, function, *args)
