"""Node life cycle: notice lost nodes, keep new pods off them, and replace the pods that were there.

Heartbeats stay in the leader's memory and come here as the seconds since the last one. A node is silent when that is
more than its lease plus a margin; a new leader, who has heard from nobody, counts from the start of its leadership.
A silent node's Ready becomes Unknown, its pods' Ready becomes False, and it gets the taint `unreachable`; its pods are
evicted when they tolerate that no longer (DefaultTolerationSeconds of admission).

Why a replacement never overlaps the lost pod: the agent stops a pod when the lease since its last acknowledged
heartbeat plus the pod's tolerationSeconds have passed. The taint is put no earlier than lease plus margin after that
heartbeat, with `timeAdded` rounded up, and the eviction waits for tolerationSeconds after it; so the pod was stopped at
least a margin before. Therefore pods of a silent node are removed with grace 0, also those that were terminating.
Unsafe if an agent's clock runs slower than ours by more than margin / (lease + toleration).

Kubernetes stops evicting when most nodes of a zone are silent at once, because its nodes may well be running their pods
and the control plane be the one that is cut off. Here the pods of a silent node have stopped whatever the cause, and so
many silent nodes change nothing about that: their pods are replaced, and wait as Pending while there is nowhere to go.

A node that is back reports its status again; the taints follow its Ready condition. Who writes what: Ready and the
pressure conditions are the agent's while it is heard from and ours while it is silent; the taints
`node.kubernetes.io/*` of the conditions and of `spec.unschedulable` are ours alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from control.controllers.intents import NORMAL, Delete, Failure, Patch, Plan, RecordEvent, Result
from control.controllers.runtime import Caches, Enqueue
from control.events import reference
from control.taints import NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE, eviction_time
from control.views import Pod
from steersman import ApiError, AsyncClient
from steersman.clock import Clock, rfc3339
from steersman.types import Node
from steersman.types.core import ObjectReference, Taint
from steersman.types.meta import Condition

NAME = "node-controller"
MARGIN_S = (
    2.0  # beyond the lease: covers the way of a heartbeat and the drift of clocks; lengthens fail-over by as much
)
CHECK_SLACK_S = 0.05  # look just after the lease ends, not just before
EVICTIONS_PER_ROUND = 200
HEARD_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
CONDITION_TAINTS = {  # condition type -> taint when it is True
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
OURS = frozenset((NOT_READY, UNREACHABLE, UNSCHEDULABLE, *CONDITION_TAINTS.values()))


class Heartbeats(Protocol):
    """What the gateway knows of nodes' sessions."""

    def last(self, node_name: str) -> float | None:
        """Monotonic seconds of the last heartbeat that this leader received; None when it received none."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """Attributes:
    name: the node's.
    node: None when pods are bound to a node that does not exist.
    pods: bound to it.
    silence: seconds since it was last heard from, or since this leader began.
    lease: seconds after its last acknowledged heartbeat that the agent may run pods.
    missing: seconds since it was first noticed that the node does not exist.
    """

    name: str
    node: Node | None
    pods: tuple[Pod, ...]
    silence: float
    lease: float
    missing: float = 0.0
    failure: Failure | None = field(default=None)


def reconcile(view: View, now: dt.datetime) -> Result:
    """Conditions, taints, evictions."""
    plan = Plan()
    if view.node is None:
        _remove_stranded(view, plan)
        return plan.result()
    grace = view.lease + MARGIN_S
    silent = view.silence >= grace
    status = _ready_status(view.node)
    lost = silent and status != "Unknown"
    if not silent:
        plan.again(grace - view.silence + CHECK_SLACK_S)
    taints = _taint(view.node, "Unknown" if lost else status, now, plan)  # first: it insists on the revision seen
    if lost:
        _mark_unknown(view, now, plan)
    if silent:
        _mark_pods_unready(view, now, plan)
    _evict(view, taints, silent, now, plan)
    return plan.result()


def _ready_status(node: Node) -> str:
    condition = node.condition("Ready")
    return condition.status if condition is not None else "False"


def _mark_unknown(view: View, now: dt.datetime, plan: Plan) -> None:
    node = view.node
    assert node is not None
    moment = rfc3339(now)
    told = []
    for kind in HEARD_CONDITIONS:
        old = node.condition(kind)
        if old is None and kind != "Ready":
            continue
        told.append(
            Condition(
                type=kind,
                status="Unknown",
                reason="NodeStatusUnknown",
                message=f"The node's agent sent no heartbeat for {view.silence:.0f} s.",
                last_transition_time=moment,
                last_heartbeat_time=old.last_heartbeat_time if old is not None else "",
            ).to_dict()
        )
    plan.add(
        Patch(
            Node,
            node.name,
            {"status": {"conditions": told}},
            format="strategic",
            subresource="status",
            uid=node.uid,
            done=RecordEvent(reference(node), NORMAL, "NodeNotReady", f"Node {node.name} status is now: NodeNotReady"),
        ),
        f"node {node.name} is lost: no heartbeat for {view.silence:.1f} s, its lease is {view.lease:g} s",
    )


def _taint(node: Node, ready: str, now: dt.datetime, plan: Plan) -> tuple[Taint, ...]:
    """Bring our taints in line with the conditions; answers the taints as they then are."""
    wanted: list[tuple[str, str]] = []
    if ready == "Unknown":
        wanted += [(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]
    elif ready == "False":
        wanted += [(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]
    if node.spec.unschedulable:
        wanted.append((UNSCHEDULABLE, NO_SCHEDULE))
    for kind, key in CONDITION_TAINTS.items():
        condition = node.condition(kind)
        if condition is not None and condition.status == "True":
            wanted.append((key, NO_SCHEDULE))
    present = {(taint.key, taint.effect): taint for taint in node.spec.taints}
    stay = [taint for taint in node.spec.taints if taint.key not in OURS or (taint.key, taint.effect) in wanted]
    added = [
        Taint(key=key, effect=effect, time_added=_rounded_up(now))
        for key, effect in wanted
        if (key, effect) not in present
    ]
    taints = (*stay, *added)
    if taints == node.spec.taints:
        return taints
    gone = [taint for taint in node.spec.taints if taint not in stay]
    said = [f"+{t.key}:{t.effect}" for t in added] + [f"-{t.key}:{t.effect}" for t in gone]
    plan.add(
        Patch(
            Node,
            node.name,
            {"spec": {"taints": [taint.to_dict() for taint in taints]}},
            uid=node.uid,
            revision=node.metadata.resource_version,
        ),
        f"taints of node {node.name}: {' '.join(said)}",
    )
    return taints


def _rounded_up(now: dt.datetime) -> str:
    """The next whole second: times are written in seconds, and an eviction must not come early."""
    return rfc3339(now if now.microsecond == 0 else now + dt.timedelta(seconds=1))


def _mark_pods_unready(view: View, now: dt.datetime, plan: Plan) -> None:
    """Take the pods out of their Services: nobody can say that they are well."""
    moment = rfc3339(now)
    for pod in view.pods:
        if not pod.ready or pod.finished:
            continue
        condition = Condition(
            type="Ready",
            status="False",
            reason="NodeNotReady",
            message=f"Node {view.name} is not heard from.",
            last_transition_time=moment,
        )
        plan.add(
            Patch(
                Pod,
                pod.name,
                {"status": {"conditions": [condition.to_dict()]}},
                pod.namespace,
                format="strategic",
                subresource="status",
                uid=pod.uid,
                done=RecordEvent(reference(pod), "Warning", "NodeNotReady", "Node is not ready"),
            ),
            f"pod {pod.namespace}/{pod.name} counts as not ready: node {view.name} is not",
        )


def _evict(view: View, taints: Sequence[Taint], silent: bool, now: dt.datetime, plan: Plan) -> None:
    executing = [taint for taint in taints if taint.effect == NO_EXECUTE]
    if not executing:
        return
    unreachable = any(taint.key == UNREACHABLE for taint in executing)
    if unreachable and not silent:
        return  # heard from again: the agent's next status lifts the taint
    evicted = 0
    for pod in sorted(view.pods, key=lambda p: p.key):
        if pod.deleting and not unreachable:
            continue
        at = eviction_time(pod.spec.tolerations, executing, now)
        if at is None:
            continue
        if at > now:
            plan.again((at - now).total_seconds())
            continue
        if evicted == EVICTIONS_PER_ROUND:
            plan.again(0.0)
            return
        evicted += 1
        _evict_pod(view, pod, unreachable, now, plan)


def _evict_pod(view: View, pod: Pod, unreachable: bool, now: dt.datetime, plan: Plan) -> None:
    about = ObjectReference(api_version="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid)
    if not unreachable:  # it stays until its agent has stopped it: say why it goes
        condition = Condition(
            type="DisruptionTarget",
            status="True",
            reason="DeletionByTaintManager",
            message="Taint manager: deleting due to NoExecute taint",
            last_transition_time=rfc3339(now),
        )
        plan.add(
            Patch(
                Pod,
                pod.name,
                {"status": {"conditions": [condition.to_dict()]}},
                pod.namespace,
                format="strategic",
                subresource="status",
                uid=pod.uid,
            )
        )
    message = f"Marking for deletion Pod {pod.namespace}/{pod.name}"
    plan.add(
        Delete(
            Pod,
            pod.name,
            pod.namespace,
            uid=pod.uid,
            grace=0 if unreachable else None,
            done=RecordEvent(about, NORMAL, "TaintManagerEviction", message),
        ),
        f"evict pod {pod.namespace}/{pod.name}: it does not tolerate the NoExecute taints of node {view.name}",
    )


def _remove_stranded(view: View, plan: Plan) -> None:
    """Pods of a node that was deleted go when its agent must have stopped them."""
    for pod in view.pods:
        if pod.finished:
            wait = 0.0
        else:
            gone = [Taint(key=UNREACHABLE, effect=NO_EXECUTE)]
            zero = dt.datetime.min.replace(tzinfo=dt.UTC)
            leave = eviction_time(pod.spec.tolerations, gone, zero)
            tolerated = (leave - zero).total_seconds() if leave is not None else 0.0
            wait = view.lease + MARGIN_S + tolerated
        if view.missing < wait:
            plan.again(wait - view.missing)
            continue
        plan.add(
            Delete(Pod, pod.name, pod.namespace, uid=pod.uid, grace=0),
            f"delete pod {pod.namespace}/{pod.name}: its node {view.name} does not exist any more",
        )


class NodeLifecycle:
    """Looks at a node when it or its pods change, and when its silence could have become too long.

    Args:
        lease: seconds; the gateway tells agents the same.
    """

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, client: AsyncClient, caches: Caches, heartbeats: Heartbeats, clock: Clock, lease: float) -> None:
        self._client = client
        self._nodes = caches["Node"]
        self._pods = caches["Pod"]
        self._heartbeats = heartbeats
        self._clock = clock
        self._lease = lease
        self._began = clock.monotonic()
        self._missing: dict[str, float] = {}

    def watch(self, enqueue: Enqueue) -> None:
        def node_changed(old: Node | None, new: Node | None) -> None:
            node = new or old
            assert node is not None
            enqueue(node.name, new.metadata.revision if new else self._nodes.revision)

        def pod_changed(old: Pod | None, new: Pod | None) -> None:
            if new is None or not new.spec.node_name:
                return
            bound = old is None or old.spec.node_name != new.spec.node_name
            node = self._nodes.get("", new.spec.node_name)
            if node is None or (bound and any(t.effect == NO_EXECUTE for t in node.spec.taints)):
                enqueue(new.spec.node_name, new.metadata.revision)

        self._nodes.subscribe(node_changed)
        self._pods.subscribe(pod_changed)

    async def observe(self, key: str, failure: Failure | None) -> View | None:
        node = self._nodes.get("", key)
        pods = tuple(self._pods.by_index("node", key))
        now = self._clock.monotonic()
        if node is None:
            if not pods or await self._exists(key):
                self._missing.pop(key, None)
                return None
            since = self._missing.setdefault(key, now)
            return View(key, None, pods, 0.0, self._lease, now - since, failure)
        self._missing.pop(key, None)
        heard = self._heartbeats.last(key)
        silence = now - max(heard if heard is not None else self._began, self._began)
        return View(key, node, pods, silence, self._lease, 0.0, failure)

    async def _exists(self, name: str) -> bool:
        try:
            await self._client.get(Node, name)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            return False
        return True
