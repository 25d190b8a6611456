from __future__ import annotations

from typing import Any

import msgspec

from control.events import BURST, REFILL_S, SIMILAR, EventRecorder
from steersman import ApiError, AsyncClient
from steersman.clock import ManualClock, SeededEntropy
from steersman.types.core import ObjectReference
from steersman.v1 import objects_pb2 as pb


class Taken:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.refuse = False

    async def unary(self, service: str, method: str, request: Any, **_: Any) -> Any:
        answer = pb.BatchResponse()
        for write in request.writes:
            if self.refuse:
                answer.results.add(error=ApiError("NotFound", "gone").to_proto())
                continue
            self.writes.append(getattr(write, write.WhichOneof("write")))
            answer.results.add(response=pb.WriteResponse(outcome=1))
        return answer


def recorder() -> tuple[EventRecorder, Taken, ManualClock]:
    taken, clock = Taken(), ManualClock()
    client = AsyncClient(taken)  # type: ignore[arg-type]
    return EventRecorder(client, "tester", clock, SeededEntropy()), taken, clock


POD = ObjectReference(api_version="v1", kind="Pod", namespace="default", name="web", uid="u")


async def test_the_same_event_again_raises_its_count() -> None:
    events, taken, _ = recorder()
    events.record(POD, "Warning", "BackOff", "again")
    events.record(POD, "Warning", "BackOff", "again")
    assert await events.flush() == 1
    events.record(POD, "Warning", "BackOff", "again")
    await events.flush()
    create, patch = taken.writes
    document = msgspec.json.decode(create.object.json)
    assert (document["count"], document["involvedObject"]["name"]) == (2, "web")
    assert document["source"] == {"component": "tester"}
    assert patch.name == document["metadata"]["name"]
    assert msgspec.json.decode(patch.patch)["count"] == 3


async def test_many_different_messages_become_one_event() -> None:
    events, taken, _ = recorder()
    for number in range(SIMILAR + 5):
        events.record(POD, "Normal", "Pulled", f"image {number}")
    await events.flush()
    messages = [msgspec.json.decode(w.object.json)["message"] for w in taken.writes]
    assert sum(m.startswith("(combined from similar events)") for m in messages) == 5


async def test_one_object_has_a_budget_that_fills_again() -> None:
    events, taken, clock = recorder()
    for number in range(BURST + 10):
        events.record(POD, "Normal", f"Reason{number}", "x")
    await events.flush()
    assert len(taken.writes) == BURST
    clock.advance(REFILL_S)
    events.record(POD, "Normal", "Later", "x")
    await events.flush()
    assert len(taken.writes) == BURST + 1


async def test_an_event_that_is_gone_begins_again() -> None:
    events, taken, _ = recorder()
    events.record(POD, "Normal", "A", "x")
    await events.flush()
    taken.refuse = True
    events.record(POD, "Normal", "A", "x")
    await events.flush()
    taken.refuse = False
    events.record(POD, "Normal", "A", "x")
    await events.flush()
    assert [type(write) for write in taken.writes] == [pb.CreateRequest, pb.CreateRequest]
