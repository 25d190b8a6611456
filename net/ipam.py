"""Which address a pod gets: a pure function of the node's range, the pod's uid and the addresses in use.

A pod keeps its address for life. A new pod's search starts at a place given by its uid, so that an address just freed is
seldom the next one handed out (peers may still hold connections to its last owner). The network address, the gateway
(the first host address, the bridge's own) and the broadcast address are never given.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allocation:
    """An address, or "" and the reason why there is none."""

    address: str
    reason: str = ""


class Ipam:
    """Addresses of one node's range.

    Raises:
        ValueError: `cidr` is no IPv4 network, or too small to hold a gateway and a pod.
    """

    def __init__(self, cidr: str) -> None:
        self.network = ipaddress.IPv4Network(cidr)
        if self.network.prefixlen > 29:
            raise ValueError(f"the pod range {cidr} is too small: /29 or larger is needed")
        self._first = int(self.network.network_address) + 2
        self.capacity = self.network.num_addresses - 3
        self.gateway = gateway(cidr)

    def allocate(self, pod_uid: str, used: Mapping[str, str]) -> Allocation:
        """Choose the pod's address.

        Args:
            pod_uid: the pod's metadata.uid.
            used: address by pod uid, of every pod that holds one; addresses outside the range do no harm.
        """
        held = used.get(pod_uid)
        if held and ipaddress.IPv4Address(held) in self.network:
            return Allocation(held)
        taken = {int(ipaddress.IPv4Address(address)) for address in used.values() if address}
        start = int.from_bytes(hashlib.sha256(pod_uid.encode()).digest()[:8], "big") % self.capacity
        for step in range(self.capacity):
            candidate = self._first + (start + step) % self.capacity
            if candidate not in taken:
                return Allocation(str(ipaddress.IPv4Address(candidate)))
        return Allocation("", f"all {self.capacity} addresses of the node's pod range {self.network} are in use")


def gateway(cidr: str) -> str:
    """The bridge's own address in a node's range: the first host address."""
    return str(ipaddress.IPv4Network(cidr).network_address + 1)
