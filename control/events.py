"""Events: what controllers tell people about objects, counted and rate limited.

`record` only notes; `flush` writes what was noted in one batch. The same event about the same object again raises the
count of the one that exists. More than `SIMILAR` different messages of one reason about one object are told as one
event "(combined from similar events)". Each object has a budget of events; what is over it is dropped and counted.
Events are best effort: a write that fails is dropped, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Counter

from steersman import AsyncClient
from steersman.clock import Clock, Entropy, rfc3339
from steersman.errors import ApiError
from steersman.types import KubeObject
from steersman.types.core import ObjectReference
from steersman.v1 import objects_pb2 as pb

log = logging.getLogger(__name__)

REMEMBERED = 4096  # series kept in memory; a forgotten one begins again with count 1
SIMILAR = 10  # different messages per object and reason before they are combined (client-go's figure)
SIMILAR_WINDOW_S = 600.0
BURST = 25  # events about one object at once, then one per REFILL_S (client-go's figures)
REFILL_S = 300.0
PENDING_MAX = 5_000  # events noted but not written; a cluster that stalls longer loses the newest
COALESCE_S = 0.05  # wait this long after the first of a burst, so that it becomes one batch
BATCH_MAX = 200  # writes per call: about 100 ms of the API's time
MESSAGE_MAX = 1_024  # bytes the API allows

DROPPED = Counter("steersman_events_dropped_total", "Events that were not written", ["component", "why"])
RECORDED = Counter("steersman_events_recorded_total", "Events noted for writing", ["component", "reason"])


class Recorder(Protocol):
    """Where events go."""

    def record(
        self,
        about: ObjectReference,
        kind: str,
        reason: str,
        message: str,
        *,
        cause: int = 0,
    ) -> None: ...


def reference(obj: KubeObject) -> ObjectReference:
    """How an event names an object."""
    return ObjectReference(
        api_version=obj.API_VERSION,
        kind=obj.KIND,
        namespace=obj.namespace,
        name=obj.name,
        uid=obj.uid,
        resource_version=obj.metadata.resource_version,
    )


@dataclass(slots=True)
class _Series:
    """One Event object: how often it was told and whether it exists."""

    name: str
    first: str
    count: int = 0
    stored: bool = False


@dataclass(slots=True)
class _Similar:
    since: float
    messages: set[str]


@dataclass(slots=True)
class _Budget:
    tokens: float
    at: float


class EventRecorder:
    """Writes Event objects in the name of one component."""

    def __init__(self, client: AsyncClient, component: str, clock: Clock, entropy: Entropy) -> None:
        self.component = component
        self._client = client.acting_as(component)
        self._clock = clock
        self._entropy = entropy
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._pending: OrderedDict[tuple[str, ...], tuple[ObjectReference, str, str, str, int]] = OrderedDict()
        self._wake = asyncio.Event()

    def record(
        self,
        about: ObjectReference,
        kind: str,
        reason: str,
        message: str,
        *,
        cause: int = 0,
    ) -> None:
        """Note an event; `kind` is its type, Normal or Warning."""
        now = self._clock.monotonic()
        owner = about.uid or f"{about.kind}/{about.namespace}/{about.name}"
        message = self._combined((owner, kind, reason), message[:MESSAGE_MAX], now)
        key = (owner, kind, reason, message)
        if key not in self._pending:
            if not self._affordable(owner, now):
                DROPPED.labels(self.component, "rate").inc()
                return
            if len(self._pending) >= PENDING_MAX:
                DROPPED.labels(self.component, "backlog").inc()
                return
        RECORDED.labels(self.component, reason).inc()
        series = _recent(self._series, key)
        if series is None:
            name = f"{about.name[:200]}.{self._entropy.suffix(16)}"
            series = self._series[key] = _Series(name, rfc3339(self._clock.now()))
        series.count += 1
        self._pending[key] = (about, kind, reason, message, cause)
        self._wake.set()

    def _combined(self, key: tuple[str, ...], message: str, now: float) -> str:
        similar = _recent(self._similar, key)
        if similar is None or now - similar.since > SIMILAR_WINDOW_S:
            similar = self._similar[key] = _Similar(now, set())
        if message in similar.messages or len(similar.messages) < SIMILAR:
            similar.messages.add(message)
            return message
        return f"(combined from similar events): {message}"[:MESSAGE_MAX]

    def _affordable(self, owner: str, now: float) -> bool:
        budget = _recent(self._budgets, owner)
        if budget is None:
            budget = self._budgets[owner] = _Budget(BURST, now)
        budget.tokens = min(BURST, budget.tokens + (now - budget.at) / REFILL_S)
        budget.at = now
        if budget.tokens < 1:
            return False
        budget.tokens -= 1
        return True

    async def flush(self) -> int:
        """Write what was noted; answers how many events."""
        self._wake.clear()
        written = 0
        while self._pending:
            taken = [self._pending.popitem(last=False) for _ in range(min(BATCH_MAX, len(self._pending)))]
            series = [self._series.setdefault(key, _Series(self._entropy.suffix(16), "")) for key, _ in taken]
            writes = [self._write(one, *noted) for one, (_, noted) in zip(series, taken, strict=True)]
            written += len(writes)
            try:
                results = await self._client.batch(writes)
            except ApiError as error:
                DROPPED.labels(self.component, "unwritten").inc(len(writes))
                log.debug("events were not written: %s", error)
                continue
            for one, (key, _), result in zip(series, taken, results, strict=True):
                if result.error is None:
                    one.stored = True
                else:  # expired meanwhile, or its namespace is going: the next one starts afresh
                    self._series.pop(key, None)
                    DROPPED.labels(self.component, "refused").inc()
        return written

    def _write(
        self, series: _Series, about: ObjectReference, kind: str, reason: str, message: str, cause: int
    ) -> pb.CreateRequest | pb.PatchRequest:
        now = rfc3339(self._clock.now())
        namespace = about.namespace or "default"
        if series.stored:
            patch = {"count": series.count, "lastTimestamp": now}
            return self._client.patch_request("v1/Event", series.name, patch, namespace, cause=cause)
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": namespace},
            "involvedObject": about.to_dict(),
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": "",
            "firstTimestamp": series.first or now,
            "lastTimestamp": now,
            "count": series.count,
        }
        return self._client.create_request(document, namespace, cause=cause)

    async def run(self) -> None:
        """Write events as they are noted, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
            await self.flush()


@dataclass(slots=True)
class MemoryRecorder:
    """Keeps events in a list: for tests and the simulator."""

    events: list[tuple[ObjectReference, str, str, str]]

    def record(
        self,
        about: ObjectReference,
        kind: str,
        reason: str,
        message: str,
        *,
        cause: int = 0,  # noqa: ARG002
    ) -> None:
        self.events.append((about, kind, reason, message))

    def reasons(self) -> Sequence[str]:
        """The reasons recorded, in order."""
        return [reason for _, _, reason, _ in self.events]


def _recent(cache: OrderedDict[Any, Any], key: Any) -> Any:
    """Look up and mark as used; forgets the least used when there are too many."""
    found = cache.get(key)
    if found is not None:
        cache.move_to_end(key)
    elif len(cache) >= REMEMBERED:
        cache.popitem(last=False)
    return found
