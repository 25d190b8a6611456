"""What the scheduler must know of a pod, worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from control.views import Container, Pod
from steersman import quantity
from steersman.selectors import Selector, from_label_selector
from steersman.types.core import NodeSelector, PreferredSchedulingTerm, Toleration
from steersman.types.meta import LabelSelector

DEFAULT_CPU = 100  # millicores that a container without a request counts for in scores (Kubernetes' figure)
DEFAULT_MEMORY = 200 << 20  # bytes, likewise
PODS = "pods"

HARD = (
    1  # what a required affinity of a placed pod weighs when another one is rated (Kubernetes' hardPodAffinityWeight)
)

HostPort = tuple[str, str, int]  # protocol, address ("0.0.0.0": any), port


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A term of pod affinity or anti-affinity; `namespaces` None means every namespace."""

    topology_key: str
    selector: Selector
    namespaces: frozenset[str] | None


Leaning = tuple[int, PodTerm]  # a weight, below zero to be far from such pods, and which pods


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint with whenUnsatisfiable DoNotSchedule."""

    topology_key: str
    max_skew: int
    min_domains: int
    selector: Selector


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Attributes:
    requests: integer amounts by resource (millicores, bytes, units), "pods" always 1.
    score_cpu, score_memory: the same with defaults for containers that request nothing.
    signature: equal for pods that the same nodes' labels, taints and names suit.
    affinity, anti_affinity: what is required of the pods around it.
    preferences: what is preferred.
    leanings: how it rates others once it is placed: its preferences, and its required affinity as HARD.
    owner: uid of the controlling owner, "" for a bare pod: spreading keeps its pods apart.
    """

    key: str
    uid: str
    namespace: str
    name: str
    revision: int
    labels: Mapping[str, str]
    owner: str
    priority: int
    scheduler: str
    node_name: str
    deleting: bool
    requests: Mapping[str, int]
    score_cpu: int
    score_memory: int
    ports: frozenset[HostPort]
    node_selector: Mapping[str, str]
    required_nodes: NodeSelector | None
    preferred_nodes: tuple[PreferredSchedulingTerm, ...]
    tolerations: tuple[Toleration, ...]
    spreads: tuple[Spread, ...]
    affinity: tuple[PodTerm, ...]
    anti_affinity: tuple[PodTerm, ...]
    preferences: tuple[Leaning, ...]
    leanings: tuple[Leaning, ...]
    signature: bytes


def facts(pod: Pod) -> PodFacts:
    """Work out what scheduling needs of a pod."""
    spec = pod.spec
    affinity = spec.affinity
    nodes = affinity.node_affinity if affinity is not None else None
    near = affinity.pod_affinity if affinity is not None else None
    far = affinity.pod_anti_affinity if affinity is not None else None
    required_near = _terms(near, pod.namespace)
    preferences = (*_preferences(near, pod.namespace, 1), *_preferences(far, pod.namespace, -1))
    requests = pod_requests(pod)
    cpu, memory = _score_requests(pod)
    controller = pod.metadata.controller
    signature = msgspec.msgpack.encode(
        (spec.node_name, sorted(spec.node_selector.items()), nodes, spec.tolerations), order="deterministic"
    )
    return PodFacts(
        key=pod.key,
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        revision=pod.metadata.revision,
        labels=pod.metadata.labels,
        owner=controller.uid if controller is not None else "",
        priority=spec.priority,
        scheduler=spec.scheduler_name,
        node_name=spec.node_name,
        deleting=pod.deleting,
        requests=requests,
        score_cpu=cpu,
        score_memory=memory,
        ports=_host_ports(spec.containers),
        node_selector=spec.node_selector,
        required_nodes=nodes.required_during_scheduling_ignored_during_execution if nodes is not None else None,
        preferred_nodes=nodes.preferred_during_scheduling_ignored_during_execution if nodes is not None else (),
        tolerations=spec.tolerations,
        spreads=_spreads(pod),
        affinity=required_near,
        anti_affinity=_terms(far, pod.namespace),
        preferences=preferences,
        leanings=(*preferences, *((HARD, term) for term in required_near)),
        signature=signature,
    )


def pod_requests(pod: Pod) -> dict[str, int]:
    """What the pod occupies: containers and sidecars together, or the largest init step, plus overhead (KEP-753)."""
    running: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(running, _amounts(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod.spec.init_containers:
        need = _amounts(container)
        if container.restart_policy == "Always":
            _add(sidecars, need)
            _add(running, need)
            need = sidecars
        else:
            need = {name: need.get(name, 0) + sidecars.get(name, 0) for name in {*need, *sidecars}}
        for name, amount in need.items():
            peak[name] = max(peak.get(name, 0), amount)
    total = {name: max(running.get(name, 0), peak.get(name, 0)) for name in {*running, *peak}}
    for name, text in pod.spec.overhead.items():
        total[name] = total.get(name, 0) + quantity.amount(name, text)
    total[PODS] = 1
    return total


def _amounts(container: Container) -> dict[str, int]:
    asked = dict(container.resources.limits)  # a limit without a request is the request
    asked.update(container.resources.requests)
    return {name: quantity.amount(name, text) for name, text in asked.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _score_requests(pod: Pod) -> tuple[int, int]:
    cpu = memory = 0
    for container in pod.spec.containers:
        need = _amounts(container)
        cpu += need.get("cpu") or DEFAULT_CPU
        memory += need.get("memory") or DEFAULT_MEMORY
    return cpu, memory


def _host_ports(containers: Iterable[Container]) -> frozenset[HostPort]:
    return frozenset(
        (port.protocol, port.host_ip or "0.0.0.0", port.host_port)
        for container in containers
        for port in container.ports
        if port.host_port
    )


def _spreads(pod: Pod) -> tuple[Spread, ...]:
    return tuple(
        Spread(one.topology_key, one.max_skew, one.min_domains or 1, _selector(one.label_selector))
        for one in pod.spec.topology_spread_constraints
        if one.when_unsatisfiable == "DoNotSchedule"
    )


def _selector(document: Mapping[str, Any] | None) -> Selector:
    return from_label_selector(LabelSelector.from_dict(dict(document)) if document is not None else None)


def _terms(affinity: Mapping[str, Any] | None, namespace: str) -> tuple[PodTerm, ...]:
    required = (affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(_term(term, namespace) for term in required)


def _preferences(affinity: Mapping[str, Any] | None, namespace: str, sign: int) -> tuple[Leaning, ...]:
    preferred = (affinity or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple((sign * one["weight"], _term(one["podAffinityTerm"], namespace)) for one in preferred)


def _term(term: Mapping[str, Any], namespace: str) -> PodTerm:
    return PodTerm(term["topologyKey"], _selector(term.get("labelSelector")), _namespaces(term, namespace))


def _namespaces(term: Mapping[str, Any], own: str) -> frozenset[str] | None:
    """The namespaces of a term. A namespaceSelector is read as every namespace, which is right of an empty one only."""
    if term.get("namespaceSelector") is not None:
        return None
    return frozenset(term.get("namespaces") or (own,))
