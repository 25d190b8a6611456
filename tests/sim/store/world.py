"""A faulty world for the whole store: SDK, gRPC semantics, API handlers, MVCC store, Raft node and log, from one seed.

It is a world of `tests.sim.raft` (its time, disks, network, nemesis, and what it checks of Raft) whose members are whole:
each runs the real `RaftNode`, `EmbeddedStore`, `Handlers`, `LeaderLink` and `ObjectsServicer` in an event loop of simulated
time (`loop`), reached by real SDK clients over simulated gRPC (`wire`). More can go wrong than there: clocks jump, disks
turn slow. Clients write and read a few objects and watch them all the while. Checked, besides Raft's promises:

- every member makes the same revisions of the same log, after restarts and snapshots too
- an acknowledged write is in the log, at the revision that was answered
- what clients were told of each object is linearizable (`tests.sim.linearizability`)
- a list shows all objects as of its revision
- a watch, over all its resumptions at any member, tells every change once, in order, whole revisions at a time, and a
  bookmark is never ahead of what was told
- liveness: after healing, clients and watchers get through, and members agree
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import errno
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from prometheus_client import CollectorRegistry

from control.api.carried import ForwardingServicer
from control.api.context import ApiContext
from control.api.forwarding import LeaderLink
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.servicers import ObjectsServicer
from control.raft.core import Core
from control.raft.files import File, MemoryFile, MemoryFiles
from control.raft.interface import RaftConfig, StateMachine
from control.raft.messages import Entry, InstallSnapshot, Membership, Message, VoteResponse
from control.raft.metrics import RaftMetrics
from control.raft.node import RaftNode
from control.store import embedded
from control.store.embedded import EmbeddedStore
from control.store.mvcc import Budget, Mvcc
from control.store.watch import Watcher, WatchHub
from steersman.clock import SeededEntropy
from tests.sim.linearizability import Call, History
from tests.sim.raft.simulator import (
    SEGMENT_BYTES,
    SNAPSHOT_ENTRIES,
    TRAILING_ENTRIES,
    Member,
    World,
)
from tests.sim.store.clients import StoreTail, Watching, Writer
from tests.sim.store.loop import SimLoop
from tests.sim.store.wire import Credentials, SimGatekeeper, secure_channel

PREFIX = "/core/configmaps/default/"
SLOWEST_MS = 2000.0  # a disk that takes longer is down
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
Change = tuple[str, bytes | None]  # key, value (None: removed)


class StoreBug(Enum):
    """A mistake to plant."""

    NONE = "none"
    ACK_BEFORE_FSYNC = "store:ack-before-fsync"
    STALE_READ = "store:stale-read"
    LOST_WATCH_EVENT = "store:lost-watch-event"
    SPLIT_REVISION = "store:split-revision"


class LazyFile(MemoryFile):
    """Says that it synced, and did not."""

    def sync(self) -> None:
        self._disk.before_sync()


class LazyFiles(MemoryFiles):
    """A disk that acknowledges what it does not have, of the log only."""

    def open(self, name: str, *, create: bool = True) -> MemoryFile:
        if name.startswith("wal-") and name not in self._files and create:
            self._files[name] = LazyFile(self)
        return super().open(name, create=create)


class HastyStore(EmbeddedStore):
    """Reads without asking the leader."""

    async def barrier(self) -> int:
        return self.revision


class DeafHub(WatchHub):
    """Forgets that watchers have not seen what a snapshot from the leader brought."""

    def reset(self) -> None:
        for watcher in self._live():
            watcher._position = self.state.revision
        self.published = self.state.revision


class CuttingWatcher(Watcher):
    """Hands out the events of one revision one by one."""

    def _take(self) -> Any:
        batch = super()._take()
        if batch is not None and len(batch.events) > 1:
            self._buffer = [*batch.events[1:], *self._buffer]
            revision = batch.events[0].revision
            return type(batch)(batch.events[:1], revision)
        return batch


@functools.cache
def shared_metrics() -> RaftMetrics:
    return RaftMetrics(CollectorRegistry())


class SimClock:
    """A member's clocks: one runs too fast or slow, the other is also wrong, and jumps."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.wrong_s = 0.0

    def now(self) -> dt.datetime:
        return START + dt.timedelta(seconds=self._loop.time() + self.wrong_s)

    def monotonic(self) -> float:
        return self._loop.time()


