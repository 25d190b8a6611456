"""What a pod may use: QoS class, limits, and how it ranks when the node runs out of memory. Pure.

Sources: k8s.io/kubernetes/pkg/apis/core/v1/helper/qos and pkg/kubelet/qos.
"""

from __future__ import annotations

from decimal import Decimal

from node.runtime.interface import Resources
from steersman import quantity
from steersman.types.core import Container, Pod

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"


def effective_limit(container: Container, resource: str) -> Decimal:
    """The limit of a resource; 0 when there is none."""
    return quantity.parse(container.resources.limits.get(resource, "0"))


def effective_request(container: Container, resource: str) -> Decimal:
    """What is requested; a limit without a request is a request of as much (Kubernetes' default)."""
    requests, limits = container.resources.requests, container.resources.limits
    return quantity.parse(requests.get(resource, limits.get(resource, "0")))


def qos_class(pod: Pod) -> str:
    """Guaranteed when every container limits cpu and memory and requests as much, BestEffort when none says anything."""
    every = (*pod.spec.containers, *pod.spec.init_containers)
    said = [
        (effective_request(container, resource), effective_limit(container, resource))
        for container in every
        for resource in ("cpu", "memory")
    ]
    if not any(request or limit for request, limit in said):
        return BEST_EFFORT
    return GUARANTEED if all(limit and request == limit for request, limit in said) else BURSTABLE


def resources(pod: Pod, container: Container, node_memory: int) -> Resources:
    """What the runtime enforces for a container on a node with `node_memory` bytes."""
    request, limit = effective_request(container, "cpu"), effective_limit(container, "cpu")
    memory = int(effective_limit(container, "memory"))
    return Resources(
        cpu_request=int(request * 1000) or None,
        cpu_limit=int(limit * 1000) or None,
        memory_limit=memory or None,
        oom_score_adj=_oom_score_adj(pod, container, node_memory),
    )


def _oom_score_adj(pod: Pod, container: Container, node_memory: int) -> int:
    """The kubelet's ranking: Guaranteed last, BestEffort first, Burstable by how much of the node it asked for."""
    match qos_class(pod):
        case "Guaranteed":
            return -997
        case "BestEffort":
            return 1000
    request = int(effective_request(container, "memory"))
    return min(999, max(3, 1000 - 1000 * request // max(1, node_memory)))
