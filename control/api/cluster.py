"""The cluster service: members, leadership, join tokens.

Everything but `status` is the leader's to do (`forwarding` carries it there): tokens are counted in the log, and a member may
only announce itself.
"""

from __future__ import annotations

from typing import Protocol

from control.api.authorization import Access, require
from control.api.context import ApiContext
from control.api.errors import from_store, no_leader
from control.api.members import MemberAddresses, Members
from control.api.membership import shown
from control.ca.certificates import CertificateAuthority
from control.ca.tokens import JoinTokens, TokenError, TokenInfo
from control.identity import MEMBER_PREFIX, Caller
from control.raft.interface import MembershipError, NotLeaderError, RaftStatus
from control.store.interface import StoreError
from steersman.errors import ApiError, bad_request, not_found, unavailable
from steersman.v1 import cluster_pb2


class Raft(Protocol):
    """What administration needs of Raft."""

    def status(self) -> RaftStatus: ...
    async def transfer_leadership(self, to: str) -> None: ...


class ClusterHandlers:
    """`Cluster` and `NodeBootstrap`, as `(request, caller) -> response`."""

    def __init__(
        self,
        context: ApiContext,
        raft: Raft,
        members: Members,
        tokens: JoinTokens,
        authority: CertificateAuthority,
        *,
        version: str,
        kubernetes_version: str,
    ) -> None:
        self._context = context
        self._raft = raft
        self._members = members
        self._tokens = tokens
        self._authority = authority
        self._version = version
        self._kubernetes_version = kubernetes_version

    async def status(self, _request: cluster_pb2.ClusterStatusRequest, caller: Caller) -> cluster_pb2.ClusterStatus:
        """The cluster as this member sees it."""
        self._require(caller, "get", "members")
        status = self._raft.status()
        announced = self._members.announced
        return cluster_pb2.ClusterStatus(
            cluster_id=status.cluster_id,
            answering_member=status.name,
            leader=status.leader,
            term=status.term,
            revision=self._context.store.revision,
            members=[
                shown(member, announced[member.name].grpc if member.name in announced else "")
                for member in status.members
            ],
            version=self._version,
            kubernetes_version=self._kubernetes_version,
        )

    async def create_join_token(
        self, request: cluster_pb2.CreateJoinTokenRequest, caller: Caller
    ) -> cluster_pb2.JoinToken:
        """A fresh token; its secret is told this once."""
        self._require(caller, "create", "jointokens")
        self._require_leader()
        try:
            made = await self._tokens.create(
                ttl_s=request.ttl_seconds,
                uses=request.uses,
                description=request.description,
                actor=f"user:{caller.user}",
            )
        except TokenError as error:
            raise bad_request(str(error)) from None
        except StoreError as error:
            raise from_store(error) from None
        return self._shown(made)

    async def list_join_tokens(
        self, _request: cluster_pb2.ListJoinTokensRequest, caller: Caller
    ) -> cluster_pb2.ListJoinTokensResponse:
        """The tokens that have not ended, without their secrets."""
        self._require(caller, "list", "jointokens")
        self._require_leader()
        return cluster_pb2.ListJoinTokensResponse(tokens=[self._shown(token) for token in await self._tokens.list()])

    async def revoke_join_token(
        self, request: cluster_pb2.RevokeJoinTokenRequest, caller: Caller
    ) -> cluster_pb2.RevokeJoinTokenResponse:
        """Forget a token."""
        self._require(caller, "delete", "jointokens")
        self._require_leader()
        identity = request.id.partition(".")[0]
        try:
            if not await self._tokens.revoke(identity, f"user:{caller.user}"):
                raise not_found("jointokens", identity)
        except StoreError as error:
            raise from_store(error) from None
        return cluster_pb2.RevokeJoinTokenResponse()

    async def transfer_leader(
        self, request: cluster_pb2.TransferLeaderRequest, caller: Caller
    ) -> cluster_pb2.ClusterStatus:
        """Make another member lead; answers when it does."""
        self._require(caller, "update", "members")
        self._require_leader()
        known = [member.name for member in self._raft.status().members]
        if request.member not in known:
            raise bad_request(f"{request.member!r} is not a member: choose one of {', '.join(sorted(known))}")
        if request.member == self._context.leadership.name:  # also when a repeated call finds that the first one did it
            return await self.status(cluster_pb2.ClusterStatusRequest(), caller)
        try:
            await self._raft.transfer_leadership(request.member)
        except NotLeaderError as error:
            raise no_leader(error.leader) from None
        except MembershipError as error:
            raise bad_request(str(error)) from None
        except TimeoutError:
            raise unavailable(f"{request.member} did not take over in time: is it running and caught up?") from None
        return await self.status(cluster_pb2.ClusterStatusRequest(), caller)

    async def announce(self, request: cluster_pb2.AnnounceRequest, caller: Caller) -> cluster_pb2.AnnounceResponse:
        """Note where a member answers; only it may say so."""
        if not caller.is_member or caller.user != MEMBER_PREFIX + request.name:
            access = Access("update", "cluster", "members", name=request.name)
            raise ApiError("Forbidden", f'User "{caller.user}" {access}: members announce themselves')
        self._require_leader()
        if all(member.name != request.name for member in self._raft.status().members):
            raise ApiError(
                "Forbidden", f"{request.name} is not a member of this cluster (any more): stop it, or add it again"
            )
        try:
            addresses = MemberAddresses(request.grpc_address, request.rest_address)
            await self._members.write(request.name, addresses, caller.user)
        except StoreError as error:
            raise from_store(error) from None
        return cluster_pb2.AnnounceResponse()

    def _shown(self, token: TokenInfo) -> cluster_pb2.JoinToken:
        return cluster_pb2.JoinToken(
            token=token.token,
            ca_hash=self._authority.hash,
            expires=token.expires,
            uses_left=token.uses_left,
            description=token.description,
        )

    def _require(self, caller: Caller, verb: str, resource: str) -> None:
        require(self._context.authorizer, caller, Access(verb, "cluster", resource))

    def _require_leader(self) -> None:
        leadership = self._context.leadership
        if not leadership.is_self:
            raise no_leader(leadership.leader)
