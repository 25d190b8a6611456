"""Members of a control plane whose state is in etcd: seen, handed leadership to, and nothing else to do.

A member holds no part of the state, so any host with etcd's address and a certificate is one when it starts, and none
when it ends. Snapshots, and etcd's own members, are etcd's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from control.raft.interface import MembershipError, MemberStatus, RaftError, RaftStatus
from control.raft.messages import SnapshotMeta
from control.store.etcd.client import EtcdClient
from control.store.etcd.election import Election
from control.store.etcd.mirror import Follower
from control.store.interface import Store, StoreError


class EtcdAdministration:
    """See `control.store.backend.Administration`.

    Args:
        expected: names of members that are shown even while they do not run.
    """

    def __init__(
        self,
        name: str,
        expected: tuple[str, ...],
        store: Store,
        client: EtcdClient,
        follower: Follower,
        election: Election,
    ) -> None:
        self._name = name
        self._expected = expected
        self._store = store
        self._client = client
        self._follower = follower
        self._election = election

    def status(self) -> RaftStatus:
        """The members as etcd shows them; what is of Raft's log counts revisions."""
        state, present = self._election.state, self._election.members
        problem = self._follower.problem or self._election.problem
        members = tuple(
            MemberStatus(
                name=name,
                address=present[name].address if name in present else "",
                role="leader" if name == state.leader else "follower",
                match=0,
                reachable=name in present,
                problem=problem if name == self._name else "",
            )
            for name in sorted({self._name, *self._expected, *present})
        )
        revision, compacted = self._store.revision, self._store.compacted
        return RaftStatus(
            name=self._name,
            cluster_id=self._client.cluster_id,
            role="leader" if self._election.is_leader else "follower",
            term=state.term,
            leader=state.leader,
            commit=revision,
            applied=revision,
            first_index=compacted + 1,
            last_index=revision,
            snapshot_index=compacted,
            members=members,
            problem=problem,
        )

    @property
    def addresses(self) -> dict[str, str]:
        """Name -> gRPC address of the members that run."""
        return {name: presence.address for name, presence in self._election.members.items()}

    async def transfer_leadership(self, to: str) -> None:
        """See `Election.transfer`."""
        await self._election.transfer(to)

    async def add_member(self, name: str, address: str) -> NoReturn:
        """Refused. Raises MembershipError."""
        raise MembershipError(
            f"{name} at {address} needs no adding: the state is in etcd; start it with the same --store, and it is a member"
        )

    async def promote_member(self, name: str) -> NoReturn:
        """Refused. Raises MembershipError."""
        raise MembershipError(f"{name} needs no promotion: the state is in etcd, where members do not vote")

    async def remove_member(self, name: str) -> NoReturn:
        """Refused. Raises MembershipError."""
        raise MembershipError(f"{name} needs no removal: the state is in etcd; stop it, and it is no member any more")

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Refused. Raises StoreError."""
        raise StoreError("the state is in etcd: save and restore it with `etcdctl snapshot`")

    async def purge(self) -> NoReturn:
        """Refused. Raises RaftError."""
        raise RaftError("the state is in etcd: write the secrets anew, then compact and defragment etcd")
