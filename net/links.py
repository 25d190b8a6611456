"""The kernel's links, addresses, routes and neighbours: reads them as plan items, and makes plan items so (pyroute2).

Everything here runs inside the host's `NamespaceThread`: netlink sockets are made and used in that one thread only. A
pod's namespace is set up from the inside by a socket that lives as long as the visit. The veth pair is born with its
far end already in the pod's namespace, so no half-configured link is ever seen on the host.

Adding is replacing: `add` may be called for what is there already. What is gone already counts as removed.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from net.netns import NamespaceThread
from net.plan import (
    BRIDGE,
    POD_ROLE,
    PORT_ROLE,
    ROUTE_PROTOCOL,
    TUNNEL,
    VXLAN_PORT,
    Address,
    Forwarding,
    Item,
    Items,
    Link,
    Neighbour,
    Port,
    Route,
    Sysctl,
    Underlay,
    is_pod_link,
    mac_of,
    pod_link,
)

logging.getLogger("pyroute2").setLevel(logging.INFO)  # its debug lines hold every message whole

OWN_LINKS = (BRIDGE, TUNNEL)
IFF_UP = 0x1
NUD_PERMANENT = 0x80
NUD_NOARP = 0x40
NTF_SELF = 0x02
RTNH_F_ONLINK = 0x4
SCOPE_GLOBAL = 0
SCOPE_HOST = 254
SKIP_STATISTICS = 0x8  # RTEXT_FILTER_SKIP_STATS: a link's counters are most of its message
REAPED_GROUP = 0x5354  # links about to be deleted together; the kernel's default group is 0

GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO}


class NetworkError(Exception):
    """The kernel refused; the message says what was asked and what it answered."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's place in the network."""

    pod_uid: str
    netns_path: str
    address: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod's end of the network needs to know of the host."""

    gateway: str
    gateway_mac: str
    mtu: int


