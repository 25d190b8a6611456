"""Addresses and ports that are held by one object at a time: ClusterIPs of Services, node ports, pod ranges of Nodes.

Who holds what is in the store: a key such as `/allocations/clusterips/10.96.0.7` is put, expecting that it does not exist, in
the transaction that writes its holder, and removed in the one that removes the holder. So nothing is ever held twice or
leaked, whatever fails. Choosing a free one only has to be a good guess; what is being committed at the moment is
kept in memory so that simultaneous requests do not guess the same.

A wish that cannot be granted is refused with the field's path, as Kubernetes does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from control.api.context import ApiContext
from control.registry import Resource
from control.store.interface import Delete, Put
from steersman.errors import ApiError, Cause, invalid

CLUSTER_IPS: Final = "/allocations/clusterips/"
NODE_PORTS: Final = "/allocations/nodeports/"
NODE_CIDRS: Final = "/allocations/nodecidrs/"

NODE_PORT_RANGE: Final = range(30_000, 32_768)  # Kubernetes' default
# The lowest addresses are left to wishes (kubernetes .1, dns .10) unless the rest is used up: KEP-3070.
MIN_RESERVED, MAX_RESERVED, RESERVED_SHARE = 16, 256, 16

Document = dict[str, Any]
Op = Put | Delete


@dataclass(slots=True)
class Grant:
    """Operations to commit with the holder, and what to forget afterwards."""

    ops: list[Op] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)


class Allocator:
    """Chooses, and keeps in mind what is being committed."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._services = ipaddress.IPv4Network(context.network.service_cidr)
        self._cluster = ipaddress.IPv4Network(context.network.cluster_cidr)
        self._under_way: set[str] = set()
        self._next_cidr = (
            0  # the pod range to try first: after the newest, so that a search is short and a freed one rests
        )

    def check_wish(self, resource: Resource, document: Document) -> None:
        """Refuse an address that this cluster cannot give. Raises ApiError Invalid.

        Kubernetes allocates before it validates, so this refusal comes before those of validation.
        """
        if resource.qualified == "services":
            for key in _cluster_ips(document):
                self._check_range(key, document)

    def release(self, grant: Grant) -> None:
        """The commit is over: the store tells now what is held."""
        self._under_way.difference_update(grant.reserved)

    async def on_create(self, resource: Resource, document: Document) -> Grant:
        """Fill in what the object needs. Raises ApiError Invalid for a wish that cannot be granted."""
        return await self.on_update(resource, {}, document)

    async def on_update(self, resource: Resource, old: Document, document: Document) -> Grant:
        """Allocate what the new state needs beyond the old, and give back what it needs no longer."""
        grant = Grant()
        try:
            if resource.qualified == "services":
                await self._service(old, document, grant)
            elif resource.qualified == "nodes":
                await self._node(old, document, grant)
        except ApiError:
            self.release(grant)
            raise
        return grant

    def on_delete(self, resource: Resource, document: Document) -> list[Op]:
        """Give everything back."""
        if resource.qualified == "services":
            held = [*_cluster_ips(document), *_node_ports(document)]
        elif resource.qualified == "nodes":
            held = _pod_cidrs(document)
        else:
            return []
        return [Delete(key) for key in held]

    # Services

    async def _service(self, old: Document, document: Document, grant: Grant) -> None:
        spec = document.setdefault("spec", {})
        before = {*_cluster_ips(old), *_node_ports(old)}
        if spec.get("type") == "ExternalName":
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        elif not spec.get("clusterIP"):
            key = await self._free_cluster_ip(document)
            spec["clusterIP"] = key.removeprefix(CLUSTER_IPS)
            self._take(key, document, grant)
        elif spec["clusterIP"] != "None":
            for key in _cluster_ips(document):
                if key not in before:
                    await self._wish_cluster_ip(key, document, grant)
        if spec.get("clusterIP"):
            spec["clusterIPs"] = [spec["clusterIP"]]
            spec.setdefault("ipFamilies", ["IPv4"])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
        await self._node_ports(old, document, grant)
        after = {*_cluster_ips(document), *_node_ports(document)}
        grant.ops += [Delete(key) for key in sorted(before - after)]

    async def _wish_cluster_ip(self, key: str, document: Document, grant: Grant) -> None:
        self._check_range(key, document)
        address = key.removeprefix(CLUSTER_IPS)
        if await self._is_held(key):
            raise _refused(
                document,
                "spec.clusterIPs",
                f'Invalid value: ["{address}"]: failed to allocate IP {address}: provided IP is already allocated',
            )
        self._take(key, document, grant)

    def _check_range(self, key: str, document: Document) -> None:
        text = key.removeprefix(CLUSTER_IPS)
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return  # validation says so, with the field's other faults
        if address not in self._services or address in (
            self._services.network_address,
            self._services.broadcast_address,
        ):
            raise _refused(
                document,
                "spec.clusterIPs",
                f'Invalid value: ["{text}"]: failed to allocate IP {text}: the provided network does not match the '
                f"current range: use an address in {self._services}",
            )

    async def _free_cluster_ip(self, document: Document) -> str:
        first = int(self._services.network_address) + 1
        size = self._services.num_addresses - 2
        low = min(max(MIN_RESERVED, size // RESERVED_SHARE), MAX_RESERVED, size)
        for number in _around(low, size, self._context.entropy.jitter()):
            key = CLUSTER_IPS + str(ipaddress.IPv4Address(first + number))
            if not await self._is_held(key):
                return key
        raise _refused(document, "spec.clusterIPs", f"every address of {self._services} is allocated: delete a Service")

    async def _node_ports(self, old: Document, document: Document, grant: Grant) -> None:
        spec = document["spec"]
        if spec.get("type") not in ("NodePort", "LoadBalancer"):
            return
        before = set(_node_ports(old))
        kept = {(port.get("protocol"), port.get("port")): port.get("nodePort") for port in _ports(old)}
        for index, port in enumerate(_ports(document)):
            protocol = port.get("protocol", "TCP")
            if not port.get("nodePort"):
                if spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
                    continue
                previous = kept.get((port.get("protocol"), port.get("port")))
                port["nodePort"] = previous or await self._free_node_port(protocol, document, index)
            key = f"{NODE_PORTS}{protocol}-{port['nodePort']}"
            if key in before or key in grant.reserved:
                continue
            path = f"spec.ports[{index}].nodePort"
            if port["nodePort"] not in NODE_PORT_RANGE:
                raise _refused(
                    document,
                    path,
                    f"Invalid value: {port['nodePort']}: provided port is not in the valid range. "
                    f"The range of valid ports is {NODE_PORT_RANGE.start}-{NODE_PORT_RANGE.stop - 1}",
                )
            if await self._is_held(key):
                raise _refused(document, path, f"Invalid value: {port['nodePort']}: provided port is already allocated")
            self._take(key, document, grant)

    async def _free_node_port(self, protocol: str, document: Document, index: int) -> int:
        for number in _around(0, len(NODE_PORT_RANGE), self._context.entropy.jitter()):
            port = NODE_PORT_RANGE[number]
            if not await self._is_held(f"{NODE_PORTS}{protocol}-{port}"):
                return port
        raise _refused(document, f"spec.ports[{index}].nodePort", "every node port is allocated: delete a Service")

    # Nodes

    async def _node(self, old: Document, document: Document, grant: Grant) -> None:
        spec = document.setdefault("spec", {})
        if _pod_cidrs(old):
            return
        if not spec.get("podCIDR"):
            spec["podCIDR"] = await self._free_pod_cidr(document)
        spec["podCIDRs"] = [spec["podCIDR"]]
        (key,) = _pod_cidrs(document)
        if await self._is_held(key):
            raise _refused(
                document, "spec.podCIDR", f'Invalid value: "{spec["podCIDR"]}": another node holds this range'
            )
        self._take(key, document, grant)

    async def _free_pod_cidr(self, document: Document) -> str:
        prefix = self._context.network.node_cidr_mask
        first, number_of_ranges = int(self._cluster.network_address), 1 << (prefix - self._cluster.prefixlen)
        for step in range(number_of_ranges):
            number = (self._next_cidr + step) % number_of_ranges
            cidr = f"{ipaddress.IPv4Address(first + (number << (32 - prefix)))}/{prefix}"
            if not await self._is_held(_cidr_key(cidr)):
                self._next_cidr = number + 1
                return cidr
        raise _refused(
            document,
            "spec.podCIDR",
            f"every /{self._context.network.node_cidr_mask} of {self._cluster} is allocated: remove a node, or start the "
            "control plane with a larger --cluster-cidr",
        )

    # Both

    async def _is_held(self, key: str) -> bool:
        return key in self._under_way or await self._context.store.get(key) is not None

    def _take(self, key: str, document: Document, grant: Grant) -> None:
        metadata = document["metadata"]
        holder = {"kind": document["kind"], "name": metadata["name"], "uid": metadata.get("uid", "")}
        if metadata.get("namespace"):
            holder["namespace"] = metadata["namespace"]
        self._under_way.add(key)
        grant.reserved.append(key)
        grant.ops.append(Put(key, msgspec.json.encode(holder), expect=0))


def _around(low: int, size: int, start: float) -> Iterator[int]:
    """Numbers below `size`: first those from `low` on, beginning at a share `start` of the way, then the low ones."""
    high = size - low
    offset = int(start * high)
    for step in range(high):
        yield low + (offset + step) % high
    yield from range(low)


def _cluster_ips(document: Document) -> list[str]:
    spec = document.get("spec", {})
    if spec.get("type") == "ExternalName":
        return []
    return [CLUSTER_IPS + spec["clusterIP"]] if spec.get("clusterIP") not in (None, "", "None") else []


def _ports(document: Document) -> list[Document]:
    found: list[Document] = document.get("spec", {}).get("ports") or []
    return found


def _node_ports(document: Document) -> list[str]:
    ports = ((port.get("protocol", "TCP"), port.get("nodePort")) for port in _ports(document))
    return sorted({f"{NODE_PORTS}{protocol}-{number}" for protocol, number in ports if number})


def _cidr_key(cidr: str) -> str:
    return NODE_CIDRS + cidr.replace("/", "-")


def _pod_cidrs(document: Document) -> list[str]:
    cidr = document.get("spec", {}).get("podCIDR")
    return [_cidr_key(cidr)] if cidr else []


def _refused(document: Document, path: str, message: str) -> ApiError:
    kind, name = document["kind"], document["metadata"].get("name", "")
    return invalid(kind, name, [Cause("FieldValueInvalid", message, path)])
