"""What agents observed becomes writes: many sessions' reports share one trip through the log.

Reports that arrive within a few milliseconds of each other are written by one batch, and while a batch is in the log
the next one gathers. Every write carries the uid and the revision that it builds on, taken from the caches: a pod's
status is replaced whole but for the conditions that others write, and when somebody else wrote meanwhile it is built
again on the newer object. A report about a pod that is gone, or about another one of the same name, is answered with an
error and forgotten.

What is written here has the authority of the control plane, so an agent chooses nothing but what is its own: the status of
pods bound to its node, of its Node, and Events. Whatever else a report holds is refused, and no report can stop the writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.gateway.documents import AGENT_CONDITIONS, NodeDocument, PodDocument
from control.gateway.feed import Feeds
from steersman.client import AsyncClient, WriteResult
from steersman.errors import ApiError, conflict, forbidden, not_found
from steersman.types import Event, Pod
from steersman.v1 import node_pb2
from steersman.v1 import objects_pb2 as pb

log = logging.getLogger(__name__)

WINDOW_S = 0.005  # how long the first report of a batch waits for others
MAX_WRITES = 500  # in one batch; the API takes 1,000
RETRY_S = 0.1  # before writes that the log could not take are tried again
TRANSIENT = ("ServiceUnavailable", "Timeout", "TooManyRequests")  # refusals that say nothing about the write itself
ATTEMPTS = 5  # at building a status on an object that others change meanwhile
NODE_CONDITIONS = frozenset({"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"})  # the agent's

# What reading a report of the wrong shape raises; nothing else of an agent's is run.
UNREADABLE = (msgspec.MsgspecError, ValueError, AttributeError, TypeError, LookupError, RecursionError)

Write = pb.CreateRequest | pb.UpdateRequest | pb.DeleteRequest


@dataclass(slots=True, eq=False)
class _Intent:
    """One write of one report: `build` makes it from the newest state, or raises ApiError when it is pointless."""

    build: Callable[[], Write | None]
    report: _Pending
    then: _Intent | None = None  # to be written after this one succeeded
    attempts: int = 0


@dataclass(slots=True)
class _Pending:
    sequence: int
    acknowledge: Callable[[node_pb2.StatusAck], None]
    left: int = 0
    revision: int = 0
    errors: list[pb.Status] = field(default_factory=list)


class StatusWriter:
    """Writes reports. `submit` never waits; the acknowledgement comes when the writes are in the log."""

    def __init__(
        self, client: AsyncClient, feeds: Feeds, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._client = client
        self._feeds = feeds
        self._sleep = sleep
        self._waiting: list[_Intent] = []
        self._ready = asyncio.Event()

    def submit(
        self, node: str, report: node_pb2.StatusReport, acknowledge: Callable[[node_pb2.StatusAck], None]
    ) -> None:
        """Take in a report of a node's agent."""
        pending = _Pending(report.sequence, acknowledge)
        intents = [_Intent(self._pod(node, status), pending) for status in report.pods if not status.terminated]
        intents += [self._terminated(node, status, pending) for status in report.pods if status.terminated]
        if report.node_status_json:
            intents.append(_Intent(self._node(node, report.node_status_json), pending))
        intents += [_Intent(self._event(node, document), pending) for document in report.events_json]
        pending.left = len(intents)
        if not intents:
            acknowledge(node_pb2.StatusAck(sequence=report.sequence))
            return
        self._waiting += intents
        self._ready.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._ready.wait()
            await self._sleep(WINDOW_S)
            batch, self._waiting = self._waiting[:MAX_WRITES], self._waiting[MAX_WRITES:]
            if not self._waiting:
                self._ready.clear()
            await self._write(batch)

    # --- one batch ---

    async def _write(self, batch: list[_Intent]) -> None:
        writes: list[Write] = []
        written: list[_Intent] = []
        for intent in batch:
            try:
                write = intent.build()
            except ApiError as error:
                self._done(intent, error=error)
            except UNREADABLE as error:
                self._done(intent, error=ApiError("BadRequest", f"the agent's report does not parse: {error}"))
            else:
                if write is None:
                    self._done(intent)
                else:
                    writes.append(write)
                    written.append(intent)
        if not writes:
            return
        try:
            results: list[WriteResult] = await self._client.batch(writes)
        except ApiError as error:
            # The log is slow or full, or another member leads by now: then this writer ends soon.
            log.warning("%d status writes wait: %s", len(writes), error.message)
            self._waiting[:0] = written
            self._ready.set()
            await self._sleep(RETRY_S)
            return
        again = [i for i, result in zip(written, results, strict=True) if _repeat(i, result.error)]
        for intent, result in zip(written, results, strict=True):
            if intent not in again:
                revision = result.object.revision if result.object is not None else 0
                self._done(intent, error=result.error, revision=revision)
        if again:
            self._waiting[:0] = again
            self._ready.set()
            if len(again) == len(written):
                await self._sleep(RETRY_S)

    def _done(self, intent: _Intent, *, error: ApiError | None = None, revision: int = 0) -> None:
        report = intent.report
        report.revision = max(report.revision, revision)
        if error is not None and not (error.reason == "NotFound" and intent.then is None):
            report.errors.append(error.to_proto())
        if error is None and intent.then is not None:
            self._waiting.append(intent.then)
            self._ready.set()
            return
        report.left -= 1
        if report.left == 0:
            report.acknowledge(
                node_pb2.StatusAck(sequence=report.sequence, revision=report.revision, errors=report.errors)
            )

    # --- what is written ---

    def _held(self, node: str, status: node_pb2.PodStatus) -> PodDocument:
        """The pod as the cache shows it. Raises ApiError when the report is about none, or about another."""
        held = self._feeds.pods.get(status.namespace, status.name)
        if held is None:
            raise not_found("pods", status.name)
        if held.uid != status.uid:
            raise conflict("pods", status.name, f"the report is about uid {status.uid}, the pod has {held.uid}")
        if held.node_name != node:
            raise conflict("pods", status.name, f'it is bound to node "{held.node_name}", not to "{node}"')
        return held

    def _pod(self, node: str, status: node_pb2.PodStatus) -> Callable[[], Write | None]:
        def build() -> Write:
            held = self._held(node, status)
            body: dict[str, Any] = msgspec.json.decode(held.raw)
            reported: dict[str, Any] = msgspec.json.decode(status.status_json)
            foreign = held.foreign_conditions()
            own = [c for c in reported.get("conditions") or () if c.get("type") in AGENT_CONDITIONS]
            body["status"] = {**reported, "conditions": [*own, *foreign]}
            return pb.UpdateRequest(
                object=pb.Object(json=msgspec.json.encode(body)),
                subresource="status",
                options=_options(node, status.observed_revision),
            )

        return build

    def _terminated(self, node: str, status: node_pb2.PodStatus, pending: _Pending) -> _Intent:
        """Nothing is left of a pod on its node: a deleted one may go, its last status first when finalizers hold it."""

        def remove() -> Write:
            self._held(node, status)
            request = self._client.delete_request(
                Pod, status.name, status.namespace, grace=0, uid=status.uid, cause=status.observed_revision
            )
            request.options.CopyFrom(_options(node, status.observed_revision))
            return request

        held = self._feeds.pods.get(status.namespace, status.name)
        deletion = _Intent(remove, pending)
        if held is not None and held.metadata.finalizers:
            return _Intent(self._pod(node, status), pending, then=deletion)
        return deletion

    def _node(self, node: str, status_json: bytes) -> Callable[[], Write | None]:
        def build() -> Write | None:
            held = self._feeds.nodes.get("", node)
            if held is None:
                raise not_found("nodes", node)
            return node_status_request(node, held, status_json)

        return build

    def _event(self, node: str, document: bytes) -> _EventWrite:
        return _EventWrite(self._client, node, document)


