"""gRPC without a wire: calls between simulated processes, failing as gRPC's do.

A process that is off refuses connections (nothing was sent); one that dies breaks the calls under way; a cut link swallows
what is on it until keep-alive gives the connection up or the deadline passes. The server's side of a call is cancelled
when its caller is gone. Messages are copied by writing and reading them, as on the wire. A stream's answers come in order,
a few under way at a time, so a slow reader is felt by the writer.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message

from control.identity import AUTHENTICATED, MASTERS, Caller, member, speaking_for
from control.rpc import Gatekeeper
from tests.sim.store.loop import SimLoop

KEEPALIVE_MS = 1500.0  # a connection over a cut link is given up after that
WINDOW = 4  # answers of a stream under way
UNAVAILABLE, DEADLINE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED


def failure(code: grpc.StatusCode, details: str, trailer: Any = ()) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*trailer)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=details, debug_error_string=details)


class Credentials(NamedTuple):
    """Who dials, in which world: stands for certificates, which are tested elsewhere."""

    world: Any
    loop: SimLoop
    name: str


def secure_channel(address: str, credentials: Credentials, **_: Any) -> Channel:
    """Stands for `grpc.aio.secure_channel`."""
    return Channel(*credentials, address)


class SimGatekeeper(Gatekeeper):
    """Believes what a call says of its sender."""

    def caller(self, context: Any) -> Caller:
        known = context.sender in context.members
        peer = member(context.sender) if known else Caller("admin", frozenset((MASTERS, AUTHENTICATED)))
        return speaking_for(peer, context.metadata)


class Context:
    """What a servicer sees of a call."""

    def __init__(self, loop: SimLoop, sender: str, members: Any, metadata: Any, deadline: float | None) -> None:
        self._loop = loop
        self._deadline = deadline
        self.sender = sender
        self.members = members
        self.metadata = tuple(metadata or ())
        self.read: Callable[[], Coroutine[Any, Any, Any]]  # of calls that stream both ways
        self.write: Callable[[Any], Coroutine[Any, Any, None]]

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - self._loop.time()

    async def abort(self, code: grpc.StatusCode, details: str, trailer: Any = ()) -> None:
        raise failure(code, details, trailer)


class Channel:
    """A connection to one process, as generated stubs use it."""

    def __init__(self, world: Any, loop: SimLoop, sender: str, receiver: str) -> None:
        self.world, self.loop, self.sender, self.receiver = world, loop, sender, receiver
        self._streams: list[StreamCall | DuplexCall] = []

    def unary_unary(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        return lambda request, timeout=None, metadata=(), **_: unary(self, path, _copy(request), timeout, metadata)

    def unary_stream(self, path: str, *_: Any, **__: Any) -> Callable[..., StreamCall]:
        return lambda request, timeout=None, metadata=(), **_: self._kept(
            StreamCall(self, path, _copy(request), timeout, metadata)
        )

    def stream_stream(self, path: str, *_: Any, **__: Any) -> Callable[..., DuplexCall]:
        return lambda timeout=None, metadata=(), **_: self._kept(DuplexCall(self, path, timeout, metadata))

    def stream_unary(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        raise AssertionError(path)

    def _kept(self, call: Any) -> Any:
        self._streams.append(call)
        return call

    async def close(self, grace: float | None = None) -> None:
        if grace:
            await asyncio.sleep(grace)
        for call in self._streams:
            call.cancel()


class Connection:
    """One call on its way: what gets through, and what happens when something does not."""

    def __init__(self, channel: Channel, path: str, broken: Callable[[grpc.aio.AioRpcError], None]) -> None:
        self._world, self._sender, self._receiver = channel.world, channel.sender, channel.receiver
        self._broken = broken
        self._service, _, self._method = path.removeprefix("/").rpartition("/")
        self.process: SimLoop = self._world.members[self._receiver].loop
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False
        self._disconnect = self.process.connect(lambda: self.give_up("Socket closed", 1.0))
        self._last_arrival = {self._sender: 0.0, self._receiver: 0.0}

    def start(
        self, metadata: Any, timeout: float | None, work: Callable[[Any, Context], Coroutine[Any, Any, None]]
    ) -> None:
        """Let the receiver work on the call when it gets there."""
        process, world = self.process, self._world

        def arrive() -> None:
            if not self._ended and not process.dead:
                deadline = None if timeout is None else process.time() + timeout
                context = Context(process, self._sender, world.members, metadata, deadline)
                method = getattr(world.members[self._receiver].servicers[self._service], self._method)
                process.do(lambda: self._tasks.append(process.create_task(work(method, context))))

        self._pass(self._sender, self._receiver, arrive)

    def answer(self, action: Callable[[], None]) -> None:
        """Have something arrive at the caller."""
        self._pass(self._receiver, self._sender, action)

    def ask(self, action: Callable[[], None]) -> None:
        """Have something arrive at the receiver."""
        self._pass(self._sender, self._receiver, action)

    def _pass(self, sender: str, receiver: str, action: Callable[[], None]) -> None:
        delay = self._world.travel_ms(sender, receiver)
        if delay is None:
            self.give_up("keepalive watchdog timeout", KEEPALIVE_MS)
            self._last_arrival[receiver] = math.inf  # what is lost on the way holds up all that follows
        elif self._last_arrival[receiver] != math.inf:
            at = self._last_arrival[receiver] = max(self._last_arrival[receiver] + 0.001, self._world.now_ms + delay)
            self._world.after(at - self._world.now_ms, action)

    def give_up(self, why: str, delay_ms: float) -> None:
        self._world.after(delay_ms, lambda: None if self._ended else self._broken(failure(UNAVAILABLE, why)))

    def end(self) -> None:
        """The caller has what it wanted, or has gone: the receiver stops working on it."""
        if not self._ended:
            self._ended = True
            self._disconnect()
            self._world.after(1.0, self._cancel)

    def _cancel(self) -> None:
        for task in self._tasks:
            self.process.do(task.cancel)


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


async def unary(channel: Channel, path: str, request: Message, timeout: float | None, metadata: Any) -> Any:
    """One answer."""
    loop = channel.loop
    if not channel.world.is_up(channel.receiver):
        await asyncio.sleep(0.001)
        raise failure(UNAVAILABLE, "failed to connect to all addresses: connection refused")
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(outcome: Any) -> None:
        if not answer.done():
            loop.do(answer.set_result, outcome)

    async def work(method: Any, context: Context) -> None:
        outcome: Any
        try:
            outcome = _copy(await method(request, context))
        except grpc.aio.AioRpcError as error:
            outcome = error
        connection.answer(lambda: settle(outcome))

    connection = Connection(channel, path, settle)
    connection.start(metadata, timeout, work)
    try:
        async with asyncio.timeout(timeout):
            outcome = await answer
    except TimeoutError:
        raise failure(DEADLINE, "Deadline Exceeded") from None
    finally:
        connection.end()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class StreamCall:
    """A stream of answers."""

    def __init__(self, channel: Channel, path: str, request: Message, timeout: float | None, metadata: Any) -> None:
        self._world, self._loop = channel.world, channel.loop
        self._arrived: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._room = WINDOW
        self._blocked: asyncio.Future[None] | None = None  # of the server
        self._connection: Connection | None = None
        if not channel.world.is_up(channel.receiver):
            self._deliver(failure(UNAVAILABLE, "failed to connect to all addresses: connection refused"))
            return
        self._connection = connection = Connection(channel, path, self._deliver)

        async def work(method: Any, context: Context) -> None:
            end = failure(UNAVAILABLE, "the stream ended")
            try:
                async with aclosing(method(request, context)) as answers:
                    async for answer in answers:
                        while self._room <= 0:
                            self._blocked = asyncio.get_running_loop().create_future()
                            await self._blocked
                        self._room -= 1
                        connection.answer(partial(self._deliver, _copy(answer)))
            except grpc.aio.AioRpcError as error:
                end = error
            connection.answer(lambda: self._deliver(end))

        connection.start(metadata, timeout, work)

    def _deliver(self, outcome: Any) -> None:
        if not self._ended:
            self._ended = isinstance(outcome, BaseException)
            self._arrived.append(outcome)
            if self._waiter is not None and not self._waiter.done():
                self._loop.do(self._waiter.set_result, None)

    def __aiter__(self) -> StreamCall:
        return self

    async def __anext__(self) -> Any:
        while not self._arrived:
            self._waiter = self._loop.create_future()
            await self._waiter
        outcome = self._arrived.popleft()
        if isinstance(outcome, BaseException):
            raise outcome
        self._world.after(1.0, self._make_room)
        return outcome

    def _make_room(self) -> None:
        self._room += 1
        blocked, self._blocked = self._blocked, None
        if blocked is not None and not blocked.done() and self._connection is not None:
            self._connection.process.do(blocked.set_result, None)

    def cancel(self) -> None:
        self._ended = True
        if self._connection is not None:
            self._connection.end()


class Pipe:
    """One direction of a stream, as its reader sees it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._arrived: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Any) -> None:
        self._arrived.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._loop.do(self._waiter.set_result, None)

    async def get(self) -> Any:
        while not self._arrived:
            self._waiter = self._loop.create_future()
            await self._waiter
        item = self._arrived[0]
        if isinstance(item, BaseException):
            raise item  # again at every later call
        if item is not grpc.aio.EOF:
            self._arrived.popleft()
        return item


