"""Messages between members over gRPC with mutual TLS.

Each member keeps one client stream to every other and writes batches to it; the answers come on the streams that the
others keep in turn. A message is never waited for: the queue to a peer is bounded, what does not fit or cannot be sent
is dropped and the core is told, and Raft sends again what matters. A stream that fails, or takes a batch for longer than
`WRITE_TIMEOUT_S`, is given up with its connection, and another is tried with growing pauses. (The stream is written to
explicitly: a request iterator would go on eating the queue after its call is dead.)

Snapshots travel on a stream of their own, so that they do not hold up heartbeats, and resume where they were cut.

Only members speak here: a certificate signed by the cluster's CA with the common name `system:member:NAME`, which must
be the sender of what it sends; and a client insists that the server's certificate is valid for the member's name.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from control.raft import transport_pb2 as pb
from control.raft import transport_pb2_grpc as rpc
from control.raft import wire
from control.raft.files import File
from control.raft.interface import LogDamagedError, RaftConfig, TlsFiles
from control.raft.messages import Append, InstallSnapshot, Message, SnapshotMeta, size
from control.raft.metrics import RaftMetrics
from steersman.clock import Entropy
from steersman.logs import fields

logger = logging.getLogger(__name__)

MEMBER_PREFIX = "system:member:"
CONNECT_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 2.0  # a peer that takes nothing for so long has been replaced as leader, or will not be missed
SNAPSHOT_TIMEOUT_S = 60.0  # for one chunk, and for the check at the end
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0  # a member that comes back is found within a second
MAX_QUEUED_MESSAGES = 4096
MAX_BATCH_BYTES = 2 << 20
SNAPSHOT_CHUNK_BYTES = 512 << 10
MESSAGE_OVERHEAD_BYTES = 64

OPTIONS = [
    ("grpc.max_send_message_length", -1),  # batches are bounded by what the core sends
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 2000),  # a peer that vanished without a word is noticed in 4 s
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS = [
    *OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # two processes on one port would share the members' streams
]


class Receiver(Protocol):
    """What a transport hands things to: the node."""

    @property
    def cluster_id(self) -> str:
        """Which cluster this member belongs to; empty: not known yet."""
        ...

    def stranger(self, name: str) -> str:
        """What to tell a sender that is no member; empty: nothing."""
        ...

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages arrived."""
        ...

    def unreachable(self, name: str) -> None:
        """Messages to a member were dropped."""
        ...

    def snapshot_sent(self, name: str, *, arrived: bool) -> None:
        """A snapshot has arrived, or has not."""
        ...

    async def incoming_size(self, meta: SnapshotMeta) -> int:
        """How much of a snapshot is here from an earlier attempt."""
        ...

    async def receive_snapshot(self, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        """A piece of a snapshot arrived."""
        ...

    async def finish_snapshot(self, message: InstallSnapshot) -> None:
        """All of it arrived. Raises LogDamagedError when it does not check out."""
        ...


class Transport(Protocol):
    """How a node reaches the other members."""

    async def start(self, receiver: Receiver) -> None:
        """Listen. Raises OSError."""
        ...

    async def stop(self) -> None:
        """Stop listening, close every connection."""
        ...

    def send(self, messages: Sequence[Message]) -> None:
        """Send, without waiting and without promise."""
        ...

    def send_snapshot(self, message: InstallSnapshot, file: File) -> None:
        """Send a snapshot file, which the transport closes; the receiver's `snapshot_sent` tells how it went."""
        ...

    def set_members(self, addresses: Mapping[str, str]) -> None:
        """Connect to exactly these members: name -> host:port."""
        ...

    def announce(self, problem: str) -> None:
        """Tell the other members what is wrong here (empty: nothing any more)."""
        ...

    def reachable(self, name: str) -> bool:
        """Whether there is a connection to a member."""
        ...

    def problem(self, name: str) -> str:
        """What a member last told to be wrong with it."""
        ...


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Read the files of a client."""
    return grpc.ssl_channel_credentials(tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes())


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Read the files of a server, again at every connection; clients must show a certificate."""

    def read() -> grpc.ServerCertificateConfiguration:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=tls.ca.read_bytes())

    def reread() -> grpc.ServerCertificateConfiguration | None:
        try:
            return read()
        except OSError:  # being replaced just now: the old ones serve
            return None

    return grpc.dynamic_ssl_server_credentials(read(), reread, require_client_authentication=True)


