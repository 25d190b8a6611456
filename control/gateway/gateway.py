"""The gateway of one member: where nodes and the control plane meet.

Every member serves the gateway's gRPC services; only the leader does their work. `Gateway.lead` is that work: it makes
the caches, waits until they are complete, and serves sessions until it is cancelled, which ends every session so that
the agents look for the new leader. A member that does not lead sends agents to the one that does and carries clients'
streams there.

How a member's main program uses it:

    gateway = Gateway(…)
    gateway.add_to(grpc_server); gateway.add_bootstrap_to(bootstrap_server)
    async with leading: await gateway.lead()        # while this member leads
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import grpc.aio

from control.ca.certificates import CertificateAuthority
from control.ca.tokens import JoinTokens
from control.gateway.bootstrap import Bootstrap
from control.gateway.feed import Feeds
from control.gateway.heartbeats import Heartbeats
from control.gateway.reports import StatusWriter
from control.gateway.sessions import Sessions
from control.gateway.settings import GatewaySettings
from control.gateway.streams import Bridges, Frame
from control.identity import Caller, forwarded_metadata
from control.rpc import Gatekeeper, stream, unary
from steersman.client import AsyncClient
from steersman.clock import Clock, Entropy
from steersman.errors import ApiError, unavailable
from steersman.v1 import node_pb2, node_pb2_grpc, streams_pb2, streams_pb2_grpc

log = logging.getLogger(__name__)

NOT_LEADING = "this member does not lead: the session is with the leader"


class Cluster(Protocol):
    """What the gateway asks about the other members."""

    def leader_address(self) -> str:
        """The gRPC address of the member that leads; "" when none is known, or it is this one."""
        ...

    def member_addresses(self) -> Sequence[str]:
        """The gRPC addresses of all members."""
        ...

    def leader_channel(self) -> grpc.aio.Channel | None:
        """A channel to the leader with this member's certificate; None when none is known, or it is this one."""
        ...


# Raises ApiError when the caller may not act: (caller, verb, resource, namespace, name, subresource).
Authorize = Callable[[Caller, str, str, str, str, str], None]


class _Term:
    """What exists while this member leads."""

    def __init__(
        self, client: AsyncClient, heartbeats: Heartbeats, settings: GatewaySettings, entropy: Entropy
    ) -> None:
        self.feeds = Feeds(client)
        self.writer = StatusWriter(client, self.feeds)
        self.sessions = Sessions(client, self.feeds, self.writer, heartbeats, settings)
        self.bridges = Bridges(self.feeds, self.sessions, entropy)


