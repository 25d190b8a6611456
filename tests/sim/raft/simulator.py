"""A faulty world for Raft, decided by one seed.

The real core and the real write-ahead log run on simulated time, disks and network. A nemesis crashes members (losing
everything not synced, or keeping a torn part of it), cuts links (also one way), fails disks, moves leadership, changes
the membership. Clients propose and read all the while. What must never happen is checked as it would happen:

- election safety: one leader in a term
- leader completeness: a new leader's log has every committed entry
- log matching: logs that agree somewhere agree everywhere before it
- state machine safety: every member applies the same entry at an index, now and after any restart
- durability: what was acknowledged to a client is what is applied at that index
- linearizable reads: a read point is not older than anything acknowledged before it was asked for
- liveness: when the faults end, a leader comes, everyone catches up, and writes go through

The same seed gives the same run. A planted bug (`Bug`) shows that the checks find what they are for.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections.abc import Callable, Iterator
from enum import Enum

import msgspec

from control.raft import membership as changes
from control.raft.core import Batch, Core, CoreConfig, Role, Stored
from control.raft.files import MemoryFiles
from control.raft.interface import BusyError, MembershipError, NotLeaderError
from control.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    SnapshotMeta,
    TimeoutNow,
)
from control.raft.quorum import committed_index
from control.raft.wal import Wal
from steersman.clock import SeededEntropy

TICK_MS = 50.0
SEGMENT_BYTES = 4096  # small, so that segments are begun and removed all the time
SNAPSHOT_ENTRIES = 40
TRAILING_ENTRIES = 10
HEAL_LIMIT_MS = 30_000.0


class Bug(Enum):
    """A mistake to plant."""

    NONE = "none"
    VOTE_NOT_PERSISTED = "vote-not-persisted"
    COMMIT_OF_OLDER_TERM = "commit-of-older-term"
    ACK_BEFORE_FSYNC = "ack-before-fsync"
    STALE_READ = "stale-read"
    UNSAFE_MEMBERSHIP_CHANGE = "unsafe-membership-change"


class ViolationError(AssertionError):
    """A promise was broken."""


class ForgetfulWal(Wal):
    """Writes entries, but forgets who was voted for."""

    def save(self, batch: Batch) -> None:
        kept = HardState(batch.hard_state.term, "", batch.hard_state.commit)
        super().save(msgspec.structs.replace(batch, hard_state=kept))


class EagerCore(Core):
    """Commits whatever a majority holds (what figure 8 of the paper warns of)."""

    def _maybe_commit(self) -> None:
        index = committed_index(self.membership.voters, self._match)
        if index > self.log.commit:
            self.log.commit_to(index)


class TrustingCore(Core):
    """Answers reads without asking whether it still leads."""

    def read_index(self, context: int) -> bool:
        if self.role is Role.LEADER:
            from control.raft.core import ReadState

            self._reads_ready.append(ReadState(context, self.log.commit))
            return True
        return super().read_index(context)


class HastyCore(Core):
    """Changes the membership before anything of its term is committed, or while another change is under way."""

    def change_membership(self, change: Callable[[Membership], Membership]) -> int:
        if self.role is not Role.LEADER:
            raise NotLeaderError("no")
        return self.propose([change(self.membership).encode()], EntryKind.MEMBERSHIP)


CORES: dict[Bug, type[Core]] = {
    Bug.COMMIT_OF_OLDER_TERM: EagerCore,
    Bug.STALE_READ: TrustingCore,
    Bug.UNSAFE_MEMBERSHIP_CHANGE: HastyCore,
}


class Member:
    """One member: a disk that outlives crashes, and a process that does not."""

    def __init__(self, world: World, name: str, first: Membership) -> None:
        self.world = world
        self.name = name
        self.first = first
        self.disk = MemoryFiles()
        self.life = 0  # counts restarts: events of an earlier life mean nothing
        self.core: Core | None = None
        self.wal: Wal
        self.applied: list[tuple[int, bytes]] = []  # (term, data) by index, from 1
        self.saving: Batch | None = None
        self.pending: dict[int, tuple[int, bytes]] = {}  # proposals made here: index -> (term, data)
        self.voted = (0, "")
        self.reads: dict[int, int] = {}  # context -> newest index acknowledged when it was asked
        self.tick_ms = TICK_MS * world.random.uniform(0.8, 1.25)  # clocks differ

    # --- life

    def start(self) -> None:
        self.life += 1
        self.saving = None
        self.pending.clear()
        self.reads.clear()
        try:
            stored = self._open()
        except OSError:  # the process ends with an error, and is started again
            self.world.after(500, self._alive(self.start))
            return
        self.applied = []
        if stored.snapshot.index:
            self._restore(stored.snapshot)
        self._begin(stored)
        self.world.after(self.world.random.uniform(0, self.tick_ms), self._alive(self.tick))

    def _open(self) -> Stored:
        wal = ForgetfulWal if self.world.bug is Bug.VOTE_NOT_PERSISTED else Wal
        self.wal = wal(self.disk, SEGMENT_BYTES)
        return self.wal.open(self.first)

    def _begin(self, stored: Stored) -> None:
        config = CoreConfig(name=self.name, max_append_bytes=self.world.max_append_bytes, max_inflight_bytes=1500)
        core = CORES.get(self.world.bug, Core)
        self.core = core(config, stored, SeededEntropy(self.world.random.getrandbits(32)), applied=len(self.applied))
        self.world.trace(f"{self.name} starts: term {self.core.term}, log to {self.core.log.last_index}")
        self.pump()

    def crash(self) -> None:
        """Lose power, perhaps in the middle of a write."""
        self.life += 1
        if self.core is None:
            return
        self.world.trace(f"{self.name} crashes")
        dice = self.world.random
        if self.saving is not None and dice.random() < 0.7:
            self.disk.fail_sync = OSError(errno.EIO, "power lost")
            try:
                self.wal.save(self.saving)
            except OSError:
                pass
            self.disk.fail_sync = None
        self.world.lose_power(self.disk)
        self.core = None
        self.saving = None

    def _halt(self) -> None:
        """The disk failed: stop taking part until it works again, keeping the state machine."""
        assert self.core is not None
        self.world.trace(f"{self.name}'s disk fails")
        self.core.resign()
        self.world.send(self.core.ready().messages)
        self.core = None
        self.saving = None
        self.pending.clear()
        self.reads.clear()
        self.world.after(1000, self._alive(self._recover))

    def _recover(self) -> None:
        try:
            self.wal.recover()
            stored = self._open()
        except OSError:
            self.world.after(1000, self._alive(self._recover))
            return
        self._begin(stored)

    def _alive(self, action: Callable[[], None]) -> Callable[[], None]:
        life = self.life

        def act() -> None:
            if self.life == life:
                action()

        return act

    # --- what the node's loop does

    def tick(self) -> None:
        self.world.after(self.tick_ms, self._alive(self.tick))
        if self.core is not None:
            self.core.tick()
            self.pump()

    def receive(self, message: Message, payload: bytes | None) -> None:
        if self.core is None:
            return
        if isinstance(message, InstallSnapshot):
            assert payload is not None
            try:
                self.wal.snapshots.receive(message.meta, 0, payload)
                self.wal.snapshots.check_incoming(message.meta)
            except OSError:
                return
        self.core.step(message)
        self.pump()

    def pump(self) -> None:
        core = self.core
        while core is not None and core is self.core and core.has_ready:
            ready = core.ready()
            self.world.send(ready.messages)
            if ready.batch is not None:
                self._save(ready.batch)
            self._apply(ready.committed)
            for read in ready.reads:
                self._check_read(read.context, read.index)
        if core is not None and core is self.core:
            self.world.observe(self)

    def _save(self, batch: Batch) -> None:
        self.saving = batch
        dice = self.world.random
        latency_ms = dice.choice((0.5, 1, 3, 10)) if dice.random() < 0.95 else dice.uniform(50, 400)
        if self.world.bug is Bug.ACK_BEFORE_FSYNC:
            self.world.send(batch.messages)
        self.world.after(latency_ms, self._alive(self._saved))

    def _saved(self) -> None:
        batch, self.saving = self.saving, None
        if batch is None or self.core is None:
            return
        try:
            self.wal.save(batch)
        except OSError:
            self._halt()
            return
        if batch.snapshot is not None:
            self._restore(batch.snapshot.meta)
        self.core.advance(batch)
        self.world.send(batch.messages)
        voted, self.voted = self.voted, (batch.hard_state.term, batch.hard_state.vote)
        if (
            voted != self.voted
            and self.voted[1] not in ("", self.name)
            and self.world.random.random() < self.world.vote_crash
        ):
            self.world.crash_member(self, down_ms=1)
            return
        self.pump()

    def _restore(self, meta: SnapshotMeta) -> None:
        self.applied = [
            (term, bytes(data))
            for chunk in self.wal.snapshots.chunks(meta)
            for term, data in msgspec.msgpack.decode(chunk)
        ]
        self.world.check(
            len(self.applied) == meta.index,
            f"{self.name}: the snapshot of {meta.index} has {len(self.applied)} entries",
        )
        for index, entry in enumerate(self.applied, 1):
            self.world.check_applied(self, index, entry)

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            self.world.check(
                entry.index == len(self.applied) + 1, f"{self.name} applied {entry.index} after {len(self.applied)}"
            )
            self.applied.append((entry.term, entry.data))
            self.world.check_applied(self, entry.index, (entry.term, entry.data))
            proposed = self.pending.pop(entry.index, None)
            if proposed is not None and proposed[0] == entry.term:
                self.world.acknowledge(entry.index, proposed)
        core = self.core
        assert core is not None
        if len(self.applied) - core.snapshot.index >= SNAPSHOT_ENTRIES and self.saving is None:
            index = len(self.applied)
            term = core.log.term(index)
            assert term is not None
            meta = SnapshotMeta(index, term, core.history.at(index))
            try:
                self.wal.snapshots.write(meta, self._chunks())
                upto = core.log.trailing(index, TRAILING_ENTRIES, 1 << 20)
                core.compact(meta, upto)
                self.wal.compact(upto)
                self.wal.snapshots.remove_before(meta)
            except OSError:
                pass  # tried again with the next entry

    def _chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.applied), 25):
            yield msgspec.msgpack.encode(self.applied[start : start + 25])

    # --- clients

    def propose(self, data: bytes) -> bool:
        if self.core is None:
            return False
        try:
            index = self.core.propose([data])
        except (NotLeaderError, BusyError):
            return False
        self.pending[index] = (self.core.term, data)
        self.pump()
        return True

    def read(self, context: int) -> None:
        if self.core is not None and self.core.read_index(context):
            self.reads[context] = self.world.acknowledged_index
            self.pump()

    def _check_read(self, context: int, index: int) -> None:
        asked = self.reads.pop(context, None)
        if asked is not None:
            self.world.reads += 1
            self.world.check(
                index >= asked, f"{self.name} may read at {index}, but {asked} was acknowledged before it asked"
            )


class World:
    """Everything there is, until `run` returns or a promise is broken."""

    def __init__(
        self,
        seed: int,
        *,
        bug: Bug = Bug.NONE,
        duration_ms: float = 8000.0,
        keep_trace: bool = False,
        **severity: float,
    ) -> None:
        """Make a world; `severity` overrides what the seed would choose (see the attributes below)."""
        self.seed = seed
        self.random = random.Random(seed)
        self.bug = bug
        self.duration_ms = duration_ms
        self.now_ms = 0.0
        self.lines: list[str] | None = [] if keep_trace else None
        self.leaders: dict[int, str] = {}
        self.committed: list[tuple[int, bytes]] = []  # by index, from 1: what any member ever applied
        self.acknowledged_index = 0
        self.acknowledged = 0
        self.reads = 0
        self.healed = False
        self.broken: Exception | None = None  # the first promise that was; whoever runs inside the world may swallow it
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._cut: set[tuple[str, str]] = set()
        dice = self.random
        self.loss = dice.choice((0.0, 0.02, 0.1))
        self.duplication = dice.choice((0.0, 0.05))
        self.slow = dice.choice((0.0, 0.02, 0.1))  # share of messages that take very long, and so arrive out of order
        self.crashiness = dice.choice((1, 1, 4))  # weight of crashes among the faults
        self.churn = dice.choice((1, 1, 5))  # weight of membership changes
        self.contests = dice.choice((1, 1, 5))  # weight of elections that nobody needs
        self.vote_crash = dice.choice((0.0, 0.0, 0.5))  # how likely a member dies right after it voted
        self.max_append_bytes = dice.choice((40, 400, 4000))  # 40: one entry in a message
        self.pause_ms = dice.choice((100.0, 300.0, 900.0))  # between faults, on average
        self.size = dice.choice((3, 3, 5))
        for name, value in severity.items():
            assert hasattr(self, name)
            setattr(self, name, value)
        voters = [f"m{number}" for number in range(1, self.size + 1)]
        first = Membership(frozenset(voters), frozenset(), {name: name for name in voters}, "sim")
        self.members = {name: self.make_member(name, first) for name in voters}
        self.spare = [f"m{number}" for number in range(len(voters) + 1, len(voters) + 3)]

    def make_member(self, name: str, first: Membership) -> Member:
        """A member of this world; other worlds make others."""
        return Member(self, name, first)

    # --- time

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.now_ms + delay_ms, self._sequence, action))

    def run(self) -> None:
        """Live through the faults and the healing. Raises ViolationError."""
        for member in self.members.values():
            member.start()
        self.after(self.random.expovariate(1 / self.pause_ms), self._fault)
        self.after(5, self._client)
        self._run_until(self.duration_ms, lambda: False)
        self._heal()
        target = self.committed_count
        self._run_until(self.now_ms + HEAL_LIMIT_MS, lambda: self._converged(target))
        self.check(self._converged(target), "after healing, not everyone caught up and wrote again")
        self._check_log_matching()

    @property
    def committed_count(self) -> int:
        return len(self.committed)

    def _run_until(self, limit_ms: float, done: Callable[[], bool]) -> None:
        next_check = self.now_ms
        while self._events and self._events[0][0] <= limit_ms:
            self.now_ms, _, action = heapq.heappop(self._events)
            action()
            if self.broken is not None:
                raise self.broken
            if self.now_ms >= next_check:
                next_check = self.now_ms + 500
                self._check_log_matching()
                if done():
                    return

    # --- network

    def send(self, messages: tuple[Message, ...]) -> None:
        dice = self.random
        for message in messages:
            payload = None
            if isinstance(message, InstallSnapshot):
                file = self.members[message.sender].wal.snapshots.open(message.meta)
                payload = file.read(0, file.size())
            copies = 1
            if not self.healed:
                if (message.sender, message.to) in self._cut or dice.random() < self.loss:
                    copies = 0
                elif dice.random() < self.duplication:
                    copies = 2
            if copies == 0 and isinstance(message, InstallSnapshot):
                self._report_snapshot(message, arrived=False)
            for _ in range(copies):
                late = not self.healed and dice.random() < self.slow
                delay = dice.uniform(100, 1500) if late else dice.expovariate(0.5) + 0.1
                self.after(delay, self._delivery(message, payload))

    def _delivery(self, message: Message, payload: bytes | None) -> Callable[[], None]:
        def deliver() -> None:
            member = self.members.get(message.to)
            if member is not None:
                member.receive(message, payload)
            if isinstance(message, InstallSnapshot):
                self._report_snapshot(message, arrived=True)

        return deliver

    def _report_snapshot(self, message: InstallSnapshot, *, arrived: bool) -> None:
        def report() -> None:
            sender = self.members[message.sender]
            if sender.core is not None:
                sender.core.report_snapshot(message.to, arrived=arrived)
                sender.pump()

        self.after(20, report)

    # --- clients

    def _client(self) -> None:
        self.after(self.random.uniform(5, 60), self._client)
        members = list(self.members.values())
        self.random.shuffle(members)
        for member in members:
            if member.propose(b"%d" % self._sequence) and self.random.random() < 0.8:
                break  # now and then, also offer it to another that believes to lead
        self.random.choice(members).read(self._sequence)

    def acknowledge(self, index: int, proposed: tuple[int, bytes]) -> None:
        self.check(self.committed[index - 1] == proposed, f"entry {index} was acknowledged as {proposed}")
        self.acknowledged_index = max(self.acknowledged_index, index)
        self.acknowledged += 1

    # --- nemesis

    def _fault(self) -> None:
        if self.healed:
            return
        self.after(self.random.expovariate(1 / self.pause_ms), self._fault)
        self.random.choice(self.faults())()

    def faults(self) -> list[Callable[[], None]]:
        """What may befall this world; what stands more often happens more often."""
        return [self._crash] * self.crashiness + [
            self._crash_all,
            self._partition,
            self._cut_one_way,
            self._isolate_leader,
            self._fail_disk,
            self._transfer,
            *[self._contest] * self.contests,
            *[self._change_membership] * self.churn,
            self._mend_links,
            self._mend_links,
        ]

    def _crash(self) -> None:
        self.crash_member(self.random.choice(list(self.members.values())))

    def _crash_all(self) -> None:
        for member in self.members.values():
            self.crash_member(member)

    def lose_power(self, disk: MemoryFiles) -> None:
        """Of every write that was not synced: nothing is there, a part, all, or all with a bit flipped."""
        dice = self.random

        def spoils(data: bytes) -> bytes:
            if not data or dice.random() >= 0.2:
                return data
            at = dice.randrange(len(data))
            return data[:at] + bytes((data[at] ^ 1 << dice.randrange(8),)) + data[at + 1 :]

        disk.crash(lambda: dice.choice((0.0, 0.0, 0.5, 1.0)), spoils)

    def crash_member(self, member: Member, down_ms: float = 0.0) -> None:
        member.crash()
        life = member.life
        down_ms = down_ms or self.random.choice((1, 50, 400, 2000))

        def restart() -> None:
            if member.life == life:
                member.start()

        self.after(down_ms, restart)

    def _partition(self) -> None:
        side = {name for name in self.members if self.random.random() < 0.5}
        self.trace(f"partition: {sorted(side)} from the rest")
        self._cut = {(a, b) for a in self.members for b in self.members if (a in side) != (b in side)}

    def _cut_one_way(self) -> None:
        a, b = self.random.sample(list(self.members), 2)
        self.trace(f"cut {a} -> {b}")
        self._cut.add((a, b))

    def _isolate_leader(self) -> None:
        for member in self.members.values():
            if member.core is not None and member.core.role is Role.LEADER:
                self.trace(f"isolate {member.name}")
                self._cut |= {pair for other in self.members for pair in ((member.name, other), (other, member.name))}

    def _mend_links(self) -> None:
        self.trace("links mended")
        self._cut.clear()

    def _fail_disk(self) -> None:
        disk = self.random.choice(list(self.members.values())).disk
        if self.random.random() < 0.5:
            disk.fail_sync = OSError(errno.EIO, "Input/output error")
        else:
            disk.capacity = disk.used

        def mend() -> None:
            disk.fail_sync = None
            disk.capacity = None

        self.after(self.random.uniform(100, 3000), mend)

    def _leader(self) -> Member | None:
        leaders = [
            member for member in self.members.values() if member.core is not None and member.core.role is Role.LEADER
        ]
        return self.random.choice(leaders) if leaders else None

    def _transfer(self) -> None:
        leader = self._leader()
        if leader is not None and leader.core is not None:
            try:
                leader.core.transfer(self.random.choice(sorted(leader.core.membership.voters)))
            except MembershipError:
                return
            leader.pump()

    def _contest(self) -> None:
        """Let two members stand for election at once: safety must not depend on when elections happen."""
        for member in self.random.sample(list(self.members.values()), 2):
            if member.core is not None:
                member.receive(TimeoutNow(member.name, member.name, member.core.term), None)

    def _change_membership(self) -> None:
        leader = self._leader()
        if leader is None or leader.core is None:
            return
        present = leader.core.membership
        try:
            if present.learners:
                name = min(present.learners)
                leader.core.change_membership(lambda current: changes.promote(current, name))
            elif self.spare and self.random.random() < 0.5:
                name = self.spare.pop()
                if name not in self.members:
                    self.members[name] = self.make_member(name, Membership())
                    self.members[name].start()
                leader.core.change_membership(lambda current: changes.add_learner(current, name, name))
            elif len(present.voters) > 2:
                name = self.random.choice(sorted(present.voters))
                leader.core.change_membership(lambda current: changes.remove(current, name))
        except (MembershipError, NotLeaderError):
            return
        self.trace(f"{leader.name} changes the membership to {leader.core.membership.names}")
        leader.pump()

    def _heal(self) -> None:
        self.trace("--- healing")
        self.healed = True
        self._cut.clear()
        for member in self.members.values():
            member.disk.fail_sync = None
            member.disk.capacity = None
            if member.core is None:
                member.crash()
                member.start()

    # --- promises

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken = self.broken or ViolationError(f"seed {self.seed} at {self.now_ms:.0f} ms: {what}")
            raise self.broken

    def check_applied(self, member: Member, index: int, entry: tuple[int, bytes]) -> None:
        if index <= len(self.committed):
            known = self.committed[index - 1]
            self.check(known == entry, f"{member.name} applied {entry} at {index}, where {known} was applied before")
        else:
            self.check(
                index == len(self.committed) + 1, f"{member.name} applied {index}, which nobody was told to commit"
            )
            self.committed.append(entry)

    def observe(self, member: Member) -> None:
        core = member.core
        assert core is not None
        if core.role is not Role.LEADER:
            return
        known = self.leaders.get(core.term)
        if known is None:
            self.leaders[core.term] = member.name
            self.trace(f"{member.name} leads term {core.term}")
            self._check_leader_complete(core)
        else:
            self.check(known == member.name, f"{known} and {member.name} both lead term {core.term}")

    def _check_leader_complete(self, core: Core) -> None:
        index = len(self.committed)
        while index and self.committed[index - 1][0] >= core.term:
            index -= 1  # a newer leader's, or its own
        if index > core.log.offset:
            term = core.log.term(index)
            expected = self.committed[index - 1][0]
            self.check(
                term == expected,
                f"{core.name} leads term {core.term} without the committed entry {index} (term {expected}; has {term})",
            )

    def _check_log_matching(self) -> None:
        logs = [member.core.log for member in self.members.values() if member.core is not None]
        for position, one in enumerate(logs):
            for other in logs[position + 1 :]:
                low = max(one.offset, other.offset)
                high = min(one.last_index, other.last_index)
                agreed = False
                for index in range(high, low, -1):
                    same = one.term(index) == other.term(index)
                    self.check(same or not agreed, f"two logs agree after {index} but not there")
                    agreed = agreed or same

    def _converged(self, target: int) -> bool:
        """Everyone who is a member has applied everything, a new entry included."""
        leader = self._leader()
        if leader is None or leader.core is None or leader.core.log.commit <= target:
            return False
        present = [self.members[name] for name in leader.core.membership.names]
        return all(
            member.core is not None and len(member.applied) > target and member.core.leader == leader.name
            for member in present
        )

    def trace(self, line: str) -> None:
        if self.lines is not None:
            self.lines.append(f"{self.now_ms:9.1f} {line}")


def run(seed: int, bug: Bug = Bug.NONE, **severity: float) -> World:
    """Run one seed. Raises ViolationError, or whatever broke."""
    world = World(seed, bug=bug, **severity)
    world.run()
    return world