class GrpcTransport:
    """The transport of a running member."""

    def __init__(self, config: RaftConfig, entropy: Entropy, metrics: RaftMetrics) -> None:
        if config.tls is None:
            raise ValueError("members speak mutual TLS only: RaftConfig.tls is missing")
        self.config = config
        self.tls = config.tls
        self.entropy = entropy
        self.metrics = metrics
        self.address = config.advertise or config.members.get(config.name) or config.listen
        self.own_problem = ""
        self.receiver: Receiver
        self._problems: dict[str, str] = {}
        self._peers: dict[str, Peer] = {}
        self._members: set[str] = set()
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        rpc.add_RaftTransportServicer_to_server(_Servicer(self), self._server)
        try:
            self._server.add_secure_port(self.config.listen, server_credentials(self.tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen for members on {self.config.listen}: {error}") from error
        await self._server.start()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(peer.stop() for peer in self._peers.values()), return_exceptions=True)
        self._peers.clear()
        if self._server is not None:
            await self._server.stop(grace=0)

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            peer = self._peers.get(message.to)
            if peer is not None:
                peer.send(message)

    def send_snapshot(self, message: InstallSnapshot, file: File) -> None:
        task = asyncio.get_running_loop().create_task(self._send_snapshot(message, file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def set_members(self, addresses: Mapping[str, str]) -> None:
        self._members = set(addresses)
        for name in [name for name in self._peers if addresses and name not in addresses]:
            self._discard(name)
        for name, address in addresses.items():
            self._connect(name, address)

    def learn(self, name: str, address: str) -> None:
        """A sender of which the log here says nothing told its address: it can be answered as long as it is there.

        It may be a leader, or a candidate, that was added after the end of the log here. Who did not answer it would never
        get the entries that say so (dissertation §4.2).
        """
        if name not in self._members and address:
            self._connect(name, address, guest=True)

    def dismiss(self, peer: Peer) -> None:
        """A guest is gone: when it speaks again, it is learned again."""
        if self._peers.get(peer.name) is peer:
            del self._peers[peer.name]

    def announce(self, problem: str) -> None:
        if problem or self.own_problem:
            self.own_problem = problem
            for peer in self._peers.values():
                peer.poke()

    def reachable(self, name: str) -> bool:
        peer = self._peers.get(name)
        return peer is not None and peer.connected

    def problem(self, name: str) -> str:
        return self._problems.get(name, "")

    def heard(self, name: str, problem: str) -> None:
        """A member spoke."""
        self._problems[name] = problem
        peer = self._peers.get(name)
        if peer is not None:
            peer.hurry()

    def _connect(self, name: str, address: str, *, guest: bool = False) -> None:
        known = self._peers.get(name)
        if known is not None and known.address == address:
            known.guest = guest
            return
        if name == self.config.name:
            return
        if known is not None:
            self._discard(name)
        self._peers[name] = Peer(self, name, address, guest=guest)

    def _discard(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._peers.pop(name).stop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_snapshot(self, message: InstallSnapshot, file: File) -> None:
        arrived = False
        peer = self._peers.get(message.to)
        try:
            if peer is not None:
                await self._stream_snapshot(peer, message, file)
                arrived = True
        except (Exception, asyncio.CancelledError) as error:
            why = _reason(error)
            logger.warning("a snapshot did not arrive %s", fields(to=message.to, index=message.meta.index, error=why))
        finally:
            file.close()
        self.receiver.snapshot_sent(message.to, arrived=arrived)

    async def _stream_snapshot(self, peer: Peer, message: InstallSnapshot, file: File) -> None:
        header = wire.encode_header(message, self.receiver.cluster_id)
        async with self.open_channel(peer) as channel:
            stub = rpc.RaftTransportStub(channel)
            offset = (await stub.SnapshotProgress(header, timeout=SNAPSHOT_TIMEOUT_S)).offset
            if offset > file.size():
                offset = 0
            call = stub.InstallSnapshot()
            await call.write(pb.SnapshotChunk(header=header, offset=offset))
            while data := await asyncio.to_thread(file.read, offset, SNAPSHOT_CHUNK_BYTES):
                async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                    await call.write(pb.SnapshotChunk(offset=offset, data=data))
                offset += len(data)
            await call.done_writing()
            async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                await call

    def open_channel(self, peer: Peer) -> grpc.aio.Channel:
        """A new connection to a member. Raises OSError when the certificates cannot be read."""
        options = [
            *OPTIONS,
            ("grpc.ssl_target_name_override", peer.name),
            ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, without an old one's pauses
        ]
        return grpc.aio.secure_channel(peer.address, channel_credentials(self.tls), options=options)


class Peer:
    """The stream to one other member; to a guest, which is none as far as the log here says, only while it lasts."""

    def __init__(self, transport: GrpcTransport, name: str, address: str, *, guest: bool = False) -> None:
        self.name = name
        self.guest = guest
        self.address = address
        self.connected = False
        self._transport = transport
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._waiting = False  # between attempts: what is sent now is dropped
        self._wake = asyncio.Event()
        self._retry = asyncio.Event()
        self._poked = True  # say hello: who we are, what is wrong
        self._last_error = ""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Close the stream."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def send(self, message: Message) -> None:
        """Queue a message, or drop it."""
        length = _bytes(message)
        limit = 2 * self._transport.config.max_inflight_bytes
        if self._waiting or len(self._queue) >= MAX_QUEUED_MESSAGES or self._queued_bytes + length > limit:
            self._drop(1)
            return
        self._queue.append(message)
        self._queued_bytes += length
        self._wake.set()

    def poke(self) -> None:
        """Send a batch even if there is no message: it says whether something is wrong here."""
        self._poked = True
        self._wake.set()

    def hurry(self) -> None:
        """The member was heard from: try to connect at once."""
        if self._waiting:
            self._retry.set()

    def _drop(self, count: int) -> None:
        self._transport.metrics.dropped_messages.labels(self.name).inc(count)
        asyncio.get_running_loop().call_soon(self._transport.receiver.unreachable, self.name)

    async def _run(self) -> None:
        pause = RECONNECT_MIN_S
        while True:
            try:
                await self._session()
            except (Exception, asyncio.CancelledError) as error:
                why = _reason(error)
                if self.connected or why != self._last_error:
                    logger.info("no connection %s", fields(member=self.name, address=self.address, error=why))
                self._last_error = why
            if self.guest:
                self._transport.dismiss(self)
                return
            if self.connected:
                pause = RECONNECT_MIN_S
            self.connected = False
            self._waiting = True
            self._retry.clear()
            if self._queue:
                self._drop(len(self._queue))
                self._queue.clear()
                self._queued_bytes = 0
            try:
                async with asyncio.timeout(pause * (0.5 + self._transport.entropy.jitter())):
                    await self._retry.wait()
            except TimeoutError:
                pass
            pause = min(2 * pause, RECONNECT_MAX_S)
            self._waiting = False

    async def _session(self) -> None:
        async with self._transport.open_channel(self) as channel:
            call = rpc.RaftTransportStub(channel).Deliver()
            call.add_done_callback(lambda _: self._wake.set())
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await call.wait_for_connection()
            self._poked = True
            while not call.done():
                if not self._queue and not self._poked:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await call.write(self._next_batch())
                if not self.connected:
                    logger.info("connected %s", fields(member=self.name, address=self.address))
                    self.connected = True
                    self._last_error = ""
            await call  # raises what ended it

    def _next_batch(self) -> pb.Batch:
        total, messages = 0, []
        while self._queue and total < MAX_BATCH_BYTES:
            message = self._queue.popleft()
            total += _bytes(message)
            messages.append(wire.encode(message))
        self._queued_bytes -= total
        self._poked = False
        return pb.Batch(
            sender=self._transport.config.name,
            sender_address=self._transport.address,
            cluster_id=self._transport.receiver.cluster_id,
            problem=self._transport.own_problem,
            messages=messages,
        )


def _reason(error: BaseException) -> str:
    """Say why a call ended; whatever it was, the connection is tried again.

    A call that gRPC cancelled raises CancelledError into whoever awaits it. Only when the task itself is being
    cancelled does that mean "stop": then it is raised again.
    """
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
        raise error
    return (error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)) or type(error).__name__


def _bytes(message: Message) -> int:
    if isinstance(message, Append):
        return MESSAGE_OVERHEAD_BYTES + sum(map(size, message.entries))
    return MESSAGE_OVERHEAD_BYTES


Context = Any  # grpc.aio.ServicerContext: grpc has no types, and its stubs want another name for it


class _Servicer(rpc.RaftTransportServicer):
    """What other members call."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport
        self._name = transport.config.name
        self._incoming: set[tuple[int, int]] = set()  # snapshots that a stream is delivering now

    async def Deliver(self, request_iterator: AsyncIterator[pb.Batch], context: Context) -> pb.Delivered:  # noqa: N802 - gRPC's name
        async for batch in request_iterator:
            await self._admit(context, batch.sender, batch.cluster_id)
            transport = self._transport
            if refusal := transport.receiver.stranger(batch.sender):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
            transport.learn(batch.sender, batch.sender_address)
            transport.heard(batch.sender, batch.problem)
            messages = []
            for message in batch.messages:
                try:
                    messages.append(wire.decode(message, batch.sender, self._name))
                except ValueError as error:  # a newer member's: as good as lost
                    logger.warning("a message was not understood %s", fields(sender=batch.sender, error=str(error)))
            if messages:
                transport.receiver.receive(messages)
        return pb.Delivered()

    async def SnapshotProgress(self, request: pb.SnapshotHeader, context: Context) -> pb.SnapshotOffset:  # noqa: N802
        await self._admit(context, request.sender, request.cluster_id)
        meta = wire.decode_header(request, self._name).meta
        return pb.SnapshotOffset(offset=await self._transport.receiver.incoming_size(meta))

    async def InstallSnapshot(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.SnapshotChunk], context: Context
    ) -> pb.SnapshotReceived:
        first = await anext(request_iterator)
        await self._admit(context, first.header.sender, first.header.cluster_id)
        message = wire.decode_header(first.header, self._name)
        key = (message.meta.index, message.meta.term)
        if key in self._incoming:
            await context.abort(grpc.StatusCode.ABORTED, "this snapshot is arriving already")
        self._incoming.add(key)
        try:
            receiver = self._transport.receiver
            if first.offset > await receiver.incoming_size(message.meta):
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "the snapshot's beginning is missing")
            async for chunk in request_iterator:
                await receiver.receive_snapshot(message.meta, chunk.offset, chunk.data)
            await receiver.finish_snapshot(message)
        except (OSError, LogDamagedError) as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, f"{self._name} cannot take the snapshot: {error}")
        finally:
            self._incoming.discard(key)
        return pb.SnapshotReceived()

    async def _admit(self, context: Context, sender: str, cluster_id: str) -> None:
        """Refuse whoever is no member, speaks for another, or belongs to another cluster."""
        names = [name.decode() for name in context.auth_context().get("x509_common_name", ())]
        if names != [MEMBER_PREFIX + sender]:
            shown = ", ".join(names) or "none"
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"members only: the certificate of {sender} must have the common name {MEMBER_PREFIX}{sender}, not {shown}",
            )
        own = self._transport.receiver.cluster_id
        if own and cluster_id and own != cluster_id:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{sender} belongs to cluster {cluster_id}, {self._name} to cluster {own}: it cannot join this one with its old data",
            )
