"""Calls to etcd: on the member that answered last, on the next when it does not.

Every call has a time-out, so a member that fell silent costs one of them. What went wrong is sorted by what it means
for the outcome: `EtcdRefusedError` (etcd said no: nothing was done), `EtcdUnsureError` (the call may have been carried out, or may
still be). Reads are tried again on the next member; writes are the caller's to settle (`store`).

Calls ask that the member has a leader ("hasleader"), so that a member cut off from its majority refuses rather than stalls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd import rpc_pb2_grpc as rpc_grpc
from control.store.etcd.address import EtcdAddress, EtcdTls
from control.store.interface import OverloadedError, StoreError, StoreFullError

CALL_S: Final = 1.5  # of one try: an etcd election takes about a second, a silent member must not cost more
METADATA: Final = (("hasleader", "true"),)
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # etcd sends up to a thousand revisions in one message
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # etcd drops connections that ask more often than every 5 s
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)

UNSURE: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
)

T = TypeVar("T")


class EtcdError(StoreError):
    """A call to etcd failed."""


class EtcdUnsureError(EtcdError):
    """No answer came, or one that leaves open whether the call was carried out."""


class EtcdRefusedError(EtcdError):
    """etcd refused the call; nothing was done."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class Endpoint:
    """One member of etcd."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials) -> None:
        self.address = address
        self.channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)
        self.kv = rpc_grpc.KVStub(self.channel)
        self.watch = rpc_grpc.WatchStub(self.channel)
        self.lease = rpc_grpc.LeaseStub(self.channel)
        self.maintenance = rpc_grpc.MaintenanceStub(self.channel)


class EtcdClient:
    """The members of one etcd cluster, one of which is asked. Made in a running event loop; `close` it in the end."""

    def __init__(self, address: EtcdAddress, tls: EtcdTls) -> None:
        credentials = grpc.ssl_channel_credentials(
            tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
        )
        self._endpoints = [Endpoint(endpoint, credentials) for endpoint in address.endpoints]
        self._at = 0
        self.cluster_id = ""  # hexadecimal, as etcd shows it; known after the first answer

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked next."""
        return self._endpoints[self._at]

    def turn_from(self, endpoint: Endpoint) -> None:
        """Ask the next member from now on, unless that was decided already."""
        if endpoint is self.endpoint:
            self._at = (self._at + 1) % len(self._endpoints)

    async def close(self) -> None:
        """Close every connection."""
        for endpoint in self._endpoints:
            await endpoint.channel.close()

    async def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        """Read. Raises EtcdError when no member answers."""
        return await self._ask(lambda endpoint: endpoint.kv.Range(request, timeout=CALL_S, metadata=METADATA))

    async def read(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        """Read several keys as of one moment."""
        return await self._ask(lambda endpoint: endpoint.kv.Txn(request, timeout=CALL_S, metadata=METADATA))

    async def txn(self, request: rpc.TxnRequest, timeout: float = CALL_S) -> rpc.TxnResponse:
        """Propose once. Raises EtcdUnsureError, EtcdRefusedError, StoreFullError, OverloadedError, ValueError (too large)."""
        return await self._once(lambda endpoint: endpoint.kv.Txn(request, timeout=timeout, metadata=METADATA))

    async def compact(self, revision: int) -> None:
        """Have etcd forget what was before `revision`."""
        request = rpc.CompactionRequest(revision=revision)
        await self._once(lambda endpoint: endpoint.kv.Compact(request, timeout=30.0, metadata=METADATA))

    async def grant(self, ttl: int) -> rpc.LeaseGrantResponse:
        """A lease of `ttl` seconds."""
        request = rpc.LeaseGrantRequest(TTL=ttl)
        return await self._ask(lambda endpoint: endpoint.lease.LeaseGrant(request, timeout=CALL_S, metadata=METADATA))

    async def revoke(self, lease: int) -> None:
        """End a lease, and what hangs on it."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        await self._once(lambda endpoint: endpoint.lease.LeaseRevoke(request, timeout=CALL_S, metadata=METADATA))

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; answers the seconds it has, 0 when it has ended."""

        async def once(endpoint: Endpoint) -> rpc.LeaseKeepAliveResponse:
            call: Any = endpoint.lease.LeaseKeepAlive(timeout=CALL_S, metadata=METADATA)
            try:
                await call.write(rpc.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
            finally:
                call.cancel()
            if answer is grpc.aio.EOF:
                raise EtcdUnsureError(f"etcd at {endpoint.address} ended the renewal of the lease")
            return answer  # type: ignore[no-any-return]

        return (await self._ask(once)).TTL

    @asynccontextmanager
    async def watch(
        self, key: bytes, range_end: bytes, start_revision: int
    ) -> AsyncIterator[Callable[[], Awaitable[rpc.WatchResponse]]]:
        """Follow a range from a revision: gives a function that waits for the next response. It raises EtcdUnsureError."""
        endpoint = self.endpoint
        call: Any = endpoint.watch.Watch(metadata=METADATA)

        async def following() -> rpc.WatchResponse:
            try:
                response = await call.read()
            except grpc.aio.AioRpcError as error:
                self.turn_from(endpoint)
                raise _failure(error, endpoint) from error
            if response is grpc.aio.EOF:
                self.turn_from(endpoint)
                raise EtcdUnsureError(f"etcd at {endpoint.address} ended a watch")
            return response  # type: ignore[no-any-return]

        try:
            create = rpc.WatchCreateRequest(key=key, range_end=range_end, start_revision=start_revision)
            try:
                await call.write(rpc.WatchRequest(create_request=create))
            except grpc.aio.AioRpcError as error:
                self.turn_from(endpoint)
                raise _failure(error, endpoint) from error
            yield following
        finally:
            call.cancel()

    async def _ask(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """Try every member once, for calls that may be made twice."""
        for _ in self._endpoints[1:]:
            try:
                return await self._once(ask)
            except EtcdUnsureError:
                continue
        return await self._once(ask)

    async def _once(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        endpoint = self.endpoint
        try:
            answer: Any = await ask(endpoint)
        except grpc.aio.AioRpcError as error:
            failure = _failure(error, endpoint)
            if isinstance(failure, EtcdUnsureError):
                self.turn_from(endpoint)
            raise failure from error
        except EtcdUnsureError:
            self.turn_from(endpoint)
            raise
        if not self.cluster_id:
            self.cluster_id = f"{answer.header.cluster_id:x}"
        return answer  # type: ignore[no-any-return]


def _failure(error: grpc.aio.AioRpcError, endpoint: Endpoint) -> Exception:
    code, details = error.code(), error.details() or ""
    message = f"etcd at {endpoint.address}: {details or code.name}"
    if "database space exceeded" in details:
        return StoreFullError(f"{message}: compact and defragment etcd, or raise its quota, then disarm its alarm")
    if "too many requests" in details:
        return OverloadedError(message)
    if any(words in details for words in ("request is too large", "too many operations", "larger than max")):
        return ValueError(message)
    if code in UNSURE:
        return EtcdUnsureError(message)
    return EtcdRefusedError(message, code)
