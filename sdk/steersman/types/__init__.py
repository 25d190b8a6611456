"""Typed views of Kubernetes objects: what code reads of their JSON documents."""

from __future__ import annotations

from steersman.types.apps import Deployment, EndpointSlice, Lease, ReplicaSet
from steersman.types.core import ConfigMap, Event, Namespace, Node, Pod, Secret, Service
from steersman.types.meta import KubeObject, ObjectMeta, OwnerReference, PartialObject, View

KINDS: tuple[type[KubeObject], ...] = (
    Namespace,
    Node,
    Pod,
    ReplicaSet,
    Deployment,
    Service,
    EndpointSlice,
    ConfigMap,
    Secret,
    Event,
    Lease,
)

__all__ = [
    "KINDS",
    "ConfigMap",
    "Deployment",
    "EndpointSlice",
    "Event",
    "KubeObject",
    "Lease",
    "Namespace",
    "Node",
    "ObjectMeta",
    "OwnerReference",
    "PartialObject",
    "Pod",
    "ReplicaSet",
    "Secret",
    "Service",
    "View",
]
