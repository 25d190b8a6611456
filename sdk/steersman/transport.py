"""How calls reach a control plane: over gRPC to any of its members, or straight to the handlers inside one.

`GrpcTransport` keeps one channel per member and talks to one of them until it fails. A call that a member refused
without acting on it (`ServiceUnavailable`: no leader yet) or that never reached one is tried again at the next
member, with back-off, until the caller's deadline. A write whose connection broke under way may have been applied; it
is repeated only when that does no harm, which is the caller's to say (`idempotent`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from steersman.clock import Clock, Entropy, SystemClock, SystemEntropy
from steersman.config import ClusterConfig, ConfigError
from steersman.errors import DETAILS_KEY, ApiError
from steersman.v1 import cluster_pb2_grpc, encryption_pb2_grpc, node_pb2_grpc, objects_pb2_grpc, streams_pb2_grpc

DEFAULT_TIMEOUT_S = 30.0
FIRST_BACKOFF_S = 0.02  # a leader change takes about a second: the first tries may be quick
MAX_BACKOFF_S = 1.0
MAX_RETIRED = 4  # connections given up that may still carry streams; beyond, the oldest is closed under them

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),  # a list of 10,000 objects in one answer
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 5_000),  # notice a dead member under an idle watch
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # gRPC heeds this one; without it a frozen member is waited for a minute
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # a connection must stand by then: a frozen host accepts and is silent
    ("grpc.use_local_subchannel_pool", 1),
)

_STUBS: dict[str, Any] = {
    "Objects": objects_pb2_grpc.ObjectsStub,
    "Streams": streams_pb2_grpc.StreamsStub,
    "Cluster": cluster_pb2_grpc.ClusterStub,
    "Encryption": encryption_pb2_grpc.EncryptionStub,
    "NodeGateway": node_pb2_grpc.NodeGatewayStub,
}


class Duplex(Protocol):
    """Both directions of a byte stream."""

    async def send(self, frame: Message) -> None: ...
    async def receive(self) -> Any:
        """The next frame, or None at the end. Raises ApiError."""
        ...

    def cancel(self) -> None: ...


class Transport(Protocol):
    """What the client needs: calls by service and method name, with messages of `steersman.v1`."""

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        idempotent: bool = True,
    ) -> Any:
        """One answer. Raises ApiError, also for an exceeded deadline (reason Timeout)."""
        ...

    def stream(self, service: str, method: str, request: Message) -> AsyncIterator[Any]:
        """Many answers. Raises ApiError; never resumes by itself."""
        ...

    def duplex(self, service: str, method: str) -> Duplex: ...

    async def close(self) -> None: ...


class GrpcTransport:
    """Mutual TLS to a set of members.

    Args:
        members: gRPC addresses, host:port.
        credentials: see `credentials`.
    """

    def __init__(
        self,
        members: Sequence[str],
        credentials: grpc.ChannelCredentials,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        limit_s: float = math.inf,
        patience_s: float = math.inf,
    ) -> None:
        if not members:
            raise ValueError("at least one member address is needed")
        self._members = list(members)
        self._credentials = credentials
        self._metadata = tuple(metadata)
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._limit_s = limit_s
        self._patience_s = patience_s
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._retired: list[grpc.aio.Channel] = []
        self._stubs: dict[tuple[str, str], Any] = {}
        self._at = 0

    @classmethod
    def from_config(
        cls, config: ClusterConfig, *, limit_s: float = math.inf, patience_s: float = math.inf
    ) -> GrpcTransport:
        """Connect as the configuration says.

        `limit_s` bounds the time-out of every unary call, and `patience_s` how long one is tried again while no connection
        comes about: programs wait for a cluster to come back, people want to be told.

        Raises:
            ConfigError: a certificate file cannot be read.
        """
        return cls(
            config.members,
            credentials(config.ca, config.certificate, config.key),
            limit_s=limit_s,
            patience_s=patience_s,
        )

    @property
    def member(self) -> str:
        """The address that the next call goes to."""
        return self._members[self._at % len(self._members)]

    def _stub(self, member: str, service: str) -> Any:
        stub = self._stubs.get((member, service))
        if stub is None:
            channel = self._channels.get(member)
            if channel is None:
                channel = grpc.aio.secure_channel(member, self._credentials, options=CHANNEL_OPTIONS)
                self._channels[member] = channel
            stub = self._stubs[member, service] = _STUBS[service](channel)
        return stub

    async def _next_member(self, failed: str, channel: grpc.aio.Channel | None) -> None:
        """Turn to another member, unless another call has done so already.

        A single address may be a balancer's: then only a new connection reaches another member.
        """
        if self.member != failed:
            return
        self._at += 1
        if self.member != failed or channel is None or self._channels.get(failed) is not channel:
            return
        del self._channels[failed]
        self._stubs = {key: stub for key, stub in self._stubs.items() if key[0] != failed}
        self._retired.append(channel)
        if len(self._retired) > MAX_RETIRED:
            await self._retired.pop(0).close()

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        idempotent: bool = True,
    ) -> Any:
        timeout = min(timeout, self._limit_s)
        began = self._clock.monotonic()
        deadline = began + timeout
        backoff = FIRST_BACKOFF_S
        while True:
            member = self.member
            call = getattr(self._stub(member, service), method)
            channel = self._channels.get(member)
            left = deadline - self._clock.monotonic()
            try:
                return await call(request, timeout=max(left, 0.001), metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                problem = ApiError.from_rpc(error)
                refused = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
                if not refused:
                    problem = _unreached(problem, member, timeout)
                if problem.reason in ("ServiceUnavailable", "Timeout"):
                    await self._next_member(member, channel)
                if problem.reason != "ServiceUnavailable" or not (refused or idempotent or _never_sent(error)):
                    raise problem from None
                pause = backoff * (0.5 + self._entropy.jitter() / 2)
                backoff = min(backoff * 2, MAX_BACKOFF_S)
                now = self._clock.monotonic()
                if now + pause >= deadline or (_never_sent(error) and now - began >= self._patience_s):
                    raise problem from None
                await asyncio.sleep(pause)

    async def stream(self, service: str, method: str, request: Message) -> AsyncIterator[Any]:
        member = self.member
        call = getattr(self._stub(member, service), method)(request, metadata=self._metadata)
        channel = self._channels.get(member)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            problem = ApiError.from_rpc(error)
            if problem.reason == "ServiceUnavailable":
                await self._next_member(member, channel)
            if not any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
                problem = _unreached(problem, member, 0.0)
            raise problem from None
        finally:
            call.cancel()

    def duplex(self, service: str, method: str) -> Duplex:
        return GrpcDuplex(getattr(self._stub(self.member, service), method)(metadata=self._metadata))

    async def close(self) -> None:
        """Close every channel; calls under way fail."""
        channels = [*self._channels.values(), *self._retired]
        self._channels, self._retired, self._stubs = {}, [], {}
        for channel in channels:
            with suppress(Exception):
                await channel.close()


def _never_sent(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call failed before any byte of it left: only then is a write that is not idempotent repeated."""
    text = error.debug_error_string() or error.details() or ""
    return "failed to connect" in text.lower() or "connection refused" in text.lower()


