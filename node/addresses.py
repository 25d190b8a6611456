"""Which pod has which address of the node's range: the pure choice is `net.ipam`, this remembers what was chosen."""

from __future__ import annotations

from net.ipam import Ipam
from node.pods.host import NoAddressError


class AddressBook:
    """Addresses by pod uid. A restarted agent fills it from its records before it starts any pod."""

    def __init__(self) -> None:
        self._ipam: Ipam | None = None
        self._used: dict[str, str] = {}

    def serve(self, cidr: str) -> None:
        """The node's range is known. Raises ValueError when it is no usable range."""
        self._ipam = Ipam(cidr)

    def adopt(self, uid: str, address: str) -> None:
        """A pod that is here already has this address."""
        self._used[uid] = address

    def allocate(self, uid: str) -> str:
        if self._ipam is None:
            raise NoAddressError("the node's pod range is not known yet")
        allocation = self._ipam.allocate(uid, self._used)
        if not allocation.address:
            raise NoAddressError(allocation.reason)
        self._used[uid] = allocation.address
        return allocation.address

    def release(self, uid: str) -> None:
        self._used.pop(uid, None)
