"""Tells the control plane what became of the pods: coalesced, acknowledged, never twice the same.

A change waits a moment for others (somebody waits for urgent ones, so their moment is short), then one report carries
them all, each pod's newest status once. One report is under way at a time, so while the log is slow reports grow
larger instead of more. What was acknowledged is remembered and not sent again; what was not acknowledged when a
session ended is sent in the next one. Events travel in reports of their own and never hold up a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from node.metrics import NodeMetrics
from steersman.v1 import node_pb2

URGENT_WINDOW_S = 0.015  # readiness, ends: long enough to gather what happens together, too short to be noticed
PLAIN_WINDOW_S = 0.25  # intermediate states that are mostly overtaken before anybody reads them
EVENT_WINDOW_S = 1.0  # events are for people; later is cheaper
MAX_EVENTS = 200  # in one report
KEPT_EVENTS = 2_000  # waiting for a session; beyond that the oldest are dropped


@dataclass(frozen=True, slots=True)
class Observation:
    """A pod's status as it would be reported now."""

    namespace: str
    name: str
    uid: str
    status: bytes
    terminated: bool
    observed_revision: int


class Reporter:
    """`observe(uid)` gives a pod's observation, None for one that is gone; `send` sends, False without a session."""

    def __init__(
        self,
        observe: Callable[[str], Observation | None],
        send: Callable[[node_pb2.AgentMessage], bool],
        metrics: NodeMetrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._observe = observe
        self._send = send
        self._metrics = metrics
        self._sleep = sleep
        self._dirty: dict[str, None] = {}
        self._urgent = asyncio.Event()
        self._any = asyncio.Event()
        self._told: dict[str, tuple[bytes, bool]] = {}  # what the control plane acknowledged, by uid
        self._flight: dict[str, tuple[bytes, bool]] = {}
        self._awaited = 0  # sequence of the report under way; 0: none
        self._free = asyncio.Event()
        self._free.set()
        self._sequence = 0
        self._events: list[bytes] = []
        self._events_ready = asyncio.Event()
        self._events_flight: tuple[int, list[bytes]] = (0, [])
        self._node_status: bytes | None = None

    # --- what is to be told ---

    def changed(self, uid: str, urgent: bool) -> None:
        """A pod's state changed."""
        self._dirty[uid] = None
        self._any.set()
        if urgent:
            self._urgent.set()

    def node_changed(self, status: bytes) -> None:
        """The node's own status changed."""
        self._node_status = status
        self._any.set()
        self._urgent.set()

    def event(self, document: bytes) -> None:
        self._events.append(document)
        if len(self._events) > KEPT_EVENTS:
            del self._events[: len(self._events) - KEPT_EVENTS]
        self._events_ready.set()

    def forget(self, uid: str) -> None:
        """The pod is gone from here and from the API."""
        self._dirty.pop(uid, None)
        self._told.pop(uid, None)

    # --- sessions ---

    def begin(self, uids: list[str]) -> None:
        """A session is up: everything is told anew, because what the last one had under way is not known."""
        self._told.clear()
        self._flight.clear()
        self._awaited = 0
        number, events = self._events_flight
        if number:
            self._events[:0] = events
            self._events_flight = (0, [])
        if self._events:
            self._events_ready.set()
        self._free.set()
        for uid in uids:
            self.changed(uid, urgent=True)

    def acknowledged(self, ack: node_pb2.StatusAck) -> None:
        """A report's writes are in the log, or were refused for good."""
        if ack.sequence == self._events_flight[0]:
            self._events_flight = (0, [])
            self._events_ready.set()
        if ack.sequence == self._awaited:
            self._told.update(self._flight)
            self._flight = {}
            self._awaited = 0
            self._free.set()

    # --- the tasks ---

    async def run(self) -> None:
        """Report statuses until cancelled."""
        while True:
            await self._any.wait()
            await self._free.wait()
            await self._gather()
            self._any.clear()
            self._urgent.clear()
            report = self._report()
            if report is None:
                continue
            self._free.clear()
            if not self._send(node_pb2.AgentMessage(status=report)):
                self._flight = {}  # the next session begins with everything
                self._awaited = 0

    async def _gather(self) -> None:
        """Let a moment pass in which more may change."""
        if not self._urgent.is_set():
            plain = asyncio.ensure_future(self._sleep(PLAIN_WINDOW_S))
            urgent = asyncio.ensure_future(self._urgent.wait())
            await asyncio.wait({plain, urgent}, return_when=asyncio.FIRST_COMPLETED)
            plain.cancel()
            urgent.cancel()
            if not self._urgent.is_set():
                return
        await self._sleep(URGENT_WINDOW_S)

    def _report(self) -> node_pb2.StatusReport | None:
        dirty, self._dirty = self._dirty, {}
        node, self._node_status = self._node_status, None
        report = node_pb2.StatusReport(node_status_json=node or b"")
        for uid in dirty:
            seen = self._observe(uid)
            if seen is None or self._told.get(uid) == (seen.status, seen.terminated):
                continue
            self._flight[uid] = (seen.status, seen.terminated)
            report.pods.add(
                namespace=seen.namespace,
                name=seen.name,
                uid=seen.uid,
                status_json=seen.status,
                terminated=seen.terminated,
                observed_revision=seen.observed_revision,
            )
        if not report.pods and not node:
            return None
        self._sequence += 1
        report.sequence = self._awaited = self._sequence
        self._metrics.reports.inc(len(report.pods))
        return report

    async def run_events(self) -> None:
        """Report events until cancelled."""
        while True:
            await self._events_ready.wait()
            await self._sleep(EVENT_WINDOW_S)
            self._events_ready.clear()
            if self._events_flight[0] or not self._events:
                continue
            batch, self._events = self._events[:MAX_EVENTS], self._events[MAX_EVENTS:]
            self._sequence += 1
            report = node_pb2.StatusReport(sequence=self._sequence, events_json=batch)
            if self._send(node_pb2.AgentMessage(status=report)):
                self._events_flight = (self._sequence, batch)
            else:
                self._events[:0] = batch
            if len(self._events) >= MAX_EVENTS:
                self._events_ready.set()