def _unreached(problem: ApiError, member: str, timeout: float) -> ApiError:
    """A failure that no server worded, with the address and what to look at."""
    if problem.reason == "Timeout" and timeout > 0:
        return ApiError("Timeout", f"{member} did not answer within {timeout:g} s")
    if problem.reason == "ServiceUnavailable":
        why = problem.message.rpartition("last error: ")[2]
        return ApiError(
            "ServiceUnavailable",
            f"no connection to {member} ({why}): is the cluster up, and is this its address?",
            retry_after=problem.retry_after,
        )
    return problem


class GrpcDuplex:
    """A bidirectional call driven by explicit writes: a generator of requests would outlive a dead call."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, frame: Message) -> None:
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise ApiError.from_rpc(error) from None

    async def receive(self) -> Any:
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise ApiError.from_rpc(error) from None
        return None if frame is grpc.aio.EOF else frame

    def cancel(self) -> None:
        self._call.cancel()


def credentials(ca: Path, certificate: Path, key: Path) -> grpc.ChannelCredentials:
    """Mutual TLS from PEM files.

    Raises:
        ConfigError: a file cannot be read.
    """
    contents = []
    for what, path in (("CA certificate", ca), ("client certificate", certificate), ("client key", key)):
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(contents[0], contents[2], contents[1])
