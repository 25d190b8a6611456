"""Many writes on one stream to the leader: each keeps its caller, its outcome, its deadline, and its certainty.

Both ends are the real ones; between them is a wire of queues.
"""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from control.api.carried import ForwardingServicer
from control.api.carrier import BrokenError, Carrier
from control.identity import AUTHENTICATED, MEMBERS, Caller
from steersman import ApiError
from steersman.clock import SystemClock
from steersman.errors import Cause
from steersman.v1 import objects_pb2 as pb

ALICE = Caller("alice", frozenset((AUTHENTICATED, "painters")), request_id="1-2-3")


class Wire:
    """A channel, the call on it, and the context at its other end."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue = asyncio.Queue()
        self.answers: asyncio.Queue = asyncio.Queue()
        self.connected = asyncio.Event()
        self.connected.set()
        self.sent = []

    def stream_stream(self, *_args, **_kwargs):
        return lambda: Call(self)

    async def read(self):
        return await self.calls.get()

    async def write(self, message):
        await self.answers.put(message)


class Call:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def wait_for_connection(self):
        await self.wire.connected.wait()

    async def write(self, message):
        self.wire.sent.append(message)
        await self.wire.calls.put(message)

    async def read(self):
        return await self.wire.answers.get()

    def cancel(self):
        self.wire.calls.put_nowait(grpc.aio.EOF)


class Leader:
    """Handlers whose answers the tests give."""

    def __init__(self) -> None:
        self.callers = []
        self.go = asyncio.Event()
        self.go.set()

    async def create(self, request, caller):
        self.callers.append(caller)
        name = request.object.name
        if name == "slow":
            await self.go.wait()
        if name == "bad":
            raise ApiError("Invalid", "no", causes=[Cause("FieldValueInvalid", "too blue", "spec.colour")])
        if name == "broken":
            raise RuntimeError("secret details")
        return pb.WriteResponse(object=pb.Object(name=name), outcome=pb.WriteResponse.CREATED)

    update = apply = patch = delete = create


class Gate:
    def __init__(self, peer: Caller) -> None:
        self.peer = peer

    def caller(self, _context):
        return self.peer


def servicer(leader: Leader, peer: str = "system:member:b") -> ForwardingServicer:
    return ForwardingServicer(leader, Gate(Caller(peer, frozenset((MEMBERS,)))), SystemClock())


def create(carrier: Carrier, name: str, timeout: float = 5.0):
    request = pb.CreateRequest(object=pb.Object(name=name))
    return asyncio.ensure_future(carrier.call("Create", request, ALICE, timeout))


@pytest.fixture
async def ends():
    wire, leader = Wire(), Leader()
    service = servicer(leader)
    serving = asyncio.ensure_future(service.Carry(None, wire))
    carrier = Carrier(wire)
    yield wire, leader, service, serving, carrier
    await carrier.close()
    await serving


async def test_each_write_has_its_own_outcome_and_caller(ends):
    _, leader, _, _, carrier = ends
    good, bad, broken = await asyncio.gather(
        *(create(carrier, name) for name in ("good", "bad", "broken")), return_exceptions=True
    )
    assert good.object.name == "good"
    assert (bad.reason, bad.causes[0].field) == ("Invalid", "spec.colour")
    assert broken.reason == "InternalError"
    assert "secret" not in str(broken)
    told = Caller("alice", ALICE.groups, via="system:member:b", request_id="1-2-3")
    assert leader.callers == [told] * 3


async def test_what_comes_together_travels_together_and_a_slow_write_holds_up_none(ends):
    wire, leader, _, _, carrier = ends
    leader.go.clear()
    slow, *rest = (create(carrier, name) for name in ("slow", "a", "b", "c"))
    assert [answer.object.name for answer in await asyncio.gather(*rest)] == ["a", "b", "c"]
    assert len(wire.sent) == 1
    assert not slow.done()
    leader.go.set()
    assert (await slow).object.name == "slow"


async def test_a_write_that_outlasts_its_deadline_is_told_to_be_uncertain(ends):
    _, leader, _, _, carrier = ends
    leader.go.clear()
    with pytest.raises(ApiError, match="may or may not be done") as late:
        await create(carrier, "slow", timeout=0.01)
    assert late.value.reason == "Timeout"
    assert (await create(carrier, "next")).object.name == "next"


async def test_a_broken_stream_tells_what_was_certainly_not_sent():
    wire = Wire()
    wire.connected.clear()
    carrier = Carrier(wire)
    unsent = create(carrier, "a")
    await asyncio.sleep(0)
    await carrier.close()
    with pytest.raises(BrokenError) as never:
        await unsent
    assert never.value.never_sent
    assert carrier.broken

    wire = Wire()
    carrier = Carrier(wire)
    sent = create(carrier, "b")
    await wire.calls.get()
    wire.answers.put_nowait(grpc.aio.EOF)
    with pytest.raises(BrokenError) as broken:
        await sent
    assert not broken.value.never_sent
    with pytest.raises(BrokenError) as later:
        await create(carrier, "c")
    assert later.value.never_sent


async def test_a_retiring_carrier_waits_for_the_former_leaders_last_answers(ends):
    _, leader, _, _, carrier = ends
    leader.go.clear()
    under_way = create(carrier, "slow")
    await asyncio.sleep(0)
    while not leader.callers:
        await asyncio.sleep(0)
    retired = asyncio.ensure_future(carrier.retire())
    await asyncio.sleep(0)
    assert carrier.broken
    leader.go.set()
    assert (await under_way).object.name == "slow"
    await retired


async def test_a_member_that_stops_answers_what_it_has_begun(ends):
    _, leader, service, serving, carrier = ends
    leader.go.clear()
    under_way = create(carrier, "slow")
    while not leader.callers:
        await asyncio.sleep(0)
    service.close()
    leader.go.set()
    assert (await under_way).object.name == "slow"
    await serving


@pytest.mark.parametrize("peer", [Caller("mallory", frozenset((AUTHENTICATED,)))])
async def test_only_members_may_speak_for_others(peer):
    class Context(Wire):
        async def abort(self, code, message, _details):
            raise PermissionError(f"{code.name}: {message}")

    with pytest.raises(PermissionError, match=r'PERMISSION_DENIED.*"mallory" cannot speak for others'):
        await ForwardingServicer(Leader(), Gate(peer), SystemClock()).Carry(None, Context())
