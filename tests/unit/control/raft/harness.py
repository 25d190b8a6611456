"""A handful of cores joined by a network that the test controls, with disks that are never slow unless asked to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from control.raft.core import Batch, Core, CoreConfig, ReadState, Role, Stored
from control.raft.messages import (
    Append,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Membership,
    Message,
    ReadIndex,
    ReadIndexResponse,
    SnapshotMeta,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from steersman.clock import SeededEntropy

NAMES = ("a", "b", "c", "d", "e")


def membership(voters: Iterable[str], learners: Iterable[str] = ()) -> Membership:
    names = [*voters, *learners]
    return Membership(frozenset(voters), frozenset(learners), {name: f"{name}:1" for name in names}, "test")


def entries(*terms: int) -> tuple[Entry, ...]:
    """A log with these terms, from index 1."""
    return tuple(Entry(index, term, b"%d.%d" % (index, term)) for index, term in enumerate(terms, 1))


def stored(voters: Iterable[str], *terms: int, term: int = 0, vote: str = "") -> Stored:
    hard_state = HardState(max(term, *terms, 0) if terms else term, vote)
    return Stored(hard_state, SnapshotMeta(0, 0, membership(voters)), entries(*terms))


class Fabric:
    """Cores by name; messages go through `wanted`, and lines of what happens into `lines`."""

    def __init__(
        self, size: int = 3, logs: dict[str, Stored] | None = None, core: type[Core] = Core, **config: int
    ) -> None:
        voters = NAMES[:size]
        self.config = config
        self.core = core
        self.cores: dict[str, Core] = {}
        self.applied: dict[str, list[Entry]] = {}
        self.reads: dict[str, list[ReadState]] = {}
        self.held: dict[str, list[Batch]] = {}  # batches on slow disks
        self.slow: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.lost: list[Message] = []
        self.lines: list[str] = []
        self.in_flight: list[Message] = []
        for name in voters:
            self.add(name, (logs or {}).get(name) or stored(voters))

    def add(self, name: str, disk: Stored) -> Core:
        config = CoreConfig(name=name, **self.config)
        self.cores[name] = self.core(config, disk, SeededEntropy(ord(name)))
        self.applied[name] = []
        self.reads[name] = []
        self.held[name] = []
        return self.cores[name]

    def __getitem__(self, name: str) -> Core:
        return self.cores[name]

    # --- driving

    def drain(self, name: str) -> None:
        """Do what a core says there is to do; its messages wait in `in_flight`."""
        core = self.cores[name]
        while core.has_ready:
            ready = core.ready()
            self.in_flight += ready.messages
            for entry in ready.committed:
                self.applied[name].append(entry)
                self.note(f"{name} applies {describe_entry(entry)}")
            self.reads[name] += ready.reads
            if ready.batch is not None:
                self.held[name].append(ready.batch)
            if name in self.slow:
                return
            self.write(name)

    def write(self, name: str) -> None:
        """Let a disk finish what it was given."""
        for batch in self.held[name]:
            self.note_batch(name, batch)
            self.cores[name].advance(batch)
            self.in_flight += batch.messages
        self.held[name].clear()

    def settle(self) -> None:
        """Deliver everything, and what follows from it, until nothing is left to do."""
        for _ in range(500):
            for name in self.cores:
                self.drain(name)
            if not self.in_flight:
                return
            self.deliver()
        raise AssertionError("the members never stop talking")

    def deliver(self) -> None:
        """Deliver what is on the wire now."""
        messages, self.in_flight = self.in_flight, []
        for message in messages:
            if (message.sender, message.to) in self.cut or message.to not in self.cores:
                self.lost.append(message)
                self.note(f"{describe(message)}  (lost)")
            else:
                self.note(describe(message))
                self.cores[message.to].step(message)

    def tick(self, count: int = 1, *names: str) -> None:
        for _ in range(count):
            for name in names or tuple(self.cores):
                self.cores[name].tick()
            self.settle()

    def elect(self, name: str) -> Core:
        """Make a member the leader."""
        self.cores[name].campaign()
        self.settle()
        assert self.cores[name].role is Role.LEADER
        return self.cores[name]

    def isolate(self, *names: str) -> None:
        """Cut every link between these and the others."""
        for one in self.cores:
            for other in self.cores:
                if (one in names) != (other in names):
                    self.cut.add((one, other))

    def heal(self) -> None:
        self.cut.clear()

    def until(self, holds: Callable[[], bool], ticks: int = 200) -> None:
        for _ in range(ticks):
            if holds():
                return
            self.tick()
        raise AssertionError(f"did not come about in {ticks} ticks")

    def leaders(self) -> list[str]:
        return [name for name, core in self.cores.items() if core.role is Role.LEADER]

    def terms(self, name: str) -> list[int]:
        """The terms in a member's log, from index 1 (or after its snapshot)."""
        log = self.cores[name].log
        return [log.term(index) or 0 for index in range(log.offset + 1, log.last_index + 1)]

    def commands(self, name: str) -> list[bytes]:
        return [entry.data for entry in self.applied[name] if entry.kind is EntryKind.COMMAND]

    # --- telling

    def note(self, line: str) -> None:
        self.lines.append(line)

    def note_batch(self, name: str, batch: Batch) -> None:
        parts = [f"term={batch.hard_state.term}", f"vote={batch.hard_state.vote or '-'}"]
        if batch.snapshot is not None:
            parts.append(f"snapshot={batch.snapshot.meta.index}/{batch.snapshot.meta.term}")
        parts += map(describe_entry, batch.entries)
        self.note(f"{name} writes {' '.join(parts)}")


def describe_entry(entry: Entry) -> str:
    what = {EntryKind.EMPTY: "empty", EntryKind.COMMAND: entry.data.decode()}.get(entry.kind)
    if what is None:
        decoded = Membership.decode(entry.data)
        what = f"voters={','.join(sorted(decoded.voters))}"
        if decoded.learners:
            what += f";learners={','.join(sorted(decoded.learners))}"
    return f"[{entry.index}/{entry.term} {what}]"


def describe(message: Message) -> str:
    """One line for a message, as the transcripts have it."""
    match message:
        case VoteRequest():
            flags = " pre" * message.pre + " transfer" * message.transfer
            rest = f"last={message.last_index}/{message.last_term}{flags}"
        case VoteResponse():
            rest = ("granted" if message.granted else "refused") + " pre" * message.pre
        case Append():
            listed = "".join(f" {describe_entry(entry)}" for entry in message.entries)
            rest = f"after={message.prev_index}/{message.prev_term} commit={message.commit}{listed}"
        case AppendResponse(rejected=True):
            rest = f"refused={message.index} hint={message.hint_index}/{message.hint_term}"
        case AppendResponse():
            rest = f"accepted={message.index}"
        case Heartbeat():
            rest = f"commit={message.commit} round={message.round}"
        case HeartbeatResponse():
            rest = f"round={message.round}"
        case InstallSnapshot():
            rest = f"snapshot={message.meta.index}/{message.meta.term}"
        case ReadIndex():
            rest = f"context={message.context}"
        case ReadIndexResponse():
            rest = f"context={message.context} index={message.index}"
        case TimeoutNow():
            rest = ""
    return f"{message.sender} -> {message.to} {type(message).__name__} term={message.term} {rest}".rstrip()


def readdressed(message: Message, **fields: object) -> Message:
    return msgspec.structs.replace(message, **fields)
