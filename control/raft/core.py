"""The Raft algorithm as a state machine without I/O, in the manner of etcd's raft library.

The owner feeds it (`step` a message, `tick` the time, `propose`, `read_index`) and then takes what there is to do:

    ready = core.ready()
    send(ready.messages)                 # at once; to the network only
    apply(ready.committed)               # in order
    answer(ready.reads)                  # when the state machine has applied their index
    if ready.batch:                      # at most one is under way; ready() goes on working meanwhile
        write and fsync(ready.batch)     # snapshot, hard state, entries: all of it or none
        core.advance(ready.batch)        # only when it is durable
        send(ready.batch.messages)       # only then: they promise what was just written

Duties of the owner: keep to that order; never `advance` a batch whose write failed (throw the core away and build
another from the disk, as after a crash); call nothing from two threads.

What must be durable before what (paper, figure 2) is decided here, not by the owner. A vote, a request for votes and an
acknowledgement of entries wait in `batch.messages`. A leader's Appends do not: it may send entries while it writes them
itself (dissertation §10.2.1), because its own disk counts in the majority only after `advance`, like any other member's.
For the same reason a candidate's vote for itself counts only once it is durable.

The module is longer than most here because the algorithm is one state machine whose invariants span elections,
replication and reads; what can be told apart (quorum, tracker, log, membership, reads) has its own module.

Messages may be lost, repeated, late and out of order. Time is counted in ticks and used for liveness only: no safety
property, reads included, depends on clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from control.raft import membership as changes
from control.raft.interface import BusyError, MembershipBusyError, MembershipError, NotLeaderError
from control.raft.log import Log
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
    size,
)
from control.raft.quorum import VoteResult, committed_index, has_majority, vote_result
from control.raft.reads import ReadQueue
from control.raft.tracker import Progress, ProgressState
from steersman.clock import Entropy
from steersman.logs import fields

logger = logging.getLogger(__name__)

PROMOTE_LAG_ENTRIES = 1000  # a learner this close to the end of the log catches up faster than anyone notices


class Role(Enum):
    """What a member is at the moment. Learners are followers that are not among the voters."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """The core's settings; times are in ticks."""

    name: str
    heartbeat_ticks: int = 2
    election_ticks: int = 10  # the least; every wait is this plus a random part of as much again (§9.3)
    max_append_bytes: int = 1 << 20
    max_inflight_bytes: int = 8 << 20
    max_uncommitted_bytes: int = 64 << 20
    max_apply_bytes: int = 4 << 20  # handed out by one ready()


@dataclass(frozen=True, slots=True)
class Stored:
    """What a member's disk holds. A snapshot at index 0 stands for the first membership."""

    hard_state: HardState
    snapshot: SnapshotMeta
    entries: tuple[Entry, ...] = ()


class ReadState(msgspec.Struct, frozen=True):
    """The read that was asked for as `context` may go on once `index` is applied."""

    context: int
    index: int


class Batch(msgspec.Struct, frozen=True):
    """What to write together, and the messages that promise it."""

    hard_state: HardState
    entries: tuple[Entry, ...]  # an index that the disk has already means: cut there, then append
    snapshot: InstallSnapshot | None  # replaces everything; comes before the entries
    messages: tuple[Message, ...]


class Ready(msgspec.Struct, frozen=True):
    """What there is to do now."""

    messages: tuple[Message, ...]
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]
    batch: Batch | None


