"""What the store sees of Raft: a state machine it provides, the statuses it can read, the refusals it can get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from control.raft.messages import Entry


class StateMachine(Protocol):
    """The state that the log builds. Every method is called from the event loop, never two at a time.

    Determinism is the state machine's duty: the same entries in the same order give the same state and results on every
    member, now and after a restart. An exception from `apply` means that this member can no longer tell its state, so it
    stops taking part and says so.
    """

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        """Apply committed entries in order; answer one result for each, which goes to its proposer if that is here."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """Begin a snapshot of the state as of the last applied entry.

        Called between two applies; the iterator is consumed later, by another thread, while applies go on: it must keep
        giving the state as of the call. Chunks may have any size (64 KiB to 1 MiB suits the disk and the network).
        """
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by a snapshot; the chunks are those that `snapshot` gave, in order, same boundaries."""
        ...


@dataclass(frozen=True, slots=True)
class LeaderState:
    """Who leads, as this member knows it.

    `is_self` turns true only when this member has applied everything that was committed before its term, so that
    what it reads locally then is as new as any acknowledged write of earlier leaders.
    """

    leader: str  # name; empty: none known
    term: int
    is_self: bool


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member as the answering one knows it."""

    name: str
    address: str
    role: str  # "leader", "follower", "candidate", "learner"
    match: int  # last log index known to be durable there; 0 when not known (only the leader knows)
    reachable: bool
    problem: str = ""  # what it said was wrong; empty: nothing


@dataclass(frozen=True, slots=True)
class RaftStatus:
    """A member's view of itself and of its cluster."""

    name: str
    cluster_id: str
    role: str  # "leader", "follower", "candidate", "learner", "stopped" (see problem)
    term: int
    leader: str
    commit: int
    applied: int
    first_index: int  # oldest entry still in the log
    last_index: int
    snapshot_index: int
    members: tuple[MemberStatus, ...]
    problem: str = ""  # e.g. "disk full: cannot reserve 16 MiB in /var/lib/…"; empty: none
    settled: bool = True  # whether these members are committed; else the last change of them may still be undone


class RaftError(Exception):
    """Base of what Raft refuses with."""


class NotLeaderError(RaftError):
    """The member asked does not lead, or stopped leading while the proposal was under way."""

    def __init__(self, message: str, *, leader: str = "", uncertain: bool = False) -> None:
        super().__init__(message)
        self.leader = leader  # name of the member to try; empty: none known
        self.uncertain = uncertain  # whether the proposal may still be committed


class BusyError(RaftError):
    """Too many bytes wait to be committed: try again later. The proposal was not accepted."""


class MembershipError(RaftError):
    """The membership change is not allowed now; the message says why and what to do."""


class MembershipBusyError(MembershipError):
    """Not yet: an earlier change, or the leader's first entry, is still to be committed. The same call succeeds in a moment."""


class LogDamagedError(RaftError):
    """The log or a snapshot on disk is damaged where it cannot be repaired; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The certificate of a member (CN system:member:NAME) and the cluster's CA; read again at every connection, so renewal needs no restart."""

    ca: Path
    certificate: Path
    key: Path


MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """How a member runs."""

    name: str
    data_dir: Path  # its own folder; the log and snapshots are kept in `data_dir / "raft"`
    listen: str = ""  # host:port for the other members
    advertise: str = ""  # host:port where they find it; empty: as `members` says, else `listen`
    members: dict[
        str, str
    ]  # name -> host:port of the first membership; ignored when data_dir already has a log; empty: wait to be added
    tls: TlsFiles | None = None  # None only with a transport of one's own (tests)
    cluster_id: str = ""  # empty: derived from the first membership

    tick_s: float = 0.05  # granularity of all time-outs below; 20 wake-ups a second cost nothing measurable
    heartbeat_ticks: int = 2  # 100 ms: several may be lost before anyone doubts the leader
    election_ticks: int = (
        10  # 500 ms, randomised up to 1 s: a lost leader is replaced in about a second, a 400 ms stall is forgiven
    )

    max_append_bytes: int = MIB  # per message: large enough to amortise, small enough to not delay heartbeats
    max_inflight_bytes: int = 8 * MIB  # sent and unacknowledged, per peer: bandwidth × delay with room to spare
    max_uncommitted_bytes: int = 64 * MIB  # proposals beyond are refused with BusyError: memory is finite
    max_entry_bytes: int = 8 * MIB  # a single proposal

    snapshot_entries: int = 100_000  # applied since the last snapshot: replaying so many at start takes a second or two
    snapshot_bytes: int = 64 * MIB  # likewise by size: bounds the disk and the memory that the log takes
    trailing_entries: int = 5_000  # kept behind a snapshot so that a member that was away shortly needs no snapshot
    trailing_bytes: int = 8 * MIB
    segment_bytes: int = (
        16 * MIB
    )  # of the log on disk, reserved in advance: a full disk shows at rotation, not in the middle of a write
