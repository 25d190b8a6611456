"""Kubernetes Events about pods and the node, worded as the kubelet words them.

The same event seen again raises its count instead of making another object: an event's name follows from what it says
and about whom. The most recent ones are remembered; an event older than that begins to count anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from steersman.clock import Clock, rfc3339
from steersman.types.core import Pod

REMEMBERED = 1_024  # distinct events whose count goes on; a busy node has a few per pod
COMPONENT = "kubelet"  # the name that tools know the node's agent by


@dataclass(slots=True)
class _Seen:
    first: str
    count: int


class EventRecorder:
    """Makes Event documents and hands each to `sink`."""

    def __init__(self, node_name: str, clock: Clock, sink: Callable[[bytes], None]) -> None:
        self._node = node_name
        self._clock = clock
        self._sink = sink
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def pod(
        self, pod: Pod, reason: str, message: str, *, warning: bool = False, container: str = "", init: bool = False
    ) -> None:
        """Something about a pod, or about one of its containers."""
        reference = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": pod.metadata.resource_version,
        }
        if container:
            reference["fieldPath"] = f"spec.{'initContainers' if init else 'containers'}{{{container}}}"
        self._record(reference, pod.namespace, reason, message, warning=warning)

    def node(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Something about the node itself; such events live in the namespace default."""
        reference = {"kind": "Node", "apiVersion": "v1", "name": self._node, "uid": self._node}
        self._record(reference, "default", reason, message, warning=warning)

    def _record(self, reference: dict[str, str], namespace: str, reason: str, message: str, *, warning: bool) -> None:
        told = "\0".join((reference["kind"], reference["uid"], reference.get("fieldPath", ""), reason, message))
        name = f"{reference['name']}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        now = rfc3339(self._clock.now())
        seen = self._seen.setdefault(name, _Seen(now, 0))
        seen.count += 1
        self._seen.move_to_end(name)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self._sink(
            msgspec.json.encode(
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"name": name, "namespace": namespace},
                    "involvedObject": reference,
                    "reason": reason,
                    "message": message[:1024],  # the API's limit
                    "type": "Warning" if warning else "Normal",
                    "source": {"component": COMPONENT, "host": self._node},
                    "reportingComponent": COMPONENT,
                    "reportingInstance": self._node,
                    "firstTimestamp": seen.first,
                    "lastTimestamp": now,
                    "count": seen.count,
                }
            )
        )
