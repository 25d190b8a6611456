"""The runtime against a transport that answers as told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.controllers.intents import WARNING, Create, Delete, Failure, RecordEvent, Result
from control.controllers.runtime import ControllerRuntime
from control.events import MemoryRecorder
from steersman import ApiError, AsyncClient
from steersman.clock import ManualClock
from steersman.types.core import ObjectReference
from steersman.v1 import objects_pb2 as pb

ABOUT = ObjectReference(kind="ReplicaSet", name="rs", uid="u")


class Answers:
    """A transport whose batches succeed at rising revisions, but for those that `refuse` names."""

    def __init__(self) -> None:
        self.batches: list[pb.BatchRequest] = []
        self.refuse: dict[str, ApiError] = {}
        self.down: ApiError | None = None
        self.revision = 100

    async def unary(self, service: str, method: str, request: Any, **_: Any) -> Any:
        if self.down is not None:
            raise self.down
        self.batches.append(request)
        answer = pb.BatchResponse()
        for write in request.writes:
            kind = write.WhichOneof("write")
            if kind in self.refuse:
                answer.results.add(error=self.refuse[kind].to_proto())
                continue
            self.revision += 1
            made = pb.WriteResponse(object=pb.Object(name=f"made-{self.revision}", revision=self.revision), outcome=1)
            answer.results.add(response=made)
        return answer


class Shown:
    """A cache that says how far it is."""

    def __init__(self) -> None:
        self.revision = 0
        self.waited: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    async def reached(self, revision: int) -> None:
        self.waited.append(revision)
        await self.open.wait()


class Scripted:
    name = "scripted-controller"

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.failures: list[Failure | None] = []

    def watch(self, enqueue: Any) -> None:
        enqueue("key", 7)

    async def observe(self, key: str, failure: Failure | None) -> str:
        self.failures.append(failure)
        return key

    def reconcile(self, view: str, now: Any) -> Result:
        return self.results.pop(0) if self.results else Result()


def pods(count: int) -> Result:
    done = RecordEvent(ABOUT, "Normal", "SuccessfulCreate", "Created pod: {name}")
    failed = RecordEvent(ABOUT, WARNING, "FailedCreate", "Error creating: ")
    return Result((Create({"kind": "Pod", "metadata": {}}, "default", done, failed),) * count)


@pytest.fixture
def parts() -> Any:
    answers, shown, recorder, clock = Answers(), Shown(), MemoryRecorder([]), ManualClock()

    def build(*results: Result) -> Any:
        controller = Scripted(*results)
        client = AsyncClient(answers)  # type: ignore[arg-type]
        runtime: Any = ControllerRuntime(controller, client, {"Pod": shown}, recorder, clock)  # type: ignore[dict-item]
        runtime.start()
        return runtime, controller, answers, shown, recorder, clock

    return build


async def test_a_round_is_one_batch_that_carries_its_cause(parts: Any) -> None:
    runtime, _, answers, shown, recorder, _ = parts(pods(3))
    assert await runtime.round()
    (batch,) = answers.batches
    assert {(w.create.options.cause.revision, w.create.options.cause.actor) for w in batch.writes} == {
        (7, "scripted-controller")
    }
    assert shown.waited == [103], "the cache must show the last write before the next decision"
    assert next(message for *_, message in recorder.events) == "Created pod: made-101"
    assert not await runtime.round()


async def test_no_decision_before_the_cache_shows_the_last_writes(parts: Any) -> None:
    runtime, controller, _, shown, _, _ = parts(pods(1))
    shown.open.clear()
    first = asyncio.create_task(runtime.round())
    while not shown.waited:
        await asyncio.sleep(0)
    runtime.enqueue("key", 9)
    await asyncio.sleep(0)
    assert len(controller.failures) == 1
    shown.open.set()
    await first
    await runtime.round()
    assert len(controller.failures) == 2


async def test_a_refusal_reaches_the_next_decision_and_is_dropped_after_success(parts: Any) -> None:
    runtime, controller, answers, _, recorder, clock = parts(pods(1), pods(1), Result())
    answers.refuse["create"] = ApiError("Forbidden", "exceeded quota")
    await runtime.round()
    assert recorder.events[-1][2:] == ("FailedCreate", "Error creating: exceeded quota")
    answers.refuse.clear()
    clock.advance(1)
    await runtime.round()
    await runtime.round()
    assert [f and f.message for f in controller.failures] == [None, "exceeded quota", None]


async def test_conflicts_are_retried_without_a_word(parts: Any) -> None:
    runtime, controller, answers, _, recorder, clock = parts(pods(1), pods(1))
    answers.refuse["create"] = ApiError("Conflict", "changed")
    await runtime.round()
    answers.refuse.clear()
    clock.advance(1)
    await runtime.round()
    assert controller.failures == [None, None]
    assert recorder.reasons() == ["SuccessfulCreate"]


async def test_what_is_gone_already_counts_as_deleted(parts: Any) -> None:
    runtime, _, answers, _, _, _ = parts(Result((Delete("v1/Pod", "p", "default"),)))
    answers.refuse["delete"] = ApiError("NotFound", "gone")
    await runtime.round()
    assert runtime.queue.next_delay() is None


async def test_without_a_leader_the_whole_round_comes_back(parts: Any) -> None:
    runtime, _, answers, _, _, clock = parts(pods(2), pods(2))
    answers.down = ApiError("ServiceUnavailable", "no leader")
    await runtime.round()
    answers.down = None
    clock.advance(1)
    await runtime.round()
    assert len(answers.batches[0].writes) == 2


async def test_an_exception_in_one_decision_spares_the_others(parts: Any) -> None:
    runtime, controller, answers, _, _, clock = parts()
    runtime.enqueue("other")

    def decide(view: str, now: Any) -> Result:
        if view == "key" and len(controller.failures) < 3:
            raise RuntimeError("a mistake")
        return pods(1)

    controller.reconcile = decide
    await runtime.round()
    assert len(answers.batches[0].writes) == 1
    clock.advance(1)
    await runtime.round()
    assert len(answers.batches) == 2


async def test_time_alone_brings_a_key_back(parts: Any) -> None:
    runtime, controller, _, _, _, clock = parts(Result(requeue_after=30.0))
    await runtime.round()
    assert runtime.queue.next_delay() == 30.0
    clock.advance(30)
    assert await runtime.round()
    assert len(controller.failures) == 2