class SimTransport:
    """Raft's messages over the world's network."""

    def __init__(self, member: StoreMember) -> None:
        self._member = member
        self.receiver: Any = None

    async def start(self, receiver: Any) -> None:
        self.receiver = receiver

    async def stop(self) -> None:
        self.receiver = None

    def send(self, messages: Sequence[Message]) -> None:
        if messages:
            self._member.world.send(tuple(messages))
            self._member.world.maybe_crash_after_vote(self._member, messages)
        if self._member.core is not None:
            self._member.world.observe(self._member)

    def send_snapshot(self, message: InstallSnapshot, file: File) -> None:
        self._member.world.send_snapshot(self._member, message, file.read(0, file.size()))

    def set_members(self, addresses: Mapping[str, str]) -> None:
        pass

    def announce(self, problem: str) -> None:
        self._member.problem = problem
        self._member.world.check(not problem.startswith("stopped for good"), f"{self._member.name} {problem}")

    def reachable(self, name: str) -> bool:
        return self._member.world.is_up(name)

    def problem(self, name: str) -> str:
        return self._member.world.members[name].problem


class Witness(StateMachine):
    """Sees what a member's state machine is given and what it makes of it."""

    def __init__(self, member: StoreMember, machine: StateMachine, state: Callable[[], Mvcc]) -> None:
        self._member = member
        self._machine = machine
        self._state = state

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        world, state = self._member.world, self._state()
        results: list[object] = []
        for entry in entries:  # one by one: what each makes of the state is compared
            world.check_entry(self._member, entry)
            before = state.revision
            results += self._machine.apply([entry])
            self._member.applied_index = entry.index
            world.check_changes(self._member, state, before)
            world.check_revision(self._member, entry.index, state.revision)
        return results

    def snapshot(self) -> Iterator[bytes]:
        return self._machine.snapshot()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self._machine.restore(chunks)
        state = self._state()
        self._member.world.check_changes(self._member, state, state.compacted)