class HostLinks:
    """The host's links. Make it, use it and close it inside `thread`."""

    def __init__(self, thread: NamespaceThread) -> None:
        self._thread = thread
        self._route = IPRoute()
        self._index: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def underlay(self, host_ip: str, interface: str) -> Underlay:
        """Find the link that carries the host's address.

        Raises:
            NetworkError: no link, or not the one named, has it.
        """
        names = {link["index"]: link for link in self._links()}
        for address in self._route.get_addr(family=socket.AF_INET):
            link = names.get(address["index"])
            if link is None:
                continue
            name = link.get_attr("IFLA_IFNAME")
            if address.get_attr("IFA_LOCAL") == host_ip and name not in OWN_LINKS and interface in ("", name):
                return Underlay(name, link.get_attr("IFLA_MTU"))
        where = f"link {interface}" if interface else "no link of this host"
        raise NetworkError(f"{where} has the address {host_ip}: give the node the address of one of its links")

    def read(self, wanted: Items) -> Items:
        """What is there, of the kinds of things that are ours.

        Settings (sysctls) are read only where `wanted` names them; routes, if they carry our protocol number; neighbours
        and forwarding entries, if they are permanent and on our links.

        Raises:
            NetworkError: the kernel refused.
        """
        with _explained("cannot read the host's network"):
            return self._read(wanted)

    def _read(self, wanted: Items) -> Items:
        links = list(self._links())
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
        self._index = {name: index for index, name in names.items()}
        items: list[Item] = [found for link in links if (found := _link_item(link, names))]
        for item in wanted.values():
            if isinstance(item, Sysctl):
                value = _read_sysctl(item.path)
                if value is not None or item.optional:
                    items.append(replace(item, value=value or item.value))
        for address in self._route.get_addr(family=socket.AF_INET):
            if (name := names.get(address["index"])) in OWN_LINKS:
                items.append(Address(name, address.get_attr("IFA_LOCAL"), address["scope"] == SCOPE_HOST))
        for route in self._route.get_routes(family=socket.AF_INET, table=254):
            if route["proto"] == ROUTE_PROTOCOL:
                items.append(_route_item(route, names))
        for entry in self._route.get_neighbours(family=socket.AF_INET):
            if entry["state"] & NUD_PERMANENT and (name := names.get(entry["ifindex"])) in (BRIDGE, TUNNEL):
                items.append(Neighbour(name, entry.get_attr("NDA_DST"), entry.get_attr("NDA_LLADDR")))
        if TUNNEL in self._index:
            for entry in self._route.fdb("dump", ifindex=self._index[TUNNEL]):
                if destination := entry.get_attr("NDA_DST"):
                    items.append(Forwarding(TUNNEL, entry.get_attr("NDA_LLADDR"), destination))
        return {item.key: item for item in items}

    def _links(self) -> Iterable[Any]:
        return self._route.link("dump", ext_mask=SKIP_STATISTICS)  # type: ignore[no-any-return]

    def own_indexes(self) -> dict[int, str]:
        """Interface numbers of the host's own links, as last read."""
        return {index: name for name, index in self._index.items() if name in OWN_LINKS}

    # --- changing -----------------------------------------------------------------------------------------------

    def add(self, item: Item, attachments: Mapping[str, Attachment], surroundings: Surroundings) -> None:
        """Make one item so.

        Args:
            item: what should be.
            attachments: by link name; a Port that is missing is made by attaching its pod again.
            surroundings: for the same.

        Raises:
            NetworkError: the kernel refused.
        """
        if isinstance(item, Port) and not self._lookup(item.name):
            if attachment := attachments.get(item.name):
                self.attach(attachment, surroundings)
            return
        with _explained(f"cannot set {item}"):
            self._adders[type(item)](self, item)

    def remove(self, items: Iterable[Item]) -> None:
        """Remove items, in the order given; pods' links go together.

        Raises:
            NetworkError: the kernel refused.
        """
        ports: list[str] = []
        for item in items:
            if isinstance(item, Port):
                ports.append(item.name)
            elif remover := self._removers.get(type(item)):
                with _explained(f"cannot remove {item}"), _gone():
                    remover(self, item)
        self.detach(ports)

    def attach(self, attachment: Attachment, surroundings: Surroundings) -> None:
        """Plug a pod's network namespace into the bridge; once more: put right what differs.

        Raises:
            NetworkError: the namespace is gone or a step was refused; a link made here is removed again.
        """
        name = pod_link(attachment.pod_uid)
        try:
            fd = os.open(attachment.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkError(
                f"cannot open the pod's network namespace {attachment.netns_path}: {error.strerror}"
            ) from error
        try:
            with _explained(f"cannot attach pod {attachment.pod_uid} with address {attachment.address}"):
                self._plug(name, fd, attachment, surroundings)
        except NetworkError:
            with suppress(NetworkError):
                self.detach([name])
            raise
        finally:
            os.close(fd)

    def _plug(self, name: str, fd: int, attachment: Attachment, surroundings: Surroundings) -> None:
        mac = mac_of(attachment.address, POD_ROLE)
        try:
            self._make_pair(name, fd, attachment.address, surroundings.mtu)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            with self._thread.visiting(fd):
                ours = _has_link("eth0", mac)
            if not ours:  # left over from a sandbox that is gone, or eth0 is something else's
                self.detach([name])
                self._make_pair(name, fd, attachment.address, surroundings.mtu)
            else:
                self._add_port(Port(name))
        self._add_neighbour(Neighbour(BRIDGE, attachment.address, mac))
        with self._thread.visiting(fd):
            _configure_pod(attachment.address, surroundings)

    def _make_pair(self, name: str, fd: int, address: str, mtu: int) -> None:
        self._route.link(
            "add",
            ifname=name,
            kind="veth",
            address=mac_of(address, PORT_ROLE),
            mtu=mtu,
            master=self._find(BRIDGE),
            state="up",
            peer={"ifname": "eth0", "net_ns_fd": fd, "address": mac_of(address, POD_ROLE), "mtu": mtu},
        )
        _write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1", needed=False)

    def detach(self, names: Iterable[str]) -> None:
        """Delete pods' links, all in one stroke: the kernel waits some 20 ms for each deletion however many links it has.

        Raises:
            NetworkError: the kernel refused.
        """
        indexes = [index for name in names if (index := self._lookup(name))]
        with _explained("cannot remove pods' links"):
            if len(indexes) == 1:
                with _gone():
                    self._route.link("del", index=indexes[0])
            elif indexes:
                for index in indexes:
                    with _gone():
                        self._route.link("set", index=index, group=REAPED_GROUP)
                with _gone():
                    self._route.link("del", index=0, group=REAPED_GROUP)

    def _find(self, name: str) -> int:
        """The number of one of the host's own links, which seldom changes."""
        index = self._index.get(name) or self._lookup(name)
        if not index:
            raise NetlinkError(errno.ENODEV, f"no link {name}")
        self._index[name] = index
        return index

    def _get(self, name: str) -> Any:
        try:
            found = list(self._route.link("get", ifname=name, ext_mask=SKIP_STATISTICS))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            return None
        return found[0] if found else None

    def _lookup(self, name: str) -> int:
        link = self._get(name)
        return int(link["index"]) if link else 0

    def _add_link(self, item: Link) -> None:
        link = self._get(item.name)
        if not link:
            options: dict[str, Any] = {}
            if item.kind == "bridge":
                options = {"br_stp_state": 0, "br_mcast_snooping": 0}
            elif item.kind == "vxlan":
                options = {
                    "vxlan_id": item.vni,
                    "vxlan_local": item.local,
                    "vxlan_link": self._lookup(item.underlay),
                    "vxlan_port": VXLAN_PORT,
                    "vxlan_learning": False,
                }
            self._route.link("add", ifname=item.name, kind=item.kind, address=item.mac, **options)
            _write_sysctl(f"ipv6/conf/{item.name}/disable_ipv6", "1", needed=False)
            link = self._get(item.name)
        index = self._index[item.name] = link["index"]
        if link.get_attr("IFLA_ADDRESS") != item.mac:  # setting the same would flush the link's neighbours
            self._route.link("set", index=index, address=item.mac)
        if link.get_attr("IFLA_MTU") != item.mtu:  # not at birth: a bridge keeps only an MTU that was set later
            self._route.link("set", index=index, mtu=item.mtu)
        self._route.link("set", index=index, state="up" if item.up else "down")

    def _add_port(self, item: Port) -> None:
        self._route.link("set", index=self._lookup(item.name), master=self._find(item.master), state="up")

    def _add_sysctl(self, item: Sysctl) -> None:
        _write_sysctl(item.path, item.value, needed=True)

    def _add_address(self, item: Address) -> None:
        scope = SCOPE_HOST if item.listening else SCOPE_GLOBAL
        self._route.addr("replace", index=self._find(item.link), address=item.address, prefixlen=32, scope=scope)

    def _add_route(self, item: Route) -> None:
        options: dict[str, Any] = {"oif": self._find(item.link), "proto": ROUTE_PROTOCOL}
        if item.source:
            options["prefsrc"] = item.source
        if item.gateway:
            options |= {"gateway": item.gateway, "flags": RTNH_F_ONLINK}
        else:
            options["scope"] = "link"
        self._route.route("replace", dst=item.destination, **options)

    def _add_neighbour(self, item: Neighbour) -> None:
        self._route.neigh(
            "replace", dst=item.address, lladdr=item.mac, ifindex=self._find(item.link), state=NUD_PERMANENT
        )

    def _add_forwarding(self, item: Forwarding) -> None:
        self._route.fdb(
            "replace",
            ifindex=self._find(item.link),
            lladdr=item.mac,
            dst=item.destination,
            state=NUD_PERMANENT | NUD_NOARP,
            flags=NTF_SELF,
        )

    def _remove_link(self, item: Link) -> None:
        self._route.link("del", index=self._lookup(item.name))
        self._index.pop(item.name, None)

    def _remove_address(self, item: Address) -> None:
        self._route.addr("del", index=self._find(item.link), address=item.address, prefixlen=32)

    def _remove_route(self, item: Route) -> None:
        self._route.route("del", dst=item.destination, proto=ROUTE_PROTOCOL)

    def _remove_neighbour(self, item: Neighbour) -> None:
        self._route.neigh("del", dst=item.address, lladdr=item.mac, ifindex=self._find(item.link))

    def _remove_forwarding(self, item: Forwarding) -> None:
        self._route.fdb("del", ifindex=self._find(item.link), lladdr=item.mac, dst=item.destination)

    _adders: Mapping[type, Callable[..., None]] = {
        Link: _add_link,
        Port: _add_port,
        Sysctl: _add_sysctl,
        Address: _add_address,
        Route: _add_route,
        Neighbour: _add_neighbour,
        Forwarding: _add_forwarding,
    }
    _removers: Mapping[type, Callable[..., None]] = {
        Link: _remove_link,
        Address: _remove_address,
        Route: _remove_route,
        Neighbour: _remove_neighbour,
        Forwarding: _remove_forwarding,
    }


# --- inside a pod's namespace -----------------------------------------------------------------------------------------


def _configure_pod(address: str, surroundings: Surroundings) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname="eth0")[0]
        _write_sysctl("ipv6/conf/eth0/disable_ipv6", "1", needed=False)
        route.link("set", index=1, state="up")
        route.addr("replace", index=index, address=address, prefixlen=32)
        route.link("set", index=index, state="up")
        route.neigh(
            "replace", dst=surroundings.gateway, lladdr=surroundings.gateway_mac, ifindex=index, state=NUD_PERMANENT
        )
        route.route("replace", dst=f"{surroundings.gateway}/32", oif=index, scope="link")
        route.route("replace", dst="default", gateway=surroundings.gateway, oif=index)


