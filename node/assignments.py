"""What the control plane told this node, and what follows from it. Pure.

`Assignments` is the node's copy of the objects that the gateway sends: the pods bound to it, the ConfigMaps and
Secrets that those name, and all Nodes, Namespaces, Services and EndpointSlices. A session begins with the present
state; when its last part has arrived (`synced`), whatever the agent held and was not sent is gone. Until then nothing
is taken away, so a slow or broken first sync stops no pod.

`plan` compares the assigned pods with the pods that run here and answers actions with reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from steersman.references import config_map_names, secret_names
from steersman.types import ConfigMap, EndpointSlice, KubeObject, Namespace, Node, Pod, Secret, Service
from steersman.v1 import node_pb2
from steersman.v1 import objects_pb2 as pb

KINDS: dict[str, type[KubeObject]] = {
    kind.KIND: kind for kind in (Pod, ConfigMap, Secret, Node, Namespace, Service, EndpointSlice)
}


@dataclass(slots=True)
class Difference:
    """What one message changed: the keys of pods, ConfigMaps and Secrets, and whether the network's view did."""

    pods: set[str] = field(default_factory=set)
    config_maps: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    network: bool = False
    services: bool = False

    def note(self, kind: str, key: str) -> None:
        match kind:
            case "Pod":
                self.pods.add(key)
            case "ConfigMap":
                self.config_maps.add(key)
            case "Secret":
                self.secrets.add(key)
            case _:
                self.network = True
                self.services = self.services or kind == "Service"


class Assignments:
    """The objects by kind and "namespace/name", and the JSON documents of the pods (for their records)."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self.documents: dict[str, bytes] = {}
        self.revision = 0
        self.synced = False  # whether the state is complete as of some moment, in this session or one before
        self._arrived: dict[str, set[str]] | None = None

    @property
    def pods(self) -> dict[str, Pod]:
        return self.objects["Pod"]

    @property
    def config_maps(self) -> dict[str, ConfigMap]:
        return self.objects["ConfigMap"]

    @property
    def secrets(self) -> dict[str, Secret]:
        return self.objects["Secret"]

    @property
    def services(self) -> dict[str, Service]:
        return self.objects["Service"]

    def seed(self, document: bytes) -> Pod:
        """Take in a pod from a record: it counts as assigned until a session says otherwise."""
        pod = Pod.decode(document)
        self.pods[pod.key] = pod
        self.documents[pod.key] = document
        return pod

    def begin(self) -> None:
        """A session begins: note what arrives until it is synced."""
        self._arrived = {kind: set() for kind in KINDS}

    def apply(self, changes: node_pb2.Changes) -> Difference:
        """Take in one message."""
        difference = Difference()
        for event in changes.events:
            message = event.object
            kind = KINDS.get(message.kind)
            if kind is None:
                continue  # a newer gateway may send kinds that this agent does not know
            key = f"{message.namespace}/{message.name}" if message.namespace else message.name
            held = self.objects[message.kind]
            if event.kind == pb.WatchEvent.DELETED:
                self._drop(message.kind, key)
                if self._arrived is not None:
                    self._arrived[message.kind].discard(key)
            else:
                if self._arrived is not None:
                    self._arrived[message.kind].add(key)
                old = held.get(key)
                if (
                    old is not None
                    and old.metadata.resource_version == str(message.revision)
                    and old.uid == message.uid
                ):
                    continue
                held[key] = kind.decode(message.json)
                if message.kind == "Pod":
                    self.documents[key] = message.json
            difference.note(message.kind, key)
        self.revision = max(self.revision, changes.revision)
        if changes.synced and self._arrived is not None:
            for name, arrived in self._arrived.items():
                for key in [key for key in self.objects[name] if key not in arrived]:
                    self._drop(name, key)
                    difference.note(name, key)
            self._arrived = None
            self.synced = True
        return difference

    def _drop(self, kind: str, key: str) -> None:
        self.objects[kind].pop(key, None)
        if kind == "Pod":
            self.documents.pop(key, None)

    def naming(self, difference: Difference) -> list[Pod]:
        """The pods that name a changed ConfigMap or Secret."""
        if not difference.config_maps and not difference.secrets:
            return []
        return [
            pod
            for pod in self.pods.values()
            if any(f"{pod.namespace}/{name}" in difference.config_maps for name in config_map_names(pod))
            or any(f"{pod.namespace}/{name}" in difference.secrets for name in secret_names(pod))
        ]


# --- what to do ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Run a pod that is not here yet."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Update:
    """The document of a running pod changed."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop a pod at once and clean up after it: the API knows it no more."""

    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportGone:
    """Tell the API that nothing of a pod that it wants deleted is here."""

    pod: Pod


Action = Start | Update | Kill | ReportGone


def plan(assigned: Mapping[str, Pod], running: Collection[str], *, synced: bool) -> list[Action]:
    """What to do so that exactly the assigned pods run.

    Args:
        assigned: the assigned pods by key.
        running: uids of the pods that are here, running or finished but not cleaned up.
        synced: whether `assigned` is complete; before that, nothing is killed for being absent.
    """
    actions: list[Action] = []
    wanted: dict[str, Pod] = {pod.uid: pod for pod in assigned.values()}
    if synced:
        actions += [
            Kill(uid, "it is no longer assigned to this node: deleted, or replaced by another of its name")
            for uid in running
            if uid not in wanted
        ]
    for uid, pod in wanted.items():
        if uid in running:
            actions.append(Update(pod))
        elif pod.deleting:
            actions.append(ReportGone(pod))
        elif not pod.finished:
            actions.append(Start(pod))
    return actions