class StoreMember(Member):
    """One whole member of the control plane."""

    world: StoreWorld

    def __init__(self, world: StoreWorld, name: str, first: Membership) -> None:
        super().__init__(world, name, first)
        self.disk = LazyFiles() if world.store_bug is StoreBug.ACK_BEFORE_FSYNC else MemoryFiles()
        self.rate = world.random.uniform(0.9, 1.1)
        self.wrong_s = world.random.choice((0.0, -3.0, 5.0))
        self.slow_factor = 1.0
        self.loop = SimLoop(world)
        self.loop.kill()
        self.node: RaftNode | None = None
        self.store: EmbeddedStore
        self.servicers: dict[str, Any] = {}
        self.clock: SimClock
        self.problem = ""
        self.applied_index = 0
        self.transport: SimTransport

    # --- life

    @property
    def core(self) -> Core | None:
        return None if self.node is None or self.loop.dead else self.node._core

    @core.setter
    def core(self, _: Core | None) -> None:
        pass

    def start(self) -> None:
        self.life += 1
        world = self.world
        self.loop = SimLoop(world, self.rate, self._latency_ms)
        world.loops.append(self.loop)
        self.clock = SimClock(self.loop)
        self.clock.wrong_s = self.wrong_s
        self.problem = ""
        self.node = None
        self.loop.do(lambda: self.loop.create_task(self._boot()).add_done_callback(world.notice))

    async def _boot(self) -> None:
        world = self.world
        entropy = SeededEntropy(world.random.getrandbits(32))
        config = RaftConfig(
            name=self.name,
            data_dir=Path("/nowhere"),
            members=dict(self.first.addresses),
            cluster_id="sim",
            segment_bytes=SEGMENT_BYTES * 2,
            snapshot_entries=SNAPSHOT_ENTRIES,
            trailing_entries=TRAILING_ENTRIES,
            max_append_bytes=world.max_append_bytes * 10,
        )
        self.transport = SimTransport(self)
        kind = HastyStore if world.store_bug is StoreBug.STALE_READ else EmbeddedStore

        def make_node(machine: StateMachine) -> RaftNode:
            witness = Witness(self, machine, lambda: self.store._engine.state)
            return RaftNode(
                config,
                witness,
                self.clock,
                entropy,
                transport=self.transport,
                files=self.disk,
                metrics=shared_metrics(),
            )

        self.store = kind(
            make_node, self.clock, budget=Budget(changes=world.kept_changes), registry=CollectorRegistry()
        )
        leadership = Leadership(self.name)
        context = ApiContext(self.store, leadership, self.clock, entropy)
        handlers = Handlers(context)
        world.count_executions(handlers)
        credentials: Any = Credentials(world, self.loop, self.name)
        link = LeaderLink(leadership, lambda name: name, lambda: credentials, self.clock, entropy)
        self.servicers = {
            "steersman.v1.Objects": ObjectsServicer(handlers, link, SimGatekeeper(), self.clock),
            "control.api.Forwarding": ForwardingServicer(handlers, SimGatekeeper(), self.clock),
        }
        try:
            await self.store.start()
        except OSError as error:  # the process ends with an error, and is started again
            world.trace(f"{self.name} cannot start: {error}")
            self.loop.kill()
            world.after(500, self._alive(self.start))
            return
        self.node = self.store.raft
        assert self.core is not None
        world.trace(f"{self.name} starts: term {self.core.term}, log to {self.core.log.last_index}")
        self.loop.create_task(leadership.follow(self.store.leadership()))
        tail = StoreTail(self)
        self.loop.create_task(tail.follow())
        self.loop.create_task(tail.write())

    def crash(self) -> None:
        self.life += 1
        if self.loop.dead:
            return
        self.world.trace(f"{self.name} crashes")
        jobs = list(self.loop.jobs)
        self.loop.kill()
        self.node = None
        if jobs and self.world.random.random() < 0.7:  # in the middle of a write
            self.disk.fail_sync = OSError(errno.EIO, "power lost")
            try:
                jobs[0]()
            except Exception as error:
                self.world.trace(f"{self.name} was writing: {type(error).__name__}")
            self.disk.fail_sync = None
        self.world.lose_power(self.disk)

    def _latency_ms(self) -> float:
        dice = self.world.random
        if self.world.disk_ms:
            return self.world.disk_ms * dice.uniform(0.7, 1.3)
        slow = dice.uniform(50, 400) if dice.random() < 0.03 else dice.choice((0.5, 1, 3, 10))
        return min(slow * self.slow_factor, SLOWEST_MS)

    def receive(self, message: Message, payload: bytes | None) -> None:
        if self.core is not None and not isinstance(message, InstallSnapshot):
            assert self.node is not None
            self.loop.do(self.node.receive, [message])

    def pump(self) -> None:
        if self.node is not None:
            self.loop.do(self.node._wake)

    async def take_snapshot(self, message: InstallSnapshot, data: bytes, upto: int) -> bool:
        """What the transport does with a snapshot that arrives, or with the part of it that does."""
        node = self.node
        if node is None:
            return False
        offset = await node.incoming_size(message.meta)
        await node.receive_snapshot(message.meta, offset, data[offset:upto])
        if upto < len(data):
            return False
        await node.finish_snapshot(message)
        return True


