"""The member's end of the stream on which writes travel to the leader, many to a message.

A unary gRPC call costs about 0.1 ms of processor time at each end, a message on an open stream a third of that, however many
writes it holds. So calls that come while a message is being written gather and leave together with the next, and the
answers come back in the same way: the busier a member is, the less a write costs.

A carrier serves one leader, over a channel that is not its own, and once: when its stream breaks, every call on it fails with
`BrokenError` (`never_sent` tells those that certainly were not done) and whoever made it makes another. When another
member leads, `retire` gives what was sent a moment to be answered by the old leader, which knows best what became of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from control.api import forwarding_pb2 as fpb
from control.api import forwarding_pb2_grpc as rpc
from control.identity import Caller
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

CALL_BYTES: Final = (
    256 << 10
)  # a request larger than this goes alone, as a unary call: small ones must not wait behind it
MESSAGE_BYTES: Final = (
    1 << 20
)  # what is gathered into one message: parsing it holds up the leader's loop for under a ms
CONNECT_TIMEOUT_S: Final = 2.0
LINGER_S: Final = 0.5  # for a deposed leader's last answers; a dead one must not hold its callers up for longer

RESPONSES: Final[Mapping[str, type[Message]]] = dict.fromkeys(
    ("Create", "Update", "Apply", "Patch", "Delete"), pb.WriteResponse
)


class BrokenError(Exception):
    """The connection failed; `never_sent`: before anything of the call left."""

    def __init__(self, message: str, *, never_sent: bool) -> None:
        super().__init__(message)
        self.never_sent = never_sent


class Carrier:
    """One stream to one leader."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._number = 0
        self._written = 0  # the newest call that may have left
        self._queue: deque[fpb.Call] = deque()
        self._waiting: dict[int, asyncio.Future[fpb.Answer]] = {}
        self._wake = asyncio.Event()
        self._ending = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent here any more."""
        return self._ending

    async def call(self, method: str, request: Message, caller: Caller, timeout: float) -> Any:
        """Have the leader carry out one write. Raises ApiError as the leader does, BrokenError."""
        if self._ending:
            raise BrokenError("the connection to the leader is closed", never_sent=True)
        self._number += 1
        number = self._number
        self._queue.append(
            fpb.Call(
                number=number,
                method=method,
                request=request.SerializeToString(),
                user=caller.user,
                groups=caller.groups,
                request_id=caller.request_id,
                timeout_ms=max(1, int(timeout * 1000)),
            )
        )
        self._wake.set()
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                answer = await answered
        except TimeoutError:
            raise ApiError(
                "Timeout", f"the leader did not answer {method} in time: it may or may not be done", retry_after=1
            ) from None
        finally:
            del self._waiting[number]
        if answer.WhichOneof("result") == "error":
            raise ApiError.from_proto(pb.Status.FromString(answer.error))
        return RESPONSES[method].FromString(answer.response)

    async def retire(self) -> None:
        """Take no more calls; let the leader answer those it has, for a moment."""
        self._ending = True
        self._fail("another member leads", after=self._written)
        if self._waiting:
            await asyncio.wait(self._waiting.values(), timeout=LINGER_S)
        await self.close()

    async def close(self) -> None:
        """End the stream; what waits on it fails."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- the stream ---

    async def _run(self) -> None:
        why = "the connection to the leader was closed"
        call = rpc.ForwardingStub(self._channel).Carry()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await call.wait_for_connection()
            why = await _first_problem(self._write(call), self._read(call))
        except grpc.aio.AioRpcError as error:
            why = f"the leader could not be reached: {error.details()}"
        except TimeoutError:
            why = f"the leader could not be reached within {CONNECT_TIMEOUT_S:g} s"
        finally:
            self._ending = True
            call.cancel()
            self._fail(why)

    async def _write(self, call: Any) -> None:
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            await call.write(self._gathered())

    def _gathered(self) -> fpb.Calls:
        calls: list[fpb.Call] = []
        size = 0
        while self._queue and size < MESSAGE_BYTES:
            call = self._queue.popleft()
            if call.number in self._waiting:  # else its caller is gone
                calls.append(call)
                size += len(call.request)
                self._written = call.number
        return fpb.Calls(calls=calls)

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            for answer in message.answers:
                answered = self._waiting.get(answer.number)
                if answered is not None and not answered.done():
                    answered.set_result(answer)

    def _fail(self, why: str, after: int = 0) -> None:
        """End the calls that wait, or those of them that are newer than number `after`."""
        for number, answered in self._waiting.items():
            if number > after and not answered.done():
                answered.set_exception(BrokenError(why, never_sent=number > self._written))


async def _first_problem(*works: Awaitable[None]) -> str:
    """Run the two directions of a stream until either ends; answer why it did.

    gRPC may end them by CancelledError, which a task group would take for their own wish.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                return f"the connection to the leader broke: {_told(error)}"
        return "the leader ended the connection"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _told(error: BaseException) -> str:
    return (error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)) or type(error).__name__
