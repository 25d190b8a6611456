"""Everything that a leader decides, running: one cache per kind, the controllers and the scheduler over them.

    controllers = Controllers(client, heartbeats, clock, entropy)
    await controllers.run()        # until cancelled, when leadership ends

A member that does not lead runs none of this and keeps none of these caches. Caches are full before the first decision.
When a part ends with an error, all of them end and `run` raises it: a control plane that decides with half its parts
would be worse than one that starts over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from control.controllers.deployment import DeploymentController
from control.controllers.endpointslice import SERVICE_LABEL, EndpointSliceController
from control.controllers.expiry import EventExpiry
from control.controllers.garbage import GarbageCollector
from control.controllers.namespace import NamespaceController
from control.controllers.nodelifecycle import Heartbeats, NodeLifecycle
from control.controllers.replicaset import ReplicaSetController
from control.controllers.runtime import ControllerRuntime
from control.controllers.served import Served, metadata_view
from control.events import EventRecorder
from control.scheduler.decide import Profile
from control.scheduler.service import COMPONENT, Scheduler
from control.views import Deployment, EventAge, Pod, ReplicaSet
from steersman import AsyncClient, Cache
from steersman.clock import Clock, Entropy
from steersman.types import EndpointSlice, KubeObject, Namespace, Node, Service

log = logging.getLogger(__name__)

LEASE_S = 8.0  # of nodes; the gateway must tell agents the same
VIEWS: tuple[type[KubeObject], ...] = (
    Pod,
    Node,
    Namespace,
    Service,
    EndpointSlice,
    ReplicaSet,
    Deployment,
    EventAge,
)


@dataclass(frozen=True, slots=True)
class ControllersConfig:
    """Attributes:
    node_lease: seconds after its last acknowledged heartbeat that an agent may run pods.
    profiles: the schedulers that pods may name.
    """

    node_lease: float = LEASE_S
    profiles: tuple[Profile, ...] = (Profile(),)


class Controllers:
    """The controllers and the scheduler of a leading member.

    Make a new one for each term of leadership: the time since it was made is how long nodes have had to be heard of.

    Args:
        client: over the member's own handlers, or any other transport.
        heartbeats: when each node was last heard from.
    """

    def __init__(
        self,
        client: AsyncClient,
        heartbeats: Heartbeats,
        clock: Clock,
        entropy: Entropy,
        config: ControllersConfig | None = None,
    ) -> None:
        self._client = client
        self._heartbeats = heartbeats
        self._clock = clock
        self._entropy = entropy
        self._config = config or ControllersConfig()
        self.served: list[Served] = []
        self.recorders: list[EventRecorder] = []
        self.runtimes: list[ControllerRuntime[Any, Any]] = []
        self.scheduler: Scheduler | None = None

    @property
    def caches(self) -> dict[str, Cache[Any]]:
        """The shared caches, by kind."""
        return {one.name: one.cache for one in self.served}

    async def run(self) -> None:
        """Start everything and keep it running until cancelled."""
        async with asyncio.TaskGroup() as group:
            await self.prepare(group)
            assert self.scheduler is not None
            for runtime in self.runtimes:
                group.create_task(runtime.run(), name=runtime.name)
            group.create_task(self.scheduler.run(), name="scheduler")
            for recorder in self.recorders:
                group.create_task(recorder.run(), name=f"{recorder.component} events")
            log.info("controllers and scheduler run")

    async def prepare(self, group: asyncio.TaskGroup) -> None:
        """Fill the caches and set everything up to run; the simulator then runs the rounds itself."""
        self.served = await self._kinds()
        for one in self.served:
            group.create_task(one.cache.run(), name=f"{one.name} cache")
        for one in self.served:
            await one.cache.synced()
        self._build()
        for runtime in self.runtimes:
            runtime.start()
        assert self.scheduler is not None
        self.scheduler.start()

    async def _kinds(self) -> list[Served]:
        known = {(view.API_VERSION, view.KIND): view for view in VIEWS}
        served = []
        for info in await self._client.kinds():
            if not {"list", "watch", "delete"} <= set(info.verbs):
                continue
            view = known.get((info.api_version, info.kind)) or metadata_view(info)
            cache: Cache[Any] = Cache(self._client, view, indexes=_indexes(info.kind), entropy=self._entropy)
            kind = f"{info.api_version}/{info.kind}"
            served.append(Served(kind, info.api_version, info.kind, info.plural, info.namespaced, view, cache))
        return served

    def _build(self) -> None:
        client, clock, caches = self._client, self._clock, self.caches
        controllers = (
            DeploymentController(caches),
            ReplicaSetController(caches),
            EndpointSliceController(caches),
            NamespaceController(client, caches, self.served),
            GarbageCollector(client, self.served),
            NodeLifecycle(client, caches, self._heartbeats, clock, self._config.node_lease),
            EventExpiry(caches),
        )
        for controller in controllers:
            recorder = self._recorder(controller.name)
            self.runtimes.append(ControllerRuntime(controller, client, caches, recorder, clock))
        self.scheduler = Scheduler(
            client, caches["Pod"], caches["Node"], self._recorder(COMPONENT), clock, self._config.profiles
        )

    def _recorder(self, component: str) -> EventRecorder:
        recorder = EventRecorder(self._client, component, self._clock, self._entropy)
        self.recorders.append(recorder)
        return recorder


def _owners(obj: KubeObject) -> Iterable[str]:
    return (ref.uid for ref in obj.metadata.owner_references)


def _owner(obj: KubeObject) -> Iterable[str]:
    controller = obj.metadata.controller
    return (controller.uid,) if controller is not None else ()


def _orphan(obj: KubeObject) -> Iterable[str]:
    return () if obj.metadata.controller is not None else (obj.namespace,)


def _node(obj: Any) -> Iterable[str]:
    return (obj.spec.node_name,) if obj.spec.node_name else ()


def _service(obj: KubeObject) -> Iterable[str]:
    name = obj.metadata.labels.get(SERVICE_LABEL)
    return (f"{obj.namespace}/{name}",) if name else ()


def _indexes(kind: str) -> dict[str, Any]:
    """The indexes of a kind's cache: "owners" by every owner's uid, "owner" by the controlling one's."""
    indexes: dict[str, Any] = {"owners": _owners}
    if kind in ("Pod", "ReplicaSet"):
        indexes |= {"owner": _owner, "orphan": _orphan}
    if kind == "Pod":
        indexes["node"] = _node
    if kind == "EndpointSlice":
        indexes["service"] = _service
    return indexes
