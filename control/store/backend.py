"""What a member needs of whatever keeps its state: a store with a life, leadership, and administration.

The embedded store (`embedded`) and the one on etcd (`etcd.store`) are backends. What a backend has no use for, its
`raft` refuses with an error that says what to do instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

from control.raft.interface import LeaderState, RaftStatus
from control.raft.messages import SnapshotMeta
from control.store.encryption import EncryptionKey
from control.store.interface import Store


class Administration(Protocol):
    """The members, and the log if there is one. Raises RaftError, StoreError."""

    def status(self) -> RaftStatus:
        """How this member sees itself and the cluster."""
        ...

    @property
    def addresses(self) -> dict[str, str]:
        """Name -> address of the members."""
        ...

    async def transfer_leadership(self, to: str) -> None:
        """Let another member lead."""
        ...

    async def add_member(self, name: str, address: str) -> None:
        """Add a learner."""
        ...

    async def promote_member(self, name: str) -> None:
        """Let a learner vote."""
        ...

    async def remove_member(self, name: str) -> None:
        """Remove a member."""
        ...

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """The state as of now, to be kept."""
        ...

    async def purge(self) -> None:
        """Leave nothing on the disk but what is sealed with the present key."""
        ...


class Backend(Store, Protocol):
    """A store as a member runs it."""

    @property
    def raft(self) -> Administration:
        """The members and their log."""
        ...

    async def start(self) -> None:
        """Load the state and take part."""
        ...

    async def stop(self) -> None:
        """Leave in order."""
        ...

    def leadership(self) -> AsyncIterator[LeaderState]:
        """Follow who leads: the present state at once, then every change."""
        ...

    def rekey(self, keys: Sequence[EncryptionKey]) -> None:
        """Seal with the first of these keys from now on."""
        ...