def _repeat(intent: _Intent, problem: ApiError | None) -> bool:
    """Whether a refused write is to be built again on the newer state."""
    if problem is None:
        return False
    if problem.reason in TRANSIENT:
        return True  # the agent counts on an acknowledgement: it does not tell the same twice
    if intent.attempts >= ATTEMPTS:
        return False
    intent.attempts += 1
    if problem.reason == "Conflict":
        return True
    if isinstance(intent.build, _EventWrite) and problem.reason in ("AlreadyExists", "NotFound"):
        intent.build.exists = problem.reason == "AlreadyExists"
        return True
    return False


class _Kind(msgspec.Struct, gc=False, rename="camel"):
    api_version: str
    kind: str


_kind = msgspec.json.Decoder(_Kind)


class _EventWrite:
    """An Event: created when it is new, replaced (with its higher count) when it was told before."""

    def __init__(self, client: AsyncClient, node: str, document: bytes) -> None:
        self._client = client
        self._node = node
        self._document = document
        self.exists: bool | None = None

    def __call__(self) -> Write | None:
        told = _kind.decode(self._document)
        if (told.api_version, told.kind) != (Event.API_VERSION, Event.KIND):
            raise forbidden("events", "", f"a report of events holds a {told.api_version} {told.kind}")
        event = Event.decode(self._document)
        if self.exists is None:
            self.exists = event.count > 1
        if self.exists:
            return pb.UpdateRequest(object=pb.Object(json=self._document), options=_options(self._node, 0))
        return pb.CreateRequest(
            object=pb.Object(json=self._document), namespace=event.namespace, options=_options(self._node, 0)
        )


def _options(node: str, observed: int) -> pb.WriteOptions:
    return pb.WriteOptions(
        field_manager="kubelet",
        field_validation=pb.WriteOptions.IGNORE,
        cause=pb.Cause(revision=observed, actor=f"node:{node}"),
    )


def node_status_request(node: str, held: NodeDocument, status_json: bytes) -> pb.UpdateRequest | None:
    """The write that makes a node's status what its agent says, conditions of others kept; None when it is that already."""
    reported: dict[str, Any] = msgspec.json.decode(status_json)
    body: dict[str, Any] = msgspec.json.decode(held.raw)
    old: dict[str, Any] = body.get("status") or {}
    foreign = [c for c in old.get("conditions") or () if c.get("type") not in NODE_CONDITIONS]
    own = [c for c in reported.get("conditions") or () if c.get("type") in NODE_CONDITIONS]
    body["status"] = {**old, **reported, "conditions": [*own, *foreign]}
    if _timeless(body["status"]) == _timeless(old):
        return None
    return pb.UpdateRequest(
        object=pb.Object(json=msgspec.json.encode(body)), subresource="status", options=_options(node, 0)
    )


def _timeless(status: dict[str, Any]) -> dict[str, Any]:
    """A node status without the times at which it was observed."""
    conditions = [{k: v for k, v in c.items() if k != "lastHeartbeatTime"} for c in status.get("conditions") or ()]
    return {**status, "conditions": sorted(conditions, key=lambda c: str(c.get("type")))}
