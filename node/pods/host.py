"""What a pod's life cycle needs of its node: everything that acts or knows the time, in one injected bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from node.assignments import Assignments
from node.checkpoint import Checkpoint
from node.environment import Surroundings
from node.events import EventRecorder
from node.metrics import NodeMetrics
from node.podfiles import ResolverConfig
from node.pods.exits import ExitWatch
from node.runtime.interface import Runtime
from node.volumes import Volumes
from steersman.clock import Clock


class Network(Protocol):
    """The part of `net.PodNetwork` that pods need."""

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None: ...
    async def detach(self, pod_uid: str) -> None: ...


class Addresses(Protocol):
    """The addresses of this node's range."""

    def allocate(self, uid: str) -> str:
        """The pod's address, the same when it has one. Raises NoAddressError."""
        ...

    def release(self, uid: str) -> None: ...


class NoAddressError(Exception):
    """The node's range is used up, or not known yet."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the agent runs."""

    name: str
    ip: str
    memory_bytes: int
    allocatable: Mapping[str, str]
    logs_root: Path
    resolver: ResolverConfig = field(default_factory=ResolverConfig)


@dataclass(slots=True)
class ClusterFacts:
    """What the control plane tells at the start of a session; kept over restarts."""

    dns_ip: str = ""
    cluster_domain: str = "cluster.local"


@dataclass(slots=True)
class PodHost:
    """The node as one pod sees it.

    `report(uid, urgent)` tells that a pod's state changed; urgent changes are those that somebody waits for.
    `starts` bounds how many sandboxes and containers are being started at once, `pulls` how many images are fetched.
    """

    node: NodeFacts
    cluster: ClusterFacts
    runtime: Runtime
    network: Network
    addresses: Addresses
    volumes: Volumes
    checkpoint: Checkpoint
    assignments: Assignments
    exits: ExitWatch
    events: EventRecorder
    metrics: NodeMetrics
    clock: Clock
    report: Callable[[str, bool], None]
    starts: asyncio.Semaphore
    pulls: asyncio.Semaphore
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)

    def surroundings(self, ip: str) -> Surroundings:
        """What the containers of the pod with this address may refer to."""
        return Surroundings(
            config_maps=self.assignments.config_maps,
            secrets=self.assignments.secrets,
            services=self.assignments.services,
            allocatable=self.node.allocatable,
            pod_ip=ip,
            host_ip=self.node.ip,
        )
