"""What the gateway keeps of each object: its JSON as the node will get it, and the few facts that say which node needs it.

These are views for `steersman.cache.Cache`. Decoding one keeps the document's bytes, so that sending it to a node is a
copy; the facts are taken once, when the object changes. `essence` stands for what an agent acts on: a change that leaves
it alone (a status that the agent itself reported, an image list of another node) is not sent.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import msgspec

from steersman.references import config_map_names, secret_names
from steersman.types import KubeObject, Node, Pod
from steersman.types.core import NodeAddress
from steersman.types.meta import Condition

AGENT_CONDITIONS = frozenset({"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"})


class Document(KubeObject, frozen=True):
    """Any kind: metadata and the bytes."""

    raw: bytes = b""
    essence: int = 0

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        raw = data.encode() if isinstance(data, str) else bytes(data)
        return cls(metadata=_metadata.decode(raw).metadata, raw=raw, essence=hash(raw))


class _Metadata(KubeObject, frozen=True):
    pass


_metadata = msgspec.json.Decoder(_Metadata)
_pod = msgspec.json.Decoder(Pod)
_node = msgspec.json.Decoder(Node)


class ConfigMapDocument(Document, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "ConfigMap"
    PLURAL: ClassVar[str] = "configmaps"


class SecretDocument(Document, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Secret"
    PLURAL: ClassVar[str] = "secrets"


class NamespaceDocument(Document, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Namespace"
    PLURAL: ClassVar[str] = "namespaces"
    NAMESPACED: ClassVar[bool] = False


class ServiceDocument(Document, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Service"
    PLURAL: ClassVar[str] = "services"


class EndpointSliceDocument(Document, frozen=True):
    API_VERSION: ClassVar[str] = "discovery.k8s.io/v1"
    KIND: ClassVar[str] = "EndpointSlice"
    PLURAL: ClassVar[str] = "endpointslices"


class NodeDocument(Document, frozen=True):
    """Other nodes need its addresses and its range only."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"
    NAMESPACED: ClassVar[bool] = False

    pod_cidr: str = ""
    addresses: tuple[NodeAddress, ...] = ()

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        raw = data.encode() if isinstance(data, str) else bytes(data)
        node = _node.decode(raw)
        return cls(
            metadata=node.metadata,
            raw=raw,
            essence=hash((node.uid, node.spec.pod_cidrs, node.spec.pod_cidr, node.status.addresses)),
            pod_cidr=node.spec.pod_cidr,
            addresses=node.status.addresses,
        )


class PodDocument(Document, frozen=True):
    """The node that it is bound to, and the ConfigMaps and Secrets ("namespace/name") that it names."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Pod"
    PLURAL: ClassVar[str] = "pods"

    node_name: str = ""
    config_maps: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    finished: bool = False

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        raw = data.encode() if isinstance(data, str) else bytes(data)
        pod = _pod.decode(raw)
        if not pod.spec.node_name:
            return cls(metadata=pod.metadata)  # no node needs it yet
        return cls(
            metadata=pod.metadata,
            raw=raw,
            essence=_pod_essence(pod),
            node_name=pod.spec.node_name,
            config_maps=tuple(f"{pod.namespace}/{name}" for name in sorted(config_map_names(pod))),
            secrets=tuple(f"{pod.namespace}/{name}" for name in sorted(secret_names(pod))),
            finished=pod.finished,
        )

    def foreign_conditions(self) -> list[dict[str, Any]]:
        """The conditions in its status that others than the agent write."""
        status = _conditions.decode(self.raw).get("status") or {} if self.raw else {}
        return [c for c in status.get("conditions") or () if c.get("type") not in AGENT_CONDITIONS]


_conditions = msgspec.json.Decoder(dict[str, Any])


def _pod_essence(pod: Pod) -> int:
    metadata = pod.metadata
    others: list[Condition] = [c for c in pod.status.conditions if c.type not in AGENT_CONDITIONS]
    told = (
        metadata.uid,
        metadata.labels,
        metadata.annotations,
        metadata.deletion_timestamp,
        metadata.deletion_grace_period_seconds,
        metadata.generation,
        pod.spec,
        [(c.type, c.status) for c in others],
    )
    return hash(msgspec.msgpack.encode(told))
