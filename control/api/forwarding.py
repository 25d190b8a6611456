"""To the leader: calls that only the leader can answer, from whichever member they came to.

A member that leads answers them itself. One that does not carries them over one kept channel, with its own certificate and
the caller's identity, which the leader believes because a member says it. Writes of single objects share a stream
(`carrier`); what is large or rare is a call of its own. While there is no leader the call waits, within its deadline, for one to be
elected.

What was certainly not done is tried again: nobody led, or the leader was never reached. A call that broke on its way back may
have been done. Then it is repeated only if that does no harm: reads, deletions, manifests, patches that set values, and creations,
which carry an identity (`request_id`) by which the next leader knows them again. The rest is answered with
Timeout, and the client looks for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from control import metrics
from control.api.carrier import CALL_BYTES, RESPONSES, BrokenError, Carrier
from control.api.errors import no_leader
from control.api.leadership import Leadership
from control.identity import Caller, forwarded_metadata
from steersman.clock import Clock, Entropy
from steersman.errors import DETAILS_KEY, ApiError
from steersman.transport import CHANNEL_OPTIONS
from steersman.v1 import cluster_pb2_grpc, encryption_pb2_grpc, objects_pb2_grpc
from steersman.v1 import objects_pb2 as pb

DEFAULT_DEADLINE_S: Final = 30.0  # of calls whose client set none
MARGIN_S: Final = 0.05  # kept back from the deadline, so that the answer "timeout" still arrives
OLD_CHANNEL_S: Final = 30.0  # how long calls under way may still use the channel to a former leader
FIRST_PAUSE_S, MAX_PAUSE_S = 0.02, 0.5  # between tries: an election takes about a second

Local = Callable[[Any, Caller], Awaitable[Any]]
Addresses = Callable[[str], str]  # a member's name -> its gRPC address; "" when not known yet

_STUBS: Final[Mapping[str, Any]] = {
    "Objects": objects_pb2_grpc.ObjectsStub,
    "Cluster": cluster_pb2_grpc.ClusterStub,
    "Encryption": encryption_pb2_grpc.EncryptionStub,
}
_CREATES: Final = frozenset(("Create",))
_REPEATABLE: Final = frozenset(
    (
        "Create",
        "Apply",
        "Delete",
        "Status",
        "ListJoinTokens",
        "Announce",
        "EncryptionStatus",
        "ReportEncryption",
        "RotateEncryption",
        "RevokeJoinToken",
        "Members",
        "AddMember",
        "PromoteMember",
    )
)


class LeaderLink:
    """The channel to whoever leads."""

    def __init__(
        self,
        leadership: Leadership,
        addresses: Addresses,
        credentials: Callable[[], grpc.ChannelCredentials],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._leadership = leadership
        self._addresses = addresses
        self._credentials = credentials
        self._clock = clock
        self._entropy = entropy
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._carrier: Carrier | None = None
        self._stubs: dict[str, Any] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._closing: list[asyncio.Future[None]] = []  # channels to former leaders

    async def call(
        self, service: str, method: str, request: Message, caller: Caller, local: Local, timeout: float | None
    ) -> Any:
        """Have the leader, here or elsewhere, answer one call. Raises ApiError."""
        deadline = self._clock.monotonic() + (DEFAULT_DEADLINE_S if timeout is None else timeout) - MARGIN_S
        if method in _CREATES:
            caller = replace(caller, request_id=caller.request_id or self._entropy.uid())
        pause, repeated = FIRST_PAUSE_S, False
        while True:
            changed = self._leadership.changed
            try:
                if self._leadership.is_self:
                    return await local(request, caller)
                if caller.via:
                    raise no_leader(self._leadership.leader)  # carried here by a member that erred: it asks again
                return await self._forward(service, method, request, caller, deadline)
            except ApiError as error:
                if repeated and _was_done(method, request, error):
                    return pb.WriteResponse(outcome=pb.WriteResponse.DELETED)
                problem = error
            except BrokenError as broken:
                repeated = repeated or not broken.never_sent
                if not broken.never_sent and not _is_repeatable(method, request):
                    raise _uncertain(method) from None
                problem = no_leader(self._leadership.leader, str(broken))
            if problem.reason != "ServiceUnavailable" or caller.via:
                raise problem  # a member that forwarded here tries again itself
            pause = await self._pause(changed, pause, deadline, problem)

    async def _pause(self, changed: asyncio.Event, pause: float, deadline: float, problem: ApiError) -> float:
        """Wait for another leader, or a little. Raises the problem when the deadline would pass."""
        left = deadline - self._clock.monotonic()
        wait = pause * (0.5 + self._entropy.jitter() / 2)
        if wait >= left:
            raise problem
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await changed.wait()
        return min(pause * 2, MAX_PAUSE_S)

    async def _forward(self, service: str, method: str, request: Message, caller: Caller, deadline: float) -> Any:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise ApiError("Timeout", f"{method} was not done in time: there was no leader to do it", retry_after=1)
        try:
            if method in RESPONSES and request.ByteSize() <= CALL_BYTES:
                answer = await self._carried().call(method, request, caller, left)
            else:
                answer = await self._alone(service, method, request, caller, left)
        except ApiError as problem:
            metrics.FORWARDED.labels(method, problem.reason).inc()
            raise
        except BrokenError:
            metrics.FORWARDED.labels(method, "ServiceUnavailable").inc()
            raise
        metrics.FORWARDED.labels(method, "OK").inc()
        return answer

    async def _alone(self, service: str, method: str, request: Message, caller: Caller, left: float) -> Any:
        """A unary call to the leader. Raises ApiError, BrokenError."""
        call = getattr(self._stub(service), method)
        metadata = forwarded_metadata(caller, caller.request_id)
        try:
            return await call(request, timeout=left, metadata=metadata)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC says so when the channel was closed under the call; passed on, it would end our own caller unanswered.
            raise BrokenError("the channel to the leader was closed", never_sent=False) from None
        except grpc.aio.AioRpcError as error:
            problem = ApiError.from_rpc(error)
            told = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
            if told or problem.reason != "ServiceUnavailable":
                raise problem from None
            text = f"{error.debug_error_string() or ''} {error.details() or ''}".lower()
            never_sent = "failed to connect" in text or "connection refused" in text
            raise BrokenError(f"the leader could not be reached: {error.details()}", never_sent=never_sent) from None

    def channel(self) -> grpc.aio.Channel | None:
        """The channel to the leader, for streams; None when this member leads, or none is known."""
        if self._leadership.is_self:
            return None
        try:
            return self._connected()
        except ApiError:
            return None

    async def close(self) -> None:
        """Close the channel."""
        carrier, channel = self._carrier, self._channel
        self._channel, self._carrier, self._stubs = None, None, {}
        for task in self._retiring:
            task.cancel()
        if carrier is not None:
            await carrier.close()
        if channel is not None:
            with suppress(Exception):
                await channel.close()

    def _connected(self) -> grpc.aio.Channel:
        leader = self._leadership.leader
        if leader == self._leadership.name:
            raise no_leader("", "this member is about to lead")
        address = self._addresses(leader) if leader else ""
        if not address:
            raise no_leader("", f"the address of {leader} is not known yet" if leader else "")
        if self._channel is None or address != self._address:
            self._leave()
            self._address = address
            self._channel = grpc.aio.secure_channel(address, self._credentials(), options=CHANNEL_OPTIONS)
        return self._channel

    def _leave(self) -> None:
        """Give the channel to a former leader up, once what is under way on it has ended."""
        if self._channel is not None:
            self._closing = [task for task in self._closing if not task.done()]
            self._closing.append(asyncio.ensure_future(self._channel.close(OLD_CHANNEL_S)))
        self._channel, self._carrier, self._stubs = None, None, {}

    def _carried(self) -> Carrier:
        channel = self._connected()
        if self._carrier is None or self._carrier.broken:
            self._carrier = Carrier(channel)
            task = asyncio.ensure_future(self._retire_deposed(self._carrier, self._leadership.leader))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return self._carrier

    async def _retire_deposed(self, carrier: Carrier, leader: str) -> None:
        """Do not let calls wait for a leader that was deposed: one that is cut off would keep them until their deadlines."""
        while True:
            changed = self._leadership.changed
            if carrier.broken or self._leadership.leader not in ("", leader):
                break
            await changed.wait()
        await carrier.retire()

    def _stub(self, service: str) -> Any:
        channel = self._connected()
        stub = self._stubs.get(service)
        if stub is None:
            stub = self._stubs[service] = _STUBS[service](channel)
        return stub


def _is_repeatable(method: str, request: Message) -> bool:
    if method == "Patch":
        assert isinstance(request, pb.PatchRequest)
        return request.format != pb.PatchRequest.JSON  # "add to a list" twice adds two
    return method in _REPEATABLE


def _was_done(method: str, request: Message, error: ApiError) -> bool:
    """Whether a refusal of a repeated call shows that the first try had done it."""
    return method == "Delete" and error.reason == "NotFound" and isinstance(request, pb.DeleteRequest)


def _uncertain(method: str) -> ApiError:
    return ApiError(
        "Timeout",
        f"the leader was lost while it worked on {method}: it may or may not be done; look before repeating it",
    )
