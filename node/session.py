"""The one session with the control plane: found, held, found again.

The agent dials any member it knows. One that does not lead names the leader in the trailing metadata
`steersman-leader`, and the agent dials that one; when nobody leads it goes round the members, with jittered back-off.
Within a session one task writes and one reads. Heartbeats go out every `heartbeat_seconds`, whatever else waits; a
leader that acknowledges none for a few of them is given up, because a connection may look alive long after its other
end is gone.

The lease counts from the moment a heartbeat was *sent* that was acknowledged later (see `node.fencing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio

from node.metrics import NodeMetrics
from steersman.clock import Clock, Entropy
from steersman.errors import ApiError
from steersman.v1 import node_pb2, node_pb2_grpc

log = logging.getLogger(__name__)

LEADER_KEY = "steersman-leader"
FIRST_BACKOFF_S = 0.05  # a leader change takes about a second: the first rounds may be quick
MAX_BACKOFF_S = 2.0
LOOKS_PER_HEARTBEAT = 4  # how finely silence is noticed; each look costs a wake-up
SILENT_HEARTBEATS = 3.0  # unacknowledged ones after which a session is given up; more would eat into the lease
WELCOME_TIMEOUT_S = 5.0


class Lease:
    """Until when the control plane is known to count this node as alive. `acknowledged` is on the monotonic clock."""

    def __init__(self, lease_s: float, acknowledged: float) -> None:
        self.lease_s = lease_s
        self.acknowledged = acknowledged
        self._sent: deque[tuple[int, float]] = deque()

    def sent(self, sequence: int, at: float) -> None:
        """A heartbeat goes out."""
        self._sent.append((sequence, at))

    def confirm(self, sequence: int) -> float | None:
        """A heartbeat was acknowledged; answers when it was sent, None for one that is not waited for."""
        at = None
        while self._sent and self._sent[0][0] <= sequence:
            at = self._sent.popleft()[1]
        if at is not None:
            self.acknowledged = max(self.acknowledged, at)
        return at

    def forget(self) -> None:
        """The session is over: nothing that is under way will be acknowledged."""
        self._sent.clear()


class Handler(Protocol):
    """Who makes use of the session."""

    def hello(self) -> node_pb2.Hello: ...
    async def welcomed(self, welcome: node_pb2.Welcome) -> None: ...
    def changes(self, changes: node_pb2.Changes) -> None: ...
    def status_ack(self, ack: node_pb2.StatusAck) -> None: ...
    def open_stream(self, command: node_pb2.OpenStream, channel: grpc.aio.Channel) -> None: ...
    def heartbeat_acked(self) -> None: ...
    def disconnected(self) -> None: ...


class Outbox:
    """What waits to be sent in the present session. Heartbeats overtake: they are few, small and urgent."""

    def __init__(self) -> None:
        self._urgent: deque[node_pb2.AgentMessage] = deque()
        self._plain: deque[node_pb2.AgentMessage] = deque()
        self._ready = asyncio.Event()

    def put(self, message: node_pb2.AgentMessage, *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._plain).append(message)
        self._ready.set()

    async def get(self) -> node_pb2.AgentMessage:
        while not self._urgent and not self._plain:
            self._ready.clear()
            await self._ready.wait()
        return (self._urgent or self._plain).popleft()


Connect = Callable[[str], grpc.aio.Channel]


class ControlPlane:
    """Keeps a session with whoever leads.

    Args:
        members: gRPC addresses to begin with.
        connect: makes a channel to an address with the node's certificate of the moment.
        handler: see `Handler`; called from this task only.
    """

    def __init__(
        self,
        members: Sequence[str],
        connect: Connect,
        handler: Handler,
        lease: Lease,
        metrics: NodeMetrics,
        clock: Clock,
        entropy: Entropy,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.members = list(members)
        self.lease = lease
        self.connected = False
        self.channel: grpc.aio.Channel | None = None
        self._connect = connect
        self._handler = handler
        self._metrics = metrics
        self._clock = clock
        self._entropy = entropy
        self._sleep = sleep
        self._outbox: Outbox | None = None
        self._sequence = 0

    def send(self, message: node_pb2.AgentMessage) -> bool:
        """Send in the present session; False when there is none."""
        if self._outbox is None or not self.connected:
            return False
        self._outbox.put(message)
        return True

    async def run(self) -> None:
        """Hold sessions until cancelled."""
        at, leader, failures = 0, "", 0
        while True:
            target = leader or self.members[at % len(self.members)]
            welcomed, leader, problem = await self._session(target)
            failures = 0 if welcomed or leader else failures + 1
            if not leader:
                at += 1
            if problem:
                level = logging.INFO if leader or failures < len(self.members) else logging.WARNING
                log.log(level, "no session with %s: %s", target, problem)
            if leader:
                if leader not in self.members:
                    self.members.append(leader)
                if leader != target:
                    continue
                leader = ""
            pause = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures, 10))
            await self._sleep(pause * (0.5 + self._entropy.jitter() / 2))

    async def _session(self, target: str) -> tuple[bool, str, str]:
        """One session. Answers whether it was ever up, the leader to dial instead ("" : unknown) and why it ended."""
        began = self._clock.monotonic()
        self.channel = channel = self._connect(target)
        call = node_pb2_grpc.NodeGatewayStub(channel).Session()
        outbox = self._outbox = Outbox()
        outbox.put(node_pb2.AgentMessage(hello=self._handler.hello()))
        tasks: list[asyncio.Task[Any]] = []
        welcomed = False
        try:
            tasks.append(asyncio.create_task(_write(call, outbox)))
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                first = await call.read()
            if first is grpc.aio.EOF:
                await _raise_status(call)
                return False, "", "the member ended the session without a word"
            welcome = first.welcome
            self.lease.lease_s = welcome.lease_seconds
            self.lease.acknowledged = max(self.lease.acknowledged, began)  # the leader counts the Hello as a heartbeat
            await self._handler.welcomed(welcome)
            welcomed = self.connected = True
            self._metrics.session.set(1)
            self._metrics.sessions.inc()
            log.info("session with %s is up", target)
            tasks.append(asyncio.create_task(self._heartbeats(outbox, welcome.heartbeat_seconds or 1.0)))
            tasks.append(asyncio.create_task(self._read(call)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await _raise_status(call)
        except grpc.aio.AioRpcError as error:
            trailing = error.trailing_metadata() or ()
            leader = next((str(value) for key, value in trailing if key == LEADER_KEY), "")
            return welcomed, leader, ApiError.from_rpc(error).message
        except TimeoutError as error:
            return welcomed, "", str(error) or "it did not welcome the node in time"
        else:
            return welcomed, "", "the member ended the session"
        finally:
            self.connected = False
            self._outbox = None
            self.channel = None
            self.lease.forget()
            self._metrics.session.set(0)
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if welcomed:
                self._handler.disconnected()
            with suppress(Exception):
                await channel.close()

    async def _heartbeats(self, outbox: Outbox, period: float) -> None:
        """Send heartbeats; TimeoutError when none is acknowledged for too long."""
        began = due = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            silent = now - max(self.lease.acknowledged, began)
            if silent > SILENT_HEARTBEATS * period:
                raise TimeoutError(f"no heartbeat was acknowledged for {silent:.1f} s")
            if now >= due:
                due = now + period
                self._sequence += 1
                self.lease.sent(self._sequence, now)
                outbox.put(node_pb2.AgentMessage(heartbeat=node_pb2.Heartbeat(sequence=self._sequence)), urgent=True)
            await self._sleep(period / LOOKS_PER_HEARTBEAT)

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "heartbeat_ack":
                    sent = self.lease.confirm(message.heartbeat_ack.sequence)
                    if sent is not None:
                        self._metrics.heartbeat.observe(self._clock.monotonic() - sent)
                        self._handler.heartbeat_acked()
                case "changes":
                    self._handler.changes(message.changes)
                case "status_ack":
                    self._handler.status_ack(message.status_ack)
                case "open_stream":
                    if self.channel is not None:
                        self._handler.open_stream(message.open_stream, self.channel)


async def _write(call: Any, outbox: Outbox) -> None:
    while True:
        await call.write(await outbox.get())


async def _raise_status(call: Any) -> None:
    """Raise what the server ended the call with, if it is an error."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
        )