class DuplexCall:
    """A stream of requests and a stream of answers."""

    def __init__(self, channel: Channel, path: str, timeout: float | None, metadata: Any) -> None:
        self._answers = Pipe(channel.loop)
        self._error: grpc.aio.AioRpcError | None = None
        self._connection: Connection | None = None
        if not channel.world.is_up(channel.receiver):
            self._break(failure(UNAVAILABLE, "failed to connect to all addresses: connection refused"))
            return
        self._connection = connection = Connection(channel, path, self._break)
        self._requests = requests = Pipe(connection.process)

        async def work(method: Any, context: Context) -> None:
            async def write(answer: Any) -> None:
                connection.answer(partial(self._answers.put, _copy(answer)))

            context.read, context.write = requests.get, write
            end: Any = grpc.aio.EOF
            try:
                await method(None, context)
            except grpc.aio.AioRpcError as error:
                end = error
            connection.answer(lambda: self._answers.put(end))

        connection.start(metadata, timeout, work)

    def _break(self, error: grpc.aio.AioRpcError) -> None:
        self._error = self._error or error
        self._answers.put(error)

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0.001)
        if self._error is not None:
            raise self._error

    async def write(self, request: Any) -> None:
        if self._error is not None:
            raise self._error
        assert self._connection is not None
        self._connection.ask(partial(self._requests.put, _copy(request)))

    async def read(self) -> Any:
        return await self._answers.get()

    def cancel(self) -> None:
        if self._connection is not None:
            self._connection.end()