class Gateway:
    """See the module.

    Args:
        client: over the local transport of this member.
        heartbeats: shared with the node lifecycle controller.
        cluster: addresses of members and the leader.
        authorize: who may read logs and run commands.
    """

    def __init__(
        self,
        client: AsyncClient,
        heartbeats: Heartbeats,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        cluster: Cluster,
        authorize: Authorize,
        clock: Clock,
        entropy: Entropy,
        settings: GatewaySettings | None = None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self.settings = settings or GatewaySettings()
        self.heartbeats = heartbeats
        self.clock = clock
        self._client = client
        self._cluster = cluster
        self._authorize = authorize
        self._entropy = entropy
        self._gatekeeper = gatekeeper or Gatekeeper()
        self._term: _Term | None = None
        self.bootstrap = Bootstrap(
            authority, tokens, heartbeats, cluster.member_addresses, clock, self.settings.lease_s, self.term
        )

    @property
    def nodes(self) -> list[str]:
        """The nodes that have a session with this member."""
        return self._term.sessions.nodes if self._term is not None else []

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve NodeGateway and Streams on a server that demands client certificates."""
        node_pb2_grpc.add_NodeGatewayServicer_to_server(_NodeGateway(self), server)
        streams_pb2_grpc.add_StreamsServicer_to_server(_Streams(self), server)

    def add_bootstrap_to(self, server: grpc.aio.Server) -> None:
        """Serve NodeBootstrap on a server that does not."""
        node_pb2_grpc.add_NodeBootstrapServicer_to_server(self.bootstrap, server)

    async def lead(self) -> None:
        """Do the leader's part until cancelled."""
        term = _Term(self._client, self.heartbeats, self.settings, self._entropy)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(term.feeds.run())
                await term.feeds.synced()
                group.create_task(term.writer.run())
                self._term = term
                log.info("the gateway serves sessions: %d pods, %d nodes", len(term.feeds.pods), len(term.feeds.nodes))
        finally:
            self._term = None
            term.sessions.end_all(unavailable(NOT_LEADING))
            term.bridges.close_all()

    # --- what the servicers share ---

    def term(self) -> _Term:
        """The leader's part. Raises ApiError on a member that does not lead (or does not serve sessions yet)."""
        if self._term is None:
            raise unavailable(NOT_LEADING)
        return self._term

    @property
    def leading(self) -> bool:
        return self._term is not None

    @property
    def leader(self) -> str:
        return self._cluster.leader_address()

    def caller(self, context: Any) -> Caller:
        """Who calls. Raises ApiError for a call that claims to be forwarded and is not."""
        return self._gatekeeper.caller(context)

    def node(self, context: Any) -> str:
        """The node that calls. Raises ApiError for anybody else."""
        caller = self.caller(context)
        if not caller.node:
            raise ApiError("Forbidden", f'user "{caller.user}" is not a node: the node gateway serves agents only')
        return caller.node

    def authorize(self, caller: Caller, verb: str, namespace: str, pod: str, subresource: str) -> None:
        self._authorize(caller, verb, "pods", namespace or "default", pod, subresource)

    def leader_streams(self) -> Any:
        """The leader's Streams service. Raises ApiError when no leader is known."""
        channel = self._cluster.leader_channel()
        if channel is None:
            raise unavailable("the control plane has no leader at the moment: try again")
        return streams_pb2_grpc.StreamsStub(channel)


class _NodeGateway(node_pb2_grpc.NodeGatewayServicer):
    """The agents' service."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Session(self, _requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        gateway = self._gateway
        async with stream("Session", context, lambda: gateway.leader):
            node = gateway.node(context)
            await gateway.term().sessions.serve(node, context)

    async def Stream(self, _requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        gateway = self._gateway
        async with stream("Stream", context):
            node = gateway.node(context)
            await gateway.term().bridges.serve_agent(node, context)

    async def Renew(self, request: node_pb2.RenewRequest, context: Any) -> node_pb2.JoinResponse:  # noqa: N802
        gateway = self._gateway

        async def renew() -> node_pb2.JoinResponse:
            return gateway.bootstrap.renew(gateway.node(context), request)

        return cast(node_pb2.JoinResponse, await unary("Renew", context, gateway.clock, renew))


class _Streams(streams_pb2_grpc.StreamsServicer):
    """The clients' service: served here when this member leads, else carried to the leader."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Logs(self, request: streams_pb2.LogsRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        gateway = self._gateway
        async with stream("Logs", context):
            caller = gateway.caller(context)
            gateway.authorize(caller, "get", request.namespace, request.pod, "log")
            if gateway.leading:
                await gateway.term().bridges.logs(request, context)
                return
            call = gateway.leader_streams().Logs(request, metadata=forwarded_metadata(caller))
            await _relay(call, context)

    async def Exec(self, _requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        gateway = self._gateway
        async with stream("Exec", context):
            caller = gateway.caller(context)
            first = await context.read()
            if first is grpc.aio.EOF or first.WhichOneof("frame") != "exec":
                raise ApiError("BadRequest", "the first frame of Exec holds `exec`")
            gateway.authorize(caller, "create", first.exec.namespace, first.exec.pod, "exec")
            if gateway.leading:
                await gateway.term().bridges.exec(first, context)
                return
            call = gateway.leader_streams().Exec(metadata=forwarded_metadata(caller))
            feeding = asyncio.create_task(_carry(first, context, call))
            try:
                await _relay(call, context)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)


async def _relay(call: Any, context: Any) -> None:
    """Carry the leader's answers to the client. Raises ApiError for the leader's refusal."""
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            await context.write(message)
        if await call.code() is not grpc.StatusCode.OK:
            trailing, details = await call.trailing_metadata(), await call.details()
            ended = grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), trailing, details=details)
            raise ApiError.from_rpc(ended)
    except grpc.aio.AioRpcError as error:
        raise ApiError.from_rpc(error) from None
    finally:
        call.cancel()


async def _carry(first: Frame, context: Any, call: Any) -> None:
    """Carry the client's frames to the leader."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(first)
        while (frame := await context.read()) is not grpc.aio.EOF:
            await call.write(frame)
        await call.done_writing()