class Core:
    """One member's part in the algorithm."""

    def __init__(self, config: CoreConfig, stored: Stored, entropy: Entropy, *, applied: int = 0) -> None:
        """Begin as a follower with what the disk holds; a state machine that was kept has applied up to `applied`."""
        self.config = config
        self.name = config.name
        self.term = stored.hard_state.term
        self.vote = stored.hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = ""
        self.log = Log(stored.snapshot, stored.entries)
        self.log.commit_to(max(applied, min(stored.hard_state.commit, self.log.last_index)))
        self.log.applied = max(self.log.applied, applied)
        self.snapshot = stored.snapshot
        self.history = changes.MembershipHistory(stored.snapshot.index, stored.snapshot.membership)
        for entry in stored.entries:
            self.history.append(entry)
        self.progress: dict[str, Progress] = {}  # leader: every other member, and itself
        self.transferee = ""  # leader: whom it is handing over to
        self.term_start = 0  # leader: index of the empty entry that began its term

        self._entropy = entropy
        self._durable = stored.hard_state
        self._in_flight = False  # a batch is being written
        self._restoring: InstallSnapshot | None = None  # taken in memory, not yet part of a batch
        self._snapshot_durable = True  # no snapshot is waiting to be written or being written
        self._now: list[Message] = []
        self._after: list[Message] = []  # wait for the next batch
        self._votes: dict[str, bool] = {}
        self._reads = ReadQueue()
        self._reads_ready: list[ReadState] = []
        self._uncommitted_bytes = 0
        self._elapsed = 0  # ticks since the leader was heard from, or (leader) since the quorum was checked
        self._heartbeat_elapsed = 0
        # The first wait is shorter: a leader, if there is one, is heard within two heartbeats, and a question to those
        # who have heard one lately does no harm.
        self._timeout = 2 * config.heartbeat_ticks + int(entropy.jitter() * config.election_ticks)

    # --- what the owner may ask -------------------------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        """The membership in force here: the last in the log, committed or not."""
        return self.history.current

    @property
    def is_voter(self) -> bool:
        """Whether this member elects and may be elected."""
        return self.name in self.membership.voters

    @property
    def has_ready(self) -> bool:
        """Whether `ready` would answer anything; cheap, and never wrongly False after something changed."""
        return bool(
            self._now
            or self._reads_ready
            or self.log.applied < min(self.log.commit, self.log.stable)
            or (not self._in_flight and (self._after or self._dirty))
            or (
                self.role is Role.LEADER
                and (self._may_begin_read_round or any(map(self._has_news, self.progress.items())))
            )
        )

    def ready(self) -> Ready:
        """Take everything there is to do."""
        if self.role is Role.LEADER:
            self._begin_read_round()
            self._replicate()
        batch = None
        if not self._in_flight:
            if self._dirty:
                batch = self._take_batch()
            else:
                self._now += self._after
                self._after = []
        ready = Ready(
            tuple(self._now), self.log.take_committed(self.config.max_apply_bytes), tuple(self._reads_ready), batch
        )
        self._now = []
        self._reads_ready = []
        return ready

    def advance(self, batch: Batch) -> None:
        """Everything in `batch` is durable."""
        self._in_flight = False
        self._durable = batch.hard_state
        if self._restoring is None:  # else the next batch replaces all of this one, and writes what follows it again
            self._snapshot_durable = True
            if batch.entries:
                last = batch.entries[-1]
                self.log.stable_to(last.index, last.term)
        if self.role is Role.LEADER:
            own = self.progress.get(self.name)
            if own is not None and own.accepted(self.log.stable):
                self._maybe_commit()
        elif self.role is Role.CANDIDATE and (self._durable.term, self._durable.vote) == (self.term, self.name):
            self._count_vote(self.name, granted=True)

    def tick(self) -> None:
        """Let one tick of time pass."""
        self._elapsed += 1
        if self.role is Role.LEADER:
            self._heartbeat_elapsed += 1
            if self._elapsed >= self.config.election_ticks:
                self._elapsed = 0
                self._check_quorum()
            if self.role is Role.LEADER and self._heartbeat_elapsed >= self.config.heartbeat_ticks:
                self._broadcast_heartbeat()
        elif self._elapsed >= self._timeout:
            self._reset_timer()
            if self.is_voter:
                self._campaign_pre()
            else:
                self.leader = ""  # it is silent: nobody is to be sent there

    def propose(self, datas: Sequence[bytes], kind: EntryKind = EntryKind.COMMAND) -> int:
        """Append entries to the leader's log; answer the index of the first.

        Raises:
            NotLeaderError: this member does not lead, or is handing over.
            BusyError: too many bytes wait to be committed.
        """
        if self.role is not Role.LEADER:
            raise NotLeaderError(f"{self.name} does not lead", leader=self.leader)
        if self.transferee:
            raise NotLeaderError(f"{self.name} is handing leadership over to {self.transferee}")
        if (
            self._uncommitted_bytes
            and self._uncommitted_bytes + sum(map(len, datas)) > self.config.max_uncommitted_bytes
        ):
            raise BusyError(
                f"{self._uncommitted_bytes >> 20} MiB of proposals wait to be committed; no more are taken until a majority of the members catches up"
            )
        first = self.log.last_index + 1
        self._append([Entry(first + offset, self.term, data, kind) for offset, data in enumerate(datas)])
        return first

    def change_membership(self, change: Callable[[Membership], Membership]) -> int:
        """Append the membership that `change` makes of the present one; answer its index.

        Raises:
            NotLeaderError: this member does not lead.
            MembershipError: not allowed now; see `membership`.
        """
        if self.role is not Role.LEADER:
            raise NotLeaderError(f"{self.name} does not lead", leader=self.leader)
        if self.history.index > self.log.commit:
            raise MembershipBusyError("the previous change of membership is not committed yet: try again in a moment")
        if not self._committed_in_term:
            raise MembershipBusyError("the leader has not committed an entry of its term yet: try again in a moment")
        after = change(self.membership)
        for name in after.voters - self.membership.voters:
            lag = self.log.last_index - self.progress[name].match if name in self.progress else self.log.last_index
            if lag > PROMOTE_LAG_ENTRIES:
                raise MembershipError(
                    f"{name} is {lag} entries behind: it may vote when it is less than {PROMOTE_LAG_ENTRIES} behind"
                )
        return self.propose([after.encode()], EntryKind.MEMBERSHIP)

    def read_index(self, context: int) -> bool:
        """Ask for an index to read at; it comes in `Ready.reads` under `context`, or never (lost: ask again).

        Answers False when no leader is known.
        """
        if self.role is Role.LEADER:
            self._reads.add(self.name, context)
            return True
        if not self.leader:
            return False
        self._now.append(ReadIndex(self.name, self.leader, self.term, context))
        return True

    def transfer(self, to: str) -> None:
        """Hand leadership over to `to` when it has the whole log (§3.10); given up after an election time-out.

        Raises NotLeaderError and MembershipError (`to` is no other voter).
        """
        if self.role is not Role.LEADER:
            raise NotLeaderError(f"{self.name} does not lead", leader=self.leader)
        if to not in self.membership.voters or to == self.name:
            raise MembershipError(f"{to} is not another voter: voters are {', '.join(sorted(self.membership.voters))}")
        self.transferee = to
        self._elapsed = 0
        self.progress[to].poked = True
        self._maybe_hand_over()

    def campaign(self) -> None:
        """Ask for election at once, for a member that knows there is nobody to wait for."""
        if self.is_voter and self.role is not Role.LEADER:
            self._campaign_pre()

    def resign(self) -> None:
        """Stop leading at once and ask the most advanced voter to stand: for a leader that can no longer write."""
        if self.role is not Role.LEADER:
            return
        others = [(self.progress[name].match, name) for name in self.membership.voters if name != self.name]
        if others:
            self._now.append(TimeoutNow(self.name, max(others)[1], self.term))
        self._become_follower(self.term, "")

    def compact(self, snapshot: SnapshotMeta, upto: int) -> None:
        """A durable `snapshot` exists: entries up to `upto` (at most its index) are not needed any more."""
        self.snapshot = snapshot
        self.history.compact(snapshot.index)
        self.log.compact(upto)

    def report_snapshot(self, to: str, *, arrived: bool) -> None:
        """A snapshot that this leader was asked to send has arrived, or has not."""
        peer = self.progress.get(to)
        if peer is None or peer.state is not ProgressState.SNAPSHOT:
            return
        if arrived:
            peer.probe(max(peer.match, peer.snapshot_index) + 1)
        else:
            peer.probe(peer.match + 1)
            peer.paused = True  # until it shows a sign of life: no hurry with a peer that just failed

    def report_unreachable(self, to: str) -> None:
        """Messages to `to` were dropped: Appends under way are probably lost."""
        peer = self.progress.get(to)
        if peer is not None and peer.state is ProgressState.REPLICATE:
            peer.probe(peer.match + 1)
            peer.paused = True  # its next answer to a heartbeat lets it go on

    # --- messages -----------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take a message from another member.

        Raises:
            LostEntriesError: this member's disk has lost what it acknowledged; it must not take part any more.
        """
        if message.term > self.term:
            if not self._accept_higher_term(message):
                return
        elif message.term < self.term:
            self._answer_lower_term(message)
            return
        match message:
            case Append():
                self._follow(message.sender)
                self._handle_append(message)
            case AppendResponse():
                self._handle_append_response(message)
            case Heartbeat():
                self._follow(message.sender)
                self.log.commit_to(message.commit)
                self._send(HeartbeatResponse(self.name, message.sender, self.term, message.round))
            case HeartbeatResponse():
                self._handle_heartbeat_response(message)
            case InstallSnapshot():
                self._follow(message.sender)
                self._handle_snapshot(message)
            case VoteRequest():
                self._handle_vote_request(message)
            case VoteResponse(pre=True):
                if self.role is Role.PRE_CANDIDATE and (not message.granted or message.term == self.term + 1):
                    self._count_vote(message.sender, granted=message.granted)
            case VoteResponse():
                if self.role is Role.CANDIDATE:
                    self._count_vote(message.sender, granted=message.granted)
            case ReadIndex():
                if self.role is Role.LEADER:
                    self._reads.add(message.sender, message.context)
            case ReadIndexResponse():
                self._reads_ready.append(ReadState(message.context, message.index))
            case TimeoutNow():
                if self.is_voter and self.role is not Role.LEADER:
                    self._campaign(transfer=True)

    def _accept_higher_term(self, message: Message) -> bool:
        """Decide what a newer term means here; answer whether the message is to be handled."""
        match message:
            case VoteRequest(transfer=False) if self.leader and self._elapsed < self.config.election_ticks:
                return False  # a leader was heard from lately: whoever did not hear it shall not disturb (§4.2.3)
            case VoteRequest(pre=True) | VoteResponse(pre=True, granted=True):
                return True  # the term is a hypothesis yet (§9.6)
            case Append() | Heartbeat() | InstallSnapshot():
                self._become_follower(message.term, message.sender)
            case _:
                self._become_follower(message.term, "")
        return True

    def _answer_lower_term(self, message: Message) -> None:
        match message:
            case Append() | Heartbeat() | InstallSnapshot():
                # A leader that was cut off does not know its term is over. With pre-vote nobody would tell it otherwise.
                self._send(AppendResponse(self.name, message.sender, self.term, 0, rejected=True))
            case VoteRequest():
                self._send(VoteResponse(self.name, message.sender, self.term, granted=False, pre=message.pre))
            case _:
                pass

    def _follow(self, leader: str) -> None:
        """A leader of this term speaks."""
        assert self.role is not Role.LEADER or leader == self.name, (
            f"two leaders in term {self.term}: {self.name} and {leader}"
        )
        if self.role is not Role.FOLLOWER or self.leader != leader:
            self._become_follower(self.term, leader)
        self._elapsed = 0

    def _handle_append(self, message: Append) -> None:
        if message.prev_index < self.log.commit:  # late: what is committed is known to match
            self._accept(message.sender, self.log.commit)
            return
        if self.log.term(message.prev_index) != message.prev_term:
            hint = self.log.find_agreement(message.prev_index, message.prev_term)
            self._send(
                AppendResponse(
                    self.name,
                    message.sender,
                    self.term,
                    message.prev_index,
                    rejected=True,
                    hint_index=hint,
                    hint_term=self.log.term(hint) or 0,
                )
            )
            return
        position = self.log.find_conflict(message.entries)
        if position is not None:
            self._take_entries(message.entries[position:])
        last = message.prev_index + len(message.entries)
        self.log.commit_to(min(message.commit, last))
        self._accept(message.sender, last)

    def _take_entries(self, entries: Sequence[Entry]) -> None:
        """Follower: make these the end of the log."""
        if entries[0].index <= self.log.last_index:
            self.log.truncate(entries[0].index)
            self.history.truncate(entries[0].index)
        self.log.append(entries)
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                self.history.append(entry)

    def _accept(self, leader: str, index: int) -> None:
        """Acknowledge entries up to `index`, now or when they are durable."""
        answer = AppendResponse(self.name, leader, self.term, index)
        if self._after:
            last = self._after[-1]
            if isinstance(last, AppendResponse) and not last.rejected and (last.to, last.term) == (leader, self.term):
                self._after[-1] = answer if index > last.index else last  # one acknowledgement says it all
                return
        if index <= self.log.stable and self._snapshot_durable:
            self._send(answer)
        else:
            self._after.append(answer)

    def _handle_append_response(self, message: AppendResponse) -> None:
        peer = self.progress.get(message.sender)
        if self.role is not Role.LEADER or peer is None:
            return
        peer.active = True
        if message.rejected:
            retry_at = self.log.find_agreement(message.hint_index, message.hint_term) + 1
            peer.rejected(message.index, retry_at)
            return
        news = peer.accepted(message.index)
        if peer.state is ProgressState.PROBE or (
            peer.state is ProgressState.SNAPSHOT and peer.match >= peer.snapshot_index
        ):
            peer.replicate()
        if news:
            self._maybe_commit()
            self._maybe_hand_over()

    def _handle_heartbeat_response(self, message: HeartbeatResponse) -> None:
        peer = self.progress.get(message.sender)
        if self.role is not Role.LEADER or peer is None:
            return
        peer.active = True
        peer.paused = False
        if peer.match < self.log.last_index:
            peer.poked = True
        self._reads.acknowledge(message.sender, message.round)
        self._finish_read_round()

    def _handle_snapshot(self, message: InstallSnapshot) -> None:
        meta = message.meta
        if meta.index <= self.log.commit:
            self._accept(message.sender, self.log.commit)
            return
        if self.log.term(meta.index) == meta.term:  # the log has all of it: only the knowledge of the commit is news
            self.log.commit_to(meta.index)
            self._accept(message.sender, meta.index)
            return
        logger.info("taking a snapshot %s", fields(index=meta.index, term=meta.term, sender=message.sender))
        self.log.restore(meta)
        self.snapshot = meta
        self.history = changes.MembershipHistory(meta.index, meta.membership)
        self._restoring = message
        self._snapshot_durable = False
        self._accept(message.sender, meta.index)

    def _handle_vote_request(self, message: VoteRequest) -> None:
        free = (
            self.vote == message.sender  # asked again
            or (not self.vote and not self.leader)
            or (message.pre and message.term > self.term)
        )
        granted = free and self.log.is_up_to_date(message.last_index, message.last_term)
        term = message.term if granted else self.term
        if granted and not message.pre:
            self.vote = message.sender
            self._elapsed = 0
        self._send(VoteResponse(self.name, message.sender, term, granted, pre=message.pre))

    # --- elections ----------------------------------------------------------------------------------------------------

    def _campaign_pre(self) -> None:
        """Ask whether an election could be won, before disturbing anyone with a new term (§9.6)."""
        self.role = Role.PRE_CANDIDATE
        self.leader = ""
        self._votes = {}
        self._ask_for_votes(self.term + 1, pre=True, transfer=False)
        self._count_vote(self.name, granted=True)

    def _campaign(self, *, transfer: bool = False) -> None:
        """Stand for election. The vote for oneself counts when it is durable: see `advance`."""
        self._reset(self.term + 1)
        self.role = Role.CANDIDATE
        self.vote = self.name
        logger.info("standing for election %s", fields(term=self.term, last_index=self.log.last_index))
        self._ask_for_votes(self.term, pre=False, transfer=transfer)

    def _ask_for_votes(self, term: int, *, pre: bool, transfer: bool) -> None:
        for name in sorted(self.membership.voters - {self.name}):
            request = VoteRequest(
                self.name, name, term, self.log.last_index, self.log.last_term, pre=pre, transfer=transfer
            )
            if pre:
                self._now.append(request)
            else:
                self._after.append(request)

    def _count_vote(self, voter: str, *, granted: bool) -> None:
        self._votes.setdefault(voter, granted)
        match vote_result(self.membership.voters, self._votes):
            case VoteResult.WON if self.role is Role.PRE_CANDIDATE:
                self._campaign()
            case VoteResult.WON:
                self._become_leader()
            case VoteResult.LOST:
                self._become_follower(self.term, "")
            case _:
                pass

    def _become_follower(self, term: int, leader: str) -> None:
        if self.role is Role.LEADER:
            logger.info("no longer leading %s", fields(term=self.term, new_term=term))
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader

    def _become_leader(self) -> None:
        logger.info("leading %s", fields(term=self.term, last_index=self.log.last_index))
        self._reset(self.term)
        self.role = Role.LEADER
        self.leader = self.name
        self._track_members()
        self._heartbeat_elapsed = self.config.heartbeat_ticks  # be heard at the next tick at the latest
        self.term_start = self.propose([b""], EntryKind.EMPTY)

    def _reset(self, term: int) -> None:
        """Forget what belonged to the last role."""
        if term != self.term:
            assert term > self.term
            self.term = term
            self.vote = ""
            self._after = [message for message in self._after if message.term >= term]  # promises nobody needs any more
        self.leader = ""
        self.transferee = ""
        self.progress = {}
        self._votes = {}
        self._reads = ReadQueue()
        self._uncommitted_bytes = 0
        self._reset_timer()

    def _reset_timer(self) -> None:
        self._elapsed = 0
        self._heartbeat_elapsed = 0
        self._timeout = self.config.election_ticks + int(self._entropy.jitter() * self.config.election_ticks)

    # --- leading ------------------------------------------------------------------------------------------------------

    @property
    def _committed_in_term(self) -> bool:
        """Whether this leader's commit index is known to be the newest: it has committed an entry of its term (§6.4)."""
        return self.log.commit >= self.term_start

    def _append(self, entries: list[Entry]) -> None:
        self.log.append(entries)
        self._uncommitted_bytes += sum(map(size, entries))
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                self.history.append(entry)
                self._track_members()

    def _track_members(self) -> None:
        """Leader: follow exactly the members of the membership in force."""
        for name in self.membership.names:
            if name not in self.progress:
                self.progress[name] = Progress(self.log.last_index + 1, self.config.max_inflight_bytes)
                if name == self.name:
                    self.progress[name].accepted(self.log.stable)
        for name in [name for name in self.progress if name not in self.membership]:
            del self.progress[name]
        if self.transferee and self.transferee not in self.membership.voters:
            self.transferee = ""

    def _match(self, name: str) -> int:
        peer = self.progress.get(name)
        return peer.match if peer else 0

    def _maybe_commit(self) -> None:
        """Commit what a majority holds, if it is of this term: older entries commit only with it (§5.4.2)."""
        before = self.log.commit
        index = committed_index(self.membership.voters, self._match)
        if index <= before or self.log.term(index) != self.term:
            return
        for entry in self.log.slice(before, index, self.config.max_uncommitted_bytes * 2):
            self._uncommitted_bytes -= size(entry)
        self._uncommitted_bytes = max(0, self._uncommitted_bytes)
        self.log.commit_to(index)
        if not self.is_voter and self.history.index <= index:
            logger.info("removed from the cluster: stepping down %s", fields(term=self.term))
            self._replicate()  # a last word, so that the others need not time out to learn that it is committed
            self._become_follower(self.term, "")

    def _has_news(self, item: tuple[str, Progress]) -> bool:
        name, peer = item
        if name == self.name or peer.state is ProgressState.SNAPSHOT or peer.paused:
            return False
        if peer.poked:
            return True
        if peer.state is ProgressState.PROBE:
            return True
        return (peer.next <= self.log.last_index and not peer.full) or peer.commit_sent < self.log.commit

    def _replicate(self) -> None:
        """Send every peer what it may be sent: composed here and not in `propose`, so that many proposals share a message."""
        for item in self.progress.items():
            while self._has_news(item):
                self._send_append(*item)

    def _send_append(self, name: str, peer: Progress) -> None:
        previous = peer.next - 1
        previous_term = self.log.term(previous)
        peer.poked = False
        if previous_term is None or previous < self.log.offset:
            self._send_snapshot(name, peer)
            return
        entries: tuple[Entry, ...] = ()
        if not peer.full:
            entries = self.log.slice(previous, self.log.last_index, self.config.max_append_bytes)
        peer.commit_sent = self.log.commit
        if entries or peer.state is ProgressState.PROBE:
            peer.sent(entries[-1].index if entries else previous, sum(map(size, entries)))
        self._now.append(Append(self.name, name, self.term, previous, previous_term, entries, self.log.commit))

    def _send_snapshot(self, name: str, peer: Progress) -> None:
        if not peer.active:
            peer.paused = True  # it would not arrive: wait for a sign of life
            return
        logger.info("sending a snapshot %s", fields(to=name, index=self.snapshot.index, next=peer.next))
        peer.install(self.snapshot.index)
        self._now.append(InstallSnapshot(self.name, name, self.term, self.snapshot))

    def _broadcast_heartbeat(self) -> None:
        self._heartbeat_elapsed = 0
        for name, peer in self.progress.items():
            if name != self.name:
                commit = min(peer.match, self.log.commit)
                self._now.append(Heartbeat(self.name, name, self.term, commit, self._reads.round))

    def _check_quorum(self) -> None:
        """Stop leading when a majority was silent for an election time-out: another leader may exist (§6.2)."""
        self.transferee = ""
        if not has_majority(self.membership.voters, lambda name: name == self.name or self.progress[name].active):
            logger.warning("stepping down: no majority was heard from %s", fields(term=self.term))
            self._become_follower(self.term, "")
            return
        for name, peer in self.progress.items():
            peer.active = name == self.name

    def _maybe_hand_over(self) -> None:
        if self.transferee and self._match(self.transferee) == self.log.last_index:
            self._now.append(TimeoutNow(self.name, self.transferee, self.term))

    # --- reads --------------------------------------------------------------------------------------------------------

    @property
    def _may_begin_read_round(self) -> bool:
        return bool(self._reads.waiting) and not self._reads.confirming and self._committed_in_term

    def _begin_read_round(self) -> None:
        """Let all waiting reads share one confirmation of leadership (§6.4, with coalescing)."""
        if self._may_begin_read_round:
            self._reads.begin(self.log.commit)
            self._broadcast_heartbeat()
            self._finish_read_round()

    def _finish_read_round(self) -> None:
        if not self._reads.confirming or not has_majority(
            self.membership.voters, lambda name: name == self.name or self._reads.acknowledged(name)
        ):
            return
        index, reads = self._reads.finish()
        for name, context in reads:
            if name == self.name:
                self._reads_ready.append(ReadState(context, index))
            else:
                self._now.append(ReadIndexResponse(self.name, name, self.term, context, index))

    # --- durability ---------------------------------------------------------------------------------------------------

    @property
    def _dirty(self) -> bool:
        """Whether something must be written. A newer commit index alone is not worth an fsync."""
        return (
            (self.term, self.vote) != (self._durable.term, self._durable.vote)
            or self.log.stable < self.log.last_index
            or self._restoring is not None
        )

    def _take_batch(self) -> Batch:
        batch = Batch(
            HardState(self.term, self.vote, self.log.commit), self.log.unstable(), self._restoring, tuple(self._after)
        )
        self._after = []
        self._restoring = None
        self._in_flight = True
        return batch

    def _send(self, message: Message) -> None:
        """Send an answer: at once if the term and vote it speaks for are durable, else with the batch that makes them so."""
        if (self.term, self.vote) == (self._durable.term, self._durable.vote):
            self._now.append(message)
        else:
            self._after.append(message)
