"""The words of the protocol: entries, memberships, snapshots, and what members say to each other.

Everything here is immutable and knows nothing of sockets or disks. One struct per remote procedure of the Raft paper
(figure 2, figure 13) and the dissertation (§4.2 learners, §6.4 read index, §9.6 pre-vote, §3.10 leader transfer); each
message names its sender, its receiver and the sender's term.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class EntryKind(IntEnum):
    """What an entry of the log is for. The numbers are on disk and on the wire: never reuse one."""

    COMMAND = 0  # data belongs to the state machine
    EMPTY = 1  # a new leader's first entry: committing it commits everything before it (§6.4, step 1)
    MEMBERSHIP = 2  # data is an encoded Membership, in force from the moment it is in the log (§4.1)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the replicated log. `index` counts from 1; `term` is that of the leader that created it."""

    index: int
    term: int
    data: bytes
    kind: EntryKind = EntryKind.COMMAND


ENTRY_OVERHEAD_BYTES = 32  # header on disk and on the wire, counted into every limit so that empty entries are not free


def size(entry: Entry) -> int:
    """Bytes that an entry counts for in limits."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class Membership(msgspec.Struct, frozen=True):
    """Who takes part. Voters elect and make majorities; learners only receive the log (§4.2.1)."""

    voters: frozenset[str] = frozenset()
    learners: frozenset[str] = frozenset()
    addresses: dict[str, str] = {}  # name -> host:port of its Raft listener
    cluster_id: str = ""  # tells clusters with the same names apart

    def __contains__(self, name: str) -> bool:
        return name in self.voters or name in self.learners

    @property
    def names(self) -> list[str]:
        """Every member, sorted."""
        return sorted(self.voters | self.learners)

    def encode(self) -> bytes:
        """Bytes for a MEMBERSHIP entry: JSON with sorted members, the same for equal memberships."""
        return msgspec.json.encode(
            {
                "voters": sorted(self.voters),
                "learners": sorted(self.learners),
                "addresses": dict(sorted(self.addresses.items())),
                "cluster_id": self.cluster_id,
            }
        )

    @staticmethod
    def decode(data: bytes) -> Membership:
        """Read what `encode` wrote."""
        return msgspec.json.decode(data, type=Membership)


class HardState(msgspec.Struct, frozen=True):
    """What must survive a crash besides the log: `term` and `vote` before any answer is given in that term (figure 2).

    `commit` is a hint that saves work after a restart; losing it is harmless.
    """

    term: int = 0
    vote: str = ""
    commit: int = 0


class SnapshotMeta(msgspec.Struct, frozen=True):
    """The point of the log that a snapshot stands for, and the membership in force there."""

    index: int
    term: int
    membership: Membership


class VoteRequest(msgspec.Struct, frozen=True):
    """RequestVote. With `pre`, only a question: would you vote for me in `term`? (§9.6); nobody's term changes."""

    sender: str
    to: str
    term: int
    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False  # the leader asked for this election (§3.10): do not protect it


class VoteResponse(msgspec.Struct, frozen=True):
    """The answer. `term` is the term asked for when granted in advance, else the answerer's own."""

    sender: str
    to: str
    term: int
    granted: bool
    pre: bool = False


class Append(msgspec.Struct, frozen=True):
    """AppendEntries: `entries` follow the entry (`prev_index`, `prev_term`)."""

    sender: str
    to: str
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int


class AppendResponse(msgspec.Struct, frozen=True):
    """Accepted: `index` is the last entry known to match and to be durable at the sender.

    Rejected: `index` is the `prev_index` refused; an entry at or below `hint_index` whose term is at most `hint_term`
    is where the logs may agree (§5.3, the optimisation at its end).
    """

    sender: str
    to: str
    term: int
    index: int
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life. `round` numbers the confirmations of leadership that reads wait for (§6.4)."""

    sender: str
    to: str
    term: int
    commit: int  # never beyond what the receiver is known to hold
    round: int = 0


class HeartbeatResponse(msgspec.Struct, frozen=True):
    """The receiver still follows `to` in `term`; echoes the round."""

    sender: str
    to: str
    term: int
    round: int = 0


class InstallSnapshot(msgspec.Struct, frozen=True):
    """The receiver needs entries that the leader has compacted: it gets a snapshot instead.

    From the core the message is an order to stream the newest snapshot at or after `meta`; the receiver's core gets it
    when the stream has arrived, with `source` telling its owner where (a path, bytes: the core does not look).
    """

    sender: str
    to: str
    term: int
    meta: SnapshotMeta
    source: object = None


class ReadIndex(msgspec.Struct, frozen=True):
    """A follower asks the leader for an index to read at (§6.4)."""

    sender: str
    to: str
    term: int
    context: int  # the asker's own number for the request


class ReadIndexResponse(msgspec.Struct, frozen=True):
    """Whoever has applied `index` sees every write acknowledged before the request was made."""

    sender: str
    to: str
    term: int
    context: int
    index: int


class TimeoutNow(msgspec.Struct, frozen=True):
    """Start an election now (§3.10)."""

    sender: str
    to: str
    term: int


Message = (
    VoteRequest
    | VoteResponse
    | Append
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | InstallSnapshot
    | ReadIndex
    | ReadIndexResponse
    | TimeoutNow
)
