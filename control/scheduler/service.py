"""The scheduler's loop: watch, take a batch of pods, decide, bind them all in one call.

What is decided counts at once in the node table (assumed) and is confirmed by the watch. A binding that is refused takes
the pod off its node again and retries it after a back-off, unless the watch shows it bound or gone. A pod that fits
nowhere gets the condition PodScheduled=False with the explanation, an event FailedScheduling, and sleeps in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from control.events import Recorder
from control.scheduler.decide import Decision, Profile, Refused, Verdicts, schedule
from control.scheduler.explain import NO_NODES, explain
from control.scheduler.nodes import NodeTable
from control.scheduler.plugin import Change
from control.scheduler.pod import PodFacts, facts
from control.scheduler.queue import SchedulingQueue, Waiting
from control.views import Pod
from steersman import ApiError, AsyncClient, Cache
from steersman.clock import Clock, rfc3339
from steersman.types import Node
from steersman.types.core import ObjectReference
from steersman.types.meta import Condition
from steersman.v1 import objects_pb2 as pb

log = logging.getLogger(__name__)

NAME = "scheduler"
COMPONENT = "default-scheduler"  # the source of its events, as kubectl users know it
BATCH_MAX = 128  # pods per round: 50 ms of decisions at 1,000 nodes, between two yields to other work
MESSAGE_MAX = 1_000

ATTEMPTS = Counter("steersman_scheduler_attempts_total", "Decisions by result", ["profile", "result"])
REFUSALS = Counter("steersman_scheduler_refusals_total", "Unschedulable decisions by reason", ["plugin", "reason"])
DECISION = Histogram(
    "steersman_scheduler_decision_seconds",
    "Time to decide about one pod (mean of a round)",
    buckets=(0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
)
LATENCY = Histogram(
    "steersman_scheduler_pod_seconds",
    "From a pod's arrival in the queue to its binding",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0),
)
PENDING = Gauge("steersman_scheduler_pending_pods", "Pods without a node", ["queue"])


class Scheduler:
    """Places pods of its profiles; pods that name another scheduler are left alone."""

    def __init__(
        self,
        client: AsyncClient,
        pods: Cache[Pod],
        nodes: Cache[Node],
        recorder: Recorder,
        clock: Clock,
        profiles: Sequence[Profile] = (Profile(),),
    ) -> None:
        self.nodes = NodeTable()
        self._client = client.acting_as(NAME)
        self._pod_cache = pods
        self._node_cache = nodes
        self._recorder = recorder
        self._clock = clock
        self._profiles: Mapping[str, Profile] = {profile.name: profile for profile in profiles}
        self.queue = SchedulingQueue(clock, [rule for profile in profiles for rule in profile.filters])
        self._verdicts = {profile.name: Verdicts() for profile in profiles}
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Subscribe to the caches; call it when they are synced."""
        self._node_cache.subscribe(self._node_changed)
        self._pod_cache.subscribe(self._pod_changed)

    # --- watching ---

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            assert old is not None
            self.nodes.remove_node(old.name)
            return
        change = _node_change(old, new)
        if change:
            self.nodes.set_node(new)
            self._rouse(change)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if new is None or new.finished:
            self.queue.remove(pod.uid)
            if self.nodes.remove(pod.uid):
                self._rouse(Change.POD_REMOVED)
        elif new.spec.node_name:
            self.queue.remove(new.uid)
            fresh = new.uid not in self.nodes.pods
            if fresh or old is None or _placing_differs(old, new):
                self.nodes.place(facts(new), new.spec.node_name)
                self._rouse(Change.POD_PLACED if fresh else Change.POD_REMOVED)
        elif new.deleting or new.spec.scheduling_gates or new.spec.scheduler_name not in self._profiles:
            self.queue.remove(new.uid)
        elif new.uid in self.nodes.pods:
            pass  # assumed: its binding is under way
        elif new.uid in self.queue and old is not None and old.spec == new.spec and _same_labels(old, new):
            self.queue.refresh(facts(new))
        else:
            self.queue.add(facts(new))
            self._wake.set()

    def _rouse(self, change: Change) -> None:
        if self.queue.wake(change):
            self._wake.set()

    # --- deciding ---

    async def run(self) -> None:
        """Place pods until cancelled."""
        while True:
            if await self.round():
                await asyncio.sleep(0)
                continue
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), self.queue.next_delay())
            except TimeoutError:
                self.queue.wake_stale()

    async def round(self) -> bool:
        """Decide about a batch of pods and carry it out; answers whether there were any."""
        taken = self.queue.take(BATCH_MAX)
        for name, length in self.queue.lengths().items():
            PENDING.labels(name).set(length)
        if not taken:
            return False
        began = self._clock.monotonic()
        decided: list[tuple[Waiting, Decision]] = []
        for one in taken:
            profile = self._profiles[one.pod.scheduler]
            (decision,) = schedule(self.nodes, (one.pod,), profile, self._verdicts[profile.name])
            decided.append((one, decision))
            if not decision.node:
                self.queue.refused(one, decision.plugins)
        DECISION.observe((self._clock.monotonic() - began) / len(taken))
        await self._carry_out(decided)
        return True

    async def _carry_out(self, decided: Sequence[tuple[Waiting, Decision]]) -> None:
        writes: list[tuple[Waiting, Decision, Any]] = []
        for one, decision in decided:
            ATTEMPTS.labels(one.pod.scheduler, "scheduled" if decision.node else "unschedulable").inc()
            if decision.node:
                writes.append((one, decision, self._binding(one.pod, decision.node)))
            else:
                request = self._refusal(one.pod, decision)
                if request is not None:
                    writes.append((one, decision, request))
        if not writes:
            return
        try:
            results = await self._client.batch([request for _, _, request in writes])
        except ApiError as error:
            log.info("%d bindings failed together: %s", len(writes), error)
            for one, decision, _ in writes:
                self._unbound(one, decision, error)
            return
        now = self._clock.monotonic()
        for (one, decision, _), result in zip(writes, results, strict=True):
            if result.error is not None:
                self._unbound(one, decision, result.error)
            elif decision.node:
                self.queue.remove(one.pod.uid)
                LATENCY.observe(now - one.since)
                message = f"Successfully assigned {one.pod.key} to {decision.node}"
                self._recorder.record(_about(one.pod), "Normal", "Scheduled", message, cause=one.pod.revision)

    def _binding(self, pod: PodFacts, node: str) -> pb.CreateRequest:
        document = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        return self._client.create_request(
            document, pod.namespace, subresource="binding", name=pod.name, cause=pod.revision
        )

    def _unbound(self, one: Waiting, decision: Decision, error: ApiError) -> None:
        """A write failed. The cache may know better meanwhile: then the pod is bound or gone, and nothing is left to do."""
        if not decision.node:
            return  # only its condition was not written; the event tells the same
        ATTEMPTS.labels(one.pod.scheduler, "error").inc()
        log.info("binding %s to %s was refused: %s", one.pod.key, decision.node, error)
        current = self._pod_cache.get(one.pod.namespace, one.pod.name)
        if current is None or current.uid != one.pod.uid or current.spec.node_name:
            if current is None or current.uid != one.pod.uid:
                self.nodes.remove(one.pod.uid)
            self.queue.remove(one.pod.uid)
            return
        self.nodes.remove(one.pod.uid)
        self.queue.failed(one)
        self._rouse(Change.POD_REMOVED)
        self._wake.set()

    def _refusal(self, pod: PodFacts, decision: Decision) -> pb.PatchRequest | None:
        """Say why: an event each time, the condition when it says something else than before."""
        for refused in decision.refused or (Refused("", NO_NODES, 0, kind=NO_NODES),):
            REFUSALS.labels(refused.plugin, refused.kind).inc()
        message = explain(decision)[:MESSAGE_MAX]
        self._recorder.record(_about(pod), "Warning", "FailedScheduling", message, cause=pod.revision)
        current = self._pod_cache.get(pod.namespace, pod.name)
        told = current.condition("PodScheduled") if current is not None else None
        if told is not None and (told.status, told.message) == ("False", message):
            return None
        since = told.last_transition_time if told is not None and told.status == "False" else ""
        condition = Condition(
            type="PodScheduled",
            status="False",
            reason="Unschedulable",
            message=message,
            last_transition_time=since or rfc3339(self._clock.now()),
        )
        return self._client.patch_request(
            "v1/Pod",
            pod.name,
            {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition.to_dict()]}},
            pod.namespace,
            format="strategic",
            subresource="status",
            cause=pod.revision,
        )


def _about(pod: PodFacts) -> ObjectReference:
    return ObjectReference(
        api_version="v1",
        kind="Pod",
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        resource_version=str(pod.revision),
    )


def _same_labels(old: Pod, new: Pod) -> bool:
    return old.metadata.labels == new.metadata.labels


def _placing_differs(old: Pod, new: Pod) -> bool:
    return old.spec != new.spec or old.deleting != new.deleting or not _same_labels(old, new)


def _node_change(old: Node | None, new: Node) -> Change:
    """What of a node changed that matters here; nothing for most status reports."""
    if old is None:
        return Change.NODE_ADDED
    change = Change(0)
    if old.metadata.labels != new.metadata.labels:
        change |= Change.NODE_LABELS
    if old.spec.taints != new.spec.taints or old.spec.unschedulable != new.spec.unschedulable:
        change |= Change.NODE_TAINTS
    if old.status.allocatable != new.status.allocatable:
        change |= Change.NODE_ALLOCATABLE
    return change
