"""Which Services changed between two views, and the EndpointSlices of each: the index that the proxy and DNS share.

`update` walks the view's mappings and compares objects by identity (a watch cache never edits an object), so that a
sync in which nothing changed costs some 50 ns for each object and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from net.view import NetworkView
from steersman.types import EndpointSlice, KubeObject, Service

SERVICE_LABEL = "kubernetes.io/service-name"

O = TypeVar("O", bound=KubeObject)  # noqa: E741 - an object


class Topology:
    """The Services and their slices as of the last view."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._slices: dict[str, EndpointSlice] = {}
        self._by_service: dict[str, dict[str, EndpointSlice]] = {}

    def update(self, view: NetworkView) -> set[str]:
        """Take in a view; the keys of the Services that are new, gone or changed, or whose slices are."""
        changed = set(_replace(self.services, view.services))
        for key, before in _replace(self._slices, view.endpoint_slices).items():
            after = self._slices.get(key)
            if before and (owner := service_of(before)):
                self._by_service[owner].pop(key, None)
                if not self._by_service[owner]:
                    del self._by_service[owner]
                changed.add(owner)
            if after and (owner := service_of(after)):
                self._by_service.setdefault(owner, {})[key] = after
                changed.add(owner)
        return changed

    def slices(self, service_key: str) -> tuple[EndpointSlice, ...]:
        """A Service's slices, ordered by key."""
        return tuple(piece for _, piece in sorted(self._by_service.get(service_key, {}).items()))


def service_of(piece: EndpointSlice) -> str:
    """The key of the Service that a slice belongs to, or ""."""
    name = piece.metadata.labels.get(SERVICE_LABEL)
    return f"{piece.namespace}/{name}" if name else ""


def _replace(held: dict[str, O], given: Mapping[str, O]) -> dict[str, O | None]:
    """Make `held` equal `given`; what was held before, by the keys that changed."""
    changed: dict[str, O | None] = {}
    for key, item in given.items():
        before = held.get(key)
        if before is not item:
            changed[key] = before
            held[key] = item
    if len(held) != len(given):
        for key in [key for key in held if key not in given]:
            changed[key] = held.pop(key)
    return changed
