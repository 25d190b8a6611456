"""Runs a controller: rounds of observe, reconcile, write, catch up.

A round takes the keys that are due, lets the controller observe each from the watch caches, decides about each with
the pure `reconcile`, and carries all intents out in as few batches as they fit. Then it waits until the caches show
what the round wrote, so that no decision is ever made on a state older than the controller's own last writes (this
takes the place of Kubernetes' expectations). A watch that is down therefore pauses its controllers: deciding on a
stale view would create what exists already.

Failure: an intent that is refused sends its key back with a back-off and, as `Failure`, into the key's next decision,
which may write it into a status. What is gone already counts as deleted. No leader, or a call that failed as a whole,
retries every key of the round. An exception in one key's decision is logged and retried; the other keys go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from control.controllers.intents import (
    NOTHING,
    Create,
    Delete,
    Failure,
    Patch,
    RecordEvent,
    Result,
    UpdateStatus,
    Write,
)
from control.controllers.queue import WorkQueue
from control.events import Recorder
from steersman import ApiError, AsyncClient, Cache, WriteResult
from steersman.clock import Clock
from steersman.v1 import objects_pb2 as pb

log = logging.getLogger(__name__)

KEYS_PER_ROUND = 64  # decisions between two yields to the event loop's other work
BATCH_MAX = 200  # writes per call: about 100 ms of the API's time, so that others get their turn in between
STALE_WARNING_S = 10.0  # say so when a cache does not show our writes after this long

RECONCILE = Histogram(
    "steersman_controller_reconcile_seconds",
    "Time of one decision, observation included, writes not",
    ["controller"],
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
)
ROUND = Histogram(
    "steersman_controller_round_seconds",
    "Time of one round: decisions, writes, and the caches showing them",
    ["controller"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
DEPTH = Gauge("steersman_controller_queue_depth", "Keys that wait for a decision", ["controller"])
RETRIES = Counter("steersman_controller_retries_total", "Keys sent back after a failure", ["controller"])
WRITES = Counter("steersman_controller_writes_total", "Writes by their result", ["controller", "verb", "result"])

Key = TypeVar("Key", bound=Hashable)
Key_contra = TypeVar("Key_contra", bound=Hashable, contravariant=True)
View = TypeVar("View")
Enqueue = Callable[[Any, int], None]
Caches = Mapping[str, Cache[Any]]  # by kind


class Controller(Protocol[Key_contra, View]):
    """What the runtime needs of a controller."""

    name: str  # the actor of its writes, as "deployment-controller"

    def watch(self, enqueue: Enqueue) -> None:
        """Subscribe to caches so that every change that matters enqueues the keys that it matters to, with its revision."""
        ...

    async def observe(self, key: Key_contra, failure: Failure | None) -> View | None:
        """What the decision about `key` is made from; None: there is nothing to decide."""
        ...

    def reconcile(self, view: View, now: Any) -> Result:
        """Decide. Pure."""
        ...


class ControllerRuntime(Generic[Key, View]):
    """One running controller.

    Args:
        controller: what to run.
        client: where intents go; writes carry the controller's name as their actor.
        caches: by kind; those whose kind the controller writes are waited for.
    """

    def __init__(
        self, controller: Controller[Key, View], client: AsyncClient, caches: Caches, recorder: Recorder, clock: Clock
    ) -> None:
        self.name = controller.name
        self.queue: WorkQueue[Key] = WorkQueue(clock)
        self._controller = controller
        self._client = client.acting_as(controller.name)
        self._caches = caches
        self._recorder = recorder
        self._clock = clock
        self._wake = asyncio.Event()
        self._failures: dict[Key, Failure] = {}
        self._reconcile_time = RECONCILE.labels(self.name)
        self._round_time = ROUND.labels(self.name)
        self._depth = DEPTH.labels(self.name)
        self._retries = RETRIES.labels(self.name)

    def start(self) -> None:
        """Subscribe to the caches; call it when they are synced."""
        self._controller.watch(self.enqueue)

    def enqueue(self, key: Key, cause: int = 0) -> None:
        self.queue.add(key, cause)
        self._wake.set()

    async def run(self) -> None:
        """Run rounds until cancelled."""
        while True:
            if await self.round():
                await asyncio.sleep(0)
                continue
            self._wake.clear()
            delay = self.queue.next_delay()
            try:
                await asyncio.wait_for(self._wake.wait(), delay)
            except TimeoutError:
                pass

    async def round(self) -> bool:
        """Decide about the keys that are due; answers whether there were any."""
        taken = self.queue.take(KEYS_PER_ROUND)
        self._depth.set(len(self.queue))
        if not taken:
            return False
        began = self._clock.monotonic()
        writes: list[tuple[Key, int, Write]] = []
        requeue: dict[Key, float | None] = {}
        for key, cause in taken:
            result = await self._decide(key, cause)
            if result is None:
                continue
            requeue[key] = result.requeue_after
            for intent in result.intents:
                if isinstance(intent, RecordEvent):
                    self._record(intent, cause)
                else:
                    writes.append((key, cause, intent))
        failed = await self._execute(writes)
        for key, cause in taken:
            if key not in requeue:
                continue
            if key in failed:
                self._retry(key, cause, failed[key])
                continue
            self.queue.forget(key)
            if self._failures.pop(key, None) is not None:
                self.queue.add(key, cause)  # decide once more without the failure, so that a status can drop it
            elif (after := requeue[key]) is not None:
                self.queue.add_after(key, after, cause)
        self._round_time.observe(self._clock.monotonic() - began)
        return True

    async def _decide(self, key: Key, cause: int) -> Result | None:
        began = self._clock.monotonic()
        try:
            view = await self._controller.observe(key, self._failures.get(key))
            if view is None:
                self._failures.pop(key, None)
                return NOTHING
            result = self._controller.reconcile(view, self._clock.now())
        except ApiError as error:
            log.info("%s: cannot observe %s: %s", self.name, key, error)
            self._retry(key, cause, None)
            return None
        except Exception:
            log.exception("%s: the decision about %s failed", self.name, key)
            self._retry(key, cause, None)
            return None
        self._reconcile_time.observe(self._clock.monotonic() - began)
        for reason in result.reasons:
            log.debug("%s: %s: %s", self.name, key, reason)
        return result

    def _retry(self, key: Key, cause: int, failure: Failure | None) -> None:
        if failure is not None:
            self._failures[key] = failure
        self._retries.inc()
        self.queue.retry(key, cause)

    async def _execute(self, writes: Sequence[tuple[Key, int, Write]]) -> dict[Key, Failure | None]:
        """Carry intents out; answers the keys that must be retried, with what a status may say about it."""
        failed: dict[Key, Failure | None] = {}
        reached: dict[str, int] = {}
        for start in range(0, len(writes), BATCH_MAX):
            chunk = writes[start : start + BATCH_MAX]
            try:
                results = await self._client.batch([self._request(intent, cause) for _, cause, intent in chunk])
            except ApiError as error:
                log.info("%s: %d writes failed together: %s", self.name, len(chunk), error)
                failed.update((key, None) for key, _, _ in chunk)
                continue
            for (key, cause, intent), result in zip(chunk, results, strict=True):
                self._count(intent, result)
                if result.error is None:
                    if intent.kind_name in self._caches and result.object is not None:
                        revision = max(reached.get(intent.kind_name, 0), result.object.revision)
                        reached[intent.kind_name] = revision
                    self._tell(intent, result, cause)
                elif isinstance(intent, Delete) and result.error.reason == "NotFound":
                    continue
                else:
                    self._refused(key, intent, result.error, failed, cause)
        for kind, revision in reached.items():
            await self._caught_up(kind, revision)
        return failed

    def _refused(self, key: Key, intent: Write, error: ApiError, failed: dict[Key, Failure | None], cause: int) -> None:
        transient = error.reason in ("Conflict", "NotFound", "ServiceUnavailable", "Timeout")
        level = logging.DEBUG if transient else logging.INFO
        log.log(level, "%s: %s: %s was refused: %s", self.name, key, type(intent).__name__, error)
        if transient:
            failed.setdefault(key, None)
            return
        failed[key] = Failure.of(error, intent)
        complaint = None if isinstance(intent, UpdateStatus) else intent.failed
        if complaint is not None:
            text = f"{complaint.message}{error.message}"
            self._recorder.record(complaint.about, complaint.type, complaint.reason, text, cause=cause)

    async def _caught_up(self, kind: str, revision: int) -> None:
        waiting = asyncio.ensure_future(self._caches[kind].reached(revision))
        try:
            while not waiting.done():
                done, _ = await asyncio.wait((waiting,), timeout=STALE_WARNING_S)
                if not done:
                    log.warning("%s waits: the %s cache does not show revision %d yet", self.name, kind, revision)
        finally:
            waiting.cancel()

    def _request(self, intent: Write, cause: int) -> Any:
        client = self._client
        match intent:
            case Create():
                return client.create_request(intent.document, intent.namespace, cause=cause)
            case Patch():
                return client.patch_request(
                    intent.kind,
                    intent.name,
                    _preconditioned(intent),
                    intent.namespace,
                    format=intent.format,  # type: ignore[arg-type]
                    subresource=intent.subresource,
                    cause=cause,
                )
            case UpdateStatus():
                body: dict[str, Any] = {"status": intent.status}
                if intent.uid:
                    body["metadata"] = {"uid": intent.uid}
                return client.patch_request(
                    intent.kind, intent.name, body, intent.namespace, subresource="status", cause=cause
                )
            case Delete():
                return client.delete_request(
                    intent.kind,
                    intent.name,
                    intent.namespace,
                    propagation=intent.propagation,  # type: ignore[arg-type]
                    grace=intent.grace,
                    uid=intent.uid,
                    revision=intent.revision,
                    cause=cause,
                )

    def _tell(self, intent: Write, result: WriteResult, cause: int) -> None:
        if not isinstance(intent, UpdateStatus) and intent.done is not None:
            self._record(intent.done, cause, result.object)

    def _record(self, event: RecordEvent, cause: int, written: pb.Object | None = None) -> None:
        message = event.message.replace("{name}", written.name) if written is not None else event.message
        self._recorder.record(event.about, event.type, event.reason, message, cause=cause)

    def _count(self, intent: Write, result: WriteResult) -> None:
        outcome = result.outcome.lower() if result.error is None else result.error.reason
        WRITES.labels(self.name, type(intent).__name__.lower(), outcome).inc()


def _preconditioned(intent: Patch) -> Any:
    """The patch with the uid and revision that it insists on."""
    insists = {}
    if intent.uid:
        insists["uid"] = intent.uid
    if intent.revision:
        insists["resourceVersion"] = intent.revision
    if not insists:
        return intent.patch
    return {**intent.patch, "metadata": {**intent.patch.get("metadata", {}), **insists}}