def _has_link(name: str, mac: str) -> bool:
    with IPRoute() as route:
        return any(
            link.get_attr("IFLA_IFNAME") == name and link.get_attr("IFLA_ADDRESS") == mac for link in route.link("dump")
        )


# --- messages into items --------------------------------------------------------------------------------------------


def _link_item(link: Any, names: Mapping[int, str]) -> Link | Port | None:
    name, up = link.get_attr("IFLA_IFNAME"), bool(link["flags"] & IFF_UP)
    if is_pod_link(name):
        return Port(name, names.get(link.get_attr("IFLA_MASTER") or 0, ""), up)
    if name not in OWN_LINKS:
        return None
    kind = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    local, underlay, vni = "", "", 0
    if kind == "vxlan":
        data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        local = data.get_attr("IFLA_VXLAN_LOCAL") or ""
        underlay = names.get(data.get_attr("IFLA_VXLAN_LINK") or 0, "")
        vni = data.get_attr("IFLA_VXLAN_ID") or 0
    return Link(name, kind, link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_MTU"), up, local, underlay, vni)


def _route_item(route: Any, names: Mapping[int, str]) -> Route:
    destination = route.get_attr("RTA_DST") or "0.0.0.0"
    return Route(
        str(ipaddress.IPv4Network(f"{destination}/{route['dst_len']}")),
        names.get(route.get_attr("RTA_OIF") or 0, ""),
        route.get_attr("RTA_GATEWAY") or "",
        route.get_attr("RTA_PREFSRC") or "",
    )


# --- settings ---------------------------------------------------------------------------------------------------------

SYSCTL_ROOT = Path("/proc/sys/net")


def _read_sysctl(path: str) -> str | None:
    try:
        return (SYSCTL_ROOT / path).read_text().strip()
    except OSError:
        return None


def _write_sysctl(path: str, value: str, *, needed: bool) -> None:
    """Write a setting; one that is not `needed` may not exist on this kernel."""
    try:
        (SYSCTL_ROOT / path).write_text(value)
    except OSError:
        if needed:
            raise


# --- errors -------------------------------------------------------------------------------------------------------------


class _explained:  # noqa: N801 - reads as a verb in `with`
    """Turn the kernel's refusal into a NetworkError that says what was asked."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NetlinkError):
            raise NetworkError(f"{self._what}: {os.strerror(error.code)}") from error
        if isinstance(error, OSError):
            raise NetworkError(f"{self._what}: {error.strerror}") from error


class _gone:  # noqa: N801 - reads as an adjective in `with`
    """Let pass that something to be removed is not there."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, NetlinkError) and error.code in GONE