class StoreWorld(World):
    """A world of whole members. The clients' calls are in `history`, the truth in `changes`."""

    members: dict[str, StoreMember]  # type: ignore[assignment]

    def __init__(self, seed: int, *, bug: StoreBug = StoreBug.NONE, duration_ms: float = 5000.0, **more: Any) -> None:
        self.store_bug = bug
        self.history = History()
        self.changes: list[tuple[Change, ...]] = []  # by revision, from 1: what any member ever made of the log
        self.entries: dict[int, tuple[int, bytes]] = {}  # by index: commands that any member ever applied
        self.revisions: dict[int, int] = {}  # by index of a command: the revision after it
        self.executions: dict[str, int] = {}  # by the value that a write carries: how often a leader worked on it
        self.loops: list[SimLoop] = []  # of every life of every member
        self.kept_changes = 10_000
        self.disk_ms = 0.0  # what every sync takes, always and everywhere; 0: as it comes
        super().__init__(seed, duration_ms=duration_ms, **more)
        dice = self.random
        self.kept_changes = dice.choice((30, 10_000))  # 30: watches that are away for a while must list again
        self.writers = 3
        self.loop = SimLoop(self)  # of the clients, which never die
        self.objects = [f"o{number}" for number in range(dice.choice((1, 3)))]
        self.watchers: list[Watching] = []
        self.clients: list[Writer] = []

    def make_member(self, name: str, first: Membership) -> StoreMember:
        return StoreMember(self, name, first)

    # --- life

    def run(self) -> None:
        with ExitStack() as planted:
            self._plant(planted)
            try:
                super().run()
                self._settle()
            finally:
                self.healed = True
                for loop in (self.loop, *self.loops):
                    loop.kill()
                for loop in (self.loop, *self.loops):
                    loop.bury()
                self._events.clear()

    def _plant(self, planted: ExitStack) -> None:
        # Made for every start of every member: counting costs more than all else that a start does.
        planted.enter_context(mock.patch("grpc.aio.secure_channel", secure_channel))
        planted.enter_context(mock.patch.object(embedded, "StoreMetrics", NoMetrics))
        match self.store_bug:
            case StoreBug.LOST_WATCH_EVENT:
                planted.enter_context(mock.patch("control.store.engine.WatchHub", DeafHub))
            case StoreBug.SPLIT_REVISION:
                planted.enter_context(mock.patch("control.store.watch.Watcher", CuttingWatcher))
            case _:
                pass

    def _client(self) -> None:
        """Called once by `run`: the clients are tasks, and go on by themselves."""
        self.clients = [Writer(self, f"client-{number}") for number in range(1, self.writers + 1)]
        self.watchers = [Watching(self, f"watcher-{number}", bookmarks=number == 1) for number in (1, 2)]
        for one in (*self.clients, *self.watchers):
            self.loop.do(self._begin, one)

    def _begin(self, one: Writer | Watching) -> None:
        self.loop.create_task(one.run()).add_done_callback(self.notice)

    def notice(self, task: asyncio.Task[None]) -> None:
        """A task that must not fail has ended."""
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.broken = self.broken or error

    def _settle(self) -> None:
        """After healing: every call ends, watchers see everything, members are equal, the history can be explained."""
        for member in set(self.members.values()) - set(self.present):
            member.crash()  # who was removed is switched off in the end: the docs say so
        for client in self.clients:
            client.stopping = True
        limit = self.now_ms + 15_000
        self._run_until(limit, lambda: all(client.done for client in self.clients))
        self.check(all(client.done for client in self.clients), "after healing, a client's call never ended")
        self._run_until(limit + 15_000, self._agree)
        self.check(self._agree(), "after healing, members or watchers did not catch up")
        self._check_states()
        for watcher in self.watchers:
            watcher.check_complete()
        happened = {value for changes in self.changes for _, value in changes if value is not None}
        written = b"\n".join(happened)
        known = [
            self._as_carried_out(call)
            for call in self.history.calls
            # What nobody knows the outcome of, and never came into the log, need not be tried in every place.
            if call.outcome != "unknown" or call.kind == "delete" or b'"%b"' % call.value.encode() in written
        ]
        problem = History(known).check()
        self.check(not problem, problem)

    def _as_carried_out(self, call: Call) -> Call:
        """A call that the path carried out again may have found its own work, and may have taken effect again.

        (Idempotent writes are promised at least once, not exactly once; see docs/store.md.)
        """
        found = call.expect[1] if call.expect is not None else ""
        if call.kind == "update" and call.outcome == "conflict" and self.executions.get(found, 1) > 1:
            # The same value may be there again under another revision, which is what an update compares.
            return dataclasses.replace(call, outcome="unknown", end=math.inf)
        again = self.executions.get(call.value, 1) - 1
        if again <= 0:
            return call
        if call.outcome in ("ok", "unknown"):
            return dataclasses.replace(call, repeats=again)
        return dataclasses.replace(call, outcome="unknown", end=math.inf, repeats=again)

    @property
    def present(self) -> list[StoreMember]:
        """The members of the membership in force."""
        leader = self._leader()
        assert leader is not None
        assert leader.core is not None
        return [self.members[name] for name in leader.core.membership.names]

    def _agree(self) -> bool:
        newest = len(self.changes)
        return (
            self._leader() is not None
            and all(member.core is not None and member.store.revision == newest for member in self.present)
            and all(watcher.caught_up() for watcher in self.watchers)
        )

    def _converged(self, target: int) -> bool:
        leader = self._leader()
        if leader is None or leader.core is None or len(self.entries) <= target:
            return False
        newest = leader.core.log.commit
        return all(
            member.core is not None and member.core.leader == leader.name and member.core.log.applied >= newest - 20
            for member in self.present
        )

    @property
    def committed_count(self) -> int:
        return len(self.entries)

    def is_up(self, name: str) -> bool:
        member = self.members.get(name)
        return member is not None and member.node is not None and not member.loop.dead

    def count_executions(self, handlers: Handlers) -> None:
        """Learn how often a write is carried out: paths that repeat it may do so more than once."""
        for method in ("create", "update", "patch", "delete"):
            original = getattr(handlers, method)

            async def counted(request: Any, caller: Any, original: Any = original) -> Any:
                tag = request.options.cause.actor
                self.executions[tag] = self.executions.get(tag, 0) + 1
                return await original(request, caller)

            setattr(handlers, method, counted)

    # --- network

    def travel_ms(self, sender: str, receiver: str) -> float | None:
        """How long a part of a call takes on its way; None: it never arrives."""
        dice = self.random
        if self.healed:
            return dice.expovariate(0.5) + 0.1
        if (sender, receiver) in self._cut or dice.random() < self.loss / 10:  # connections send lost packets again
            return None
        return dice.uniform(100, 1500) if dice.random() < self.slow / 2 else dice.expovariate(0.5) + 0.1

    def send_snapshot(self, sender: StoreMember, message: InstallSnapshot, data: bytes) -> None:
        """Carry a snapshot; now and then only a part of it gets there."""
        receiver, life, dice = self.members[message.to], sender.life, self.random
        upto = len(data) if self.healed or dice.random() < 0.7 else dice.randrange(len(data))
        lost = not self.is_up(message.to) or (not self.healed and (message.sender, message.to) in self._cut)

        def report(arrived: bool) -> None:
            if sender.life == life and sender.node is not None:
                sender.loop.do(functools.partial(sender.node.snapshot_sent, message.to, arrived=arrived))

        async def take() -> None:
            try:
                arrived = await receiver.take_snapshot(message, data, upto)
            except Exception as error:
                self.trace(f"{receiver.name} cannot take a snapshot: {error}")
                arrived = False
            self.after(5, lambda: report(arrived))

        loop = receiver.loop
        if lost:
            self.after(50, lambda: report(False))
        else:
            self.after(dice.uniform(1, 30), lambda: loop.do(lambda: loop.create_task(take())))
            # A receiver that dies meanwhile never reports: the connection is given up.
            self.after(2000, lambda: report(False) if loop.dead else None)

    # --- nemesis

    def faults(self) -> list[Callable[[], None]]:
        return [*super().faults(), self._jump_clock, self._slow_disk, self._break_connections]

    def maybe_crash_after_vote(self, member: StoreMember, messages: Sequence[Message]) -> None:
        """A vote is out: the worst moment to forget it."""
        voted = any(isinstance(message, VoteResponse) and message.granted and not message.pre for message in messages)
        if voted and not self.healed and self.random.random() < self.vote_crash:
            self.after(0.0, lambda: self.crash_member(member, down_ms=1))

    def _jump_clock(self) -> None:
        member = self.random.choice(list(self.members.values()))
        member.wrong_s += self.random.choice((-3600.0, -10.0, 10.0, 3600.0))
        if not member.loop.dead and member.node is not None:
            member.clock.wrong_s = member.wrong_s

    def _slow_disk(self) -> None:
        member = self.random.choice(list(self.members.values()))
        member.slow_factor = self.random.choice((10.0, 100.0))
        self.trace(f"{member.name}'s disk is {member.slow_factor:.0f} times slower")
        self.after(self.random.uniform(200, 2000), lambda: setattr(member, "slow_factor", 1.0))

    def _break_connections(self) -> None:
        member = self.random.choice(list(self.members.values()))
        broken, member.loop.on_kill = member.loop.on_kill, {}
        for action in broken.values():
            action()

    def _heal(self) -> None:
        for member in self.members.values():
            member.slow_factor = 1.0
        super()._heal()

    # --- promises

    def check_entry(self, member: StoreMember, entry: Entry) -> None:
        seen = (entry.term, entry.data)
        known = self.entries.setdefault(entry.index, seen)
        self.check(known == seen, f"{member.name} applied another entry at {entry.index} than was applied before")

    def check_revision(self, member: StoreMember, index: int, revision: int) -> None:
        known = self.revisions.setdefault(index, revision)
        self.check(known == revision, f"{member.name} is at revision {revision} after entry {index}, others at {known}")

    def check_changes(self, member: StoreMember, state: Mvcc, after: int) -> None:
        """Compare what a member made of the log with what was made of it before."""
        after = max(after, state.compacted)
        for offset, versions in enumerate(state.changes(after)):
            revision = after + 1 + offset
            made = tuple((version.kv.key, None if version.deleted else version.kv.value) for version in versions)
            if revision == len(self.changes) + 1:
                self.changes.append(made)
            else:
                self.check(revision <= len(self.changes), f"{member.name} made revision {revision} out of turn")
                self.check(self.changes[revision - 1] == made, f"{member.name} made another revision {revision}")

    def state_at(self, revision: int) -> dict[str, bytes]:
        """The objects as of a revision."""
        state: dict[str, bytes] = {}
        for changes in self.changes[:revision]:
            for key, value in changes:
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value
        return state

    def objects_at(self, revision: int) -> dict[str, Any]:
        """The clients' objects as of a revision, by name."""
        state = self.state_at(revision).items()
        return {key[len(PREFIX) :]: msgspec.json.decode(value) for key, value in state if key.startswith(PREFIX)}

    def changes_between(self, after: int, upto: int) -> list[tuple[int, str, bool]]:
        """(revision, name, whether deleted) of every change of the clients' objects."""
        return [
            (after + 1 + offset, key[len(PREFIX) :], value is None)
            for offset, changes in enumerate(self.changes[after:upto])
            for key, value in changes
            if key.startswith(PREFIX)
        ]

    def check_acknowledged(self, name: str, document: dict[str, Any]) -> None:
        revision = int(document["metadata"]["resourceVersion"])
        self.check(0 < revision <= len(self.changes), f"revision {revision} was acknowledged and never happened")
        written = dict(self.changes[revision - 1]).get(PREFIX + name)
        self.check(
            written is not None and msgspec.json.decode(written) == document,
            f"{document} was acknowledged at revision {revision}, where there is {written!r}",
        )

    def _check_states(self) -> None:
        truth = self.state_at(len(self.changes))
        for member in self.present:
            kvs = member.store._engine.state.range("").kvs
            self.check({kv.key: kv.value for kv in kvs} == truth, f"{member.name}'s state differs from its log")

    def _check_leader_complete(self, core: Core) -> None:
        for index in sorted(self.entries, reverse=True):
            term = self.entries[index][0]
            if term < core.term:
                if index > core.log.offset:
                    self.check(
                        core.log.term(index) == term,
                        f"{core.name} leads term {core.term} without the committed entry {index} (term {term})",
                    )
                return


class NoMetrics:
    """Counts nothing."""

    def __init__(self, *_: Any) -> None:
        self.commit_seconds = self.apply_seconds = self.group_txns = self

    def observe(self, _: float) -> None:
        pass


def run(seed: int, bug: StoreBug = StoreBug.NONE, **severity: Any) -> StoreWorld:
    """Run one seed. Raises ViolationError, or whatever broke."""
    world = StoreWorld(seed, bug=bug, **severity)
    world.run()
    return world
