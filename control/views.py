"""Narrow views of objects: what controllers and the scheduler read, and not a field more.

A leader keeps every pod of the cluster in memory, so a view that skips volumes, probes and environment saves most of
that memory. Templates stay undecoded (`msgspec.Raw`): whoever copies a template into a child copies every field of it,
also those that no view knows.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import field

from steersman.types import KubeObject, View
from steersman.types.apps import DeploymentStatus, DeploymentStrategy, ReplicaSetStatus
from steersman.types.core import (
    Affinity,
    ContainerPort,
    IntOrString,
    PodIP,
    PodReadinessGate,
    ResourceRequirements,
    Toleration,
    TopologySpreadConstraint,
)
from steersman.types.meta import Condition, LabelSelector


class Container(View, frozen=True):
    name: str = ""
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()
    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    restart_policy: str | None = None


class PodSpec(View, frozen=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    scheduler_name: str = "default-scheduler"
    hostname: str = ""
    subdomain: str = ""
    priority: int = 0
    overhead: dict[str, IntOrString] = field(default_factory=dict)
    scheduling_gates: tuple[dict[str, str], ...] = ()
    readiness_gates: tuple[PodReadinessGate, ...] = ()


class ContainerStatus(View, frozen=True):
    restart_count: int = 0


class PodStatus(View, frozen=True):
    phase: str = "Pending"
    conditions: tuple[Condition, ...] = ()
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(KubeObject, frozen=True):
    """A pod, as those see it who place, count and replace pods."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Pod"
    PLURAL: ClassVar[str] = "pods"

    spec: PodSpec = field(default_factory=PodSpec)
    status: PodStatus = field(default_factory=PodStatus)

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind), None)

    @property
    def ready(self) -> bool:
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"

    @property
    def ready_since(self) -> str:
        """When the pod became ready, as written; "" when it is not ready."""
        condition = self.condition("Ready")
        return condition.last_transition_time if condition is not None and condition.status == "True" else ""

    @property
    def finished(self) -> bool:
        """Whether the pod ran to its end and will never run again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def active(self) -> bool:
        """Whether the pod counts towards what its controller keeps: not finished, not being deleted."""
        return not self.finished and not self.deleting


class ReplicaSetSpec(View, frozen=True):
    replicas: int = 1
    min_ready_seconds: int = 0
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: msgspec.Raw = field(default_factory=lambda: msgspec.Raw(b"{}"))


class ReplicaSet(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "ReplicaSet"
    PLURAL: ClassVar[str] = "replicasets"

    spec: ReplicaSetSpec = field(default_factory=ReplicaSetSpec)
    status: ReplicaSetStatus = field(default_factory=ReplicaSetStatus)


class DeploymentSpec(View, frozen=True):
    replicas: int = 1
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: msgspec.Raw = field(default_factory=lambda: msgspec.Raw(b"{}"))
    strategy: DeploymentStrategy = field(default_factory=DeploymentStrategy)
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    paused: bool = False
    progress_deadline_seconds: int = 600


class Deployment(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "apps/v1"
    KIND: ClassVar[str] = "Deployment"
    PLURAL: ClassVar[str] = "deployments"

    spec: DeploymentSpec = field(default_factory=DeploymentSpec)
    status: DeploymentStatus = field(default_factory=DeploymentStatus)


class EventAge(KubeObject, frozen=True):
    """An Event, as far as its expiry needs it."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Event"
    PLURAL: ClassVar[str] = "events"

    last_timestamp: str | None = None
    event_time: str | None = None
