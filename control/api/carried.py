"""The leader's end of the streams on which the other members bring their clients' writes (see `carrier`).

Every write is a task of its own, as if it had come by a call of its own: it has its caller, its deadline, its outcome
and its place in the metrics, and a slow one holds up none. Answers that are ready together leave in one message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc.aio
from google.protobuf.message import Message

from control import metrics
from control.api import forwarding_pb2 as fpb
from control.api import forwarding_pb2_grpc as rpc
from control.api.handlers import Handlers
from control.identity import Caller
from control.rpc import Gatekeeper, Pen, refuse
from steersman.clock import Clock
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

log = logging.getLogger("control.api")

MESSAGE_BYTES: Final = 1 << 20  # of answers gathered into one message

Method = tuple[type[Message], Callable[[Any, Caller], Awaitable[Message]]]


class ForwardingServicer(rpc.ForwardingServicer):
    """What the other members call; `close` ends their streams once what they brought is answered."""

    def __init__(self, handlers: Handlers, gatekeeper: Gatekeeper, clock: Clock) -> None:
        self._methods: Mapping[str, Method] = {
            "Create": (pb.CreateRequest, handlers.create),
            "Update": (pb.UpdateRequest, handlers.update),
            "Apply": (pb.ApplyRequest, handlers.apply),
            "Patch": (pb.PatchRequest, handlers.patch),
            "Delete": (pb.DeleteRequest, handlers.delete),
        }
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._streams: set[_Stream] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on a member's gRPC port."""
        rpc.add_ForwardingServicer_to_server(self, server)

    # gRPC takes a coroutine that writes to its context as well as a generator.
    async def Carry(self, _requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802 - gRPC's name
        try:
            peer = self._gatekeeper.caller(context)
            if not peer.is_member or peer.via:
                raise ApiError(
                    "Forbidden", f'user "{peer.user}" cannot speak for others: only members forward requests'
                )
        except ApiError as error:
            await refuse(context, error)
        stream = _Stream(self._methods, peer, self._clock)
        self._streams.add(stream)
        try:
            await stream.serve(context)
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """Read no more calls. For a member that stops: streams would otherwise hold its server up."""
        for stream in self._streams:
            stream.close()


class _Stream:
    """One member's stream."""

    def __init__(self, methods: Mapping[str, Method], peer: Caller, clock: Clock) -> None:
        self._methods = methods
        self._peer = peer
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self._answers: list[fpb.Answer] = []
        self._wake = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def serve(self, context: Any) -> None:
        """Carry out what comes until the stream ends, then answer what is still under way."""
        self._reading = asyncio.create_task(self._read(context))
        pen = Pen(context)
        writing = asyncio.create_task(self._write(pen))
        try:
            await asyncio.wait((self._reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if self._running:
                await asyncio.wait(self._running)
            if not writing.done():  # else the peer is gone
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                await pen.settled()
                while self._answers:
                    await pen.write(self._gathered())
        finally:
            for task in (self._reading, writing, *self._running):
                task.cancel()
            await asyncio.gather(self._reading, writing, return_exceptions=True)
            await pen.settled()

    async def _read(self, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            for call in message.calls:
                task = asyncio.create_task(self._carry_out(call))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _write(self, pen: Pen) -> None:
        while True:
            if not self._answers:
                self._wake.clear()
                await self._wake.wait()
            await pen.write(self._gathered())

    def _gathered(self) -> fpb.Answers:
        size = count = 0
        while count < len(self._answers) and size < MESSAGE_BYTES:
            size += len(self._answers[count].response)
            count += 1
        answers, self._answers = self._answers[:count], self._answers[count:]
        return fpb.Answers(answers=answers)

    async def _carry_out(self, call: fpb.Call) -> None:
        started = self._clock.monotonic()
        code = "OK"
        answer = fpb.Answer(number=call.number)
        try:
            answer.response = (await self._respond(call)).SerializeToString()
        except ApiError as error:
            code = error.reason
            answer.error = error.to_proto().SerializeToString()
        except Exception:
            log.exception("%s failed", call.method)
            code = "InternalError"
            problem = ApiError("InternalError", f"internal error in {call.method}: the leader's log has the details")
            answer.error = problem.to_proto().SerializeToString()
        metrics.observe("grpc", call.method, code, self._clock.monotonic() - started)
        self._answers.append(answer)
        self._wake.set()

    async def _respond(self, call: fpb.Call) -> Message:
        found = self._methods.get(call.method)
        if found is None:
            raise ApiError("MethodNotAllowed", f"the leader does not know the method {call.method}: is it older?")
        kind, handler = found
        caller = Caller(call.user, frozenset(call.groups), via=self._peer.user, request_id=call.request_id)
        try:
            async with asyncio.timeout(call.timeout_ms / 1000):
                return await handler(kind.FromString(call.request), caller)
        except TimeoutError:
            raise ApiError(
                "Timeout", f"{call.method} was not done in time: it may or may not be done", retry_after=1
            ) from None
