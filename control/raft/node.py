"""The running member: the Raft core, its log on disk and its transport, driven by one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

from steersman.clock import Clock, Entropy

from control.raft.interface import (
    BusyError,
    LeaderState,
    MembershipError,
    MemberStatus,
    NotLeaderError,
    RaftConfig,
    RaftError,
    RaftStatus,
    StateMachine,
    TlsFiles,
)
from control.raft.messages import Entry

__all__ = [
    "BusyError",
    "Entry",
    "LeaderState",
    "MemberStatus",
    "MembershipError",
    "NotLeaderError",
    "RaftConfig",
    "RaftError",
    "RaftNode",
    "RaftStatus",
    "StateMachine",
    "TlsFiles",
]


class RaftNode:
    """One member of the cluster."""

    def __init__(self, config: RaftConfig, state_machine: StateMachine, clock: Clock, entropy: Entropy) -> None: ...

    async def start(self) -> None:
        """Read the disk, restore the state machine, listen, take part. Raises LogDamagedError, OSError."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Hand leadership over if held, finish the write under way, close everything. Pending calls get NotLeaderError."""
        raise NotImplementedError

    async def propose(self, data: bytes) -> object:
        """Offer an entry; answer the state machine's result when it is committed and applied here.

        Raises NotLeaderError (uncertain: it may still be committed) and BusyError.
        """
        raise NotImplementedError

    async def barrier(self, timeout_s: float = 5.0) -> int:
        """Wait until this member has applied everything acknowledged anywhere before the call; answer the applied index.

        Works on every member. Raises NotLeaderError when no leader confirms within `timeout_s`.
        """
        raise NotImplementedError

    @property
    def leader(self) -> str:
        """Name of the leader; empty: none known."""
        raise NotImplementedError

    @property
    def term(self) -> int:
        """The newest term seen."""
        raise NotImplementedError

    @property
    def is_leader(self) -> bool:
        """Whether this member leads and has applied everything committed before its term."""
        raise NotImplementedError

    def status(self) -> RaftStatus:
        """This member's view of itself and of the cluster."""
        raise NotImplementedError

    def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change (a slow reader sees only the newest)."""
        raise NotImplementedError

    async def transfer_leadership(self, to: str) -> None:
        """Make `to` the leader; returns when it leads. Raises NotLeaderError, MembershipError (not a voter), TimeoutError."""
        raise NotImplementedError

    async def add_member(self, name: str, address: str) -> None:
        """Add a learner: it receives the log and does not vote. Raises MembershipError, NotLeaderError."""
        raise NotImplementedError

    async def promote_member(self, name: str) -> None:
        """Make a learner that has caught up a voter. Raises MembershipError, NotLeaderError."""
        raise NotImplementedError

    async def remove_member(self, name: str) -> None:
        """Remove a member; a leader that removes itself steps down when that is committed."""
        raise NotImplementedError
