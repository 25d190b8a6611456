"""Hears from the kernel that someone changed the network.

Two netlink sockets: one hears of links, addresses, routes and neighbours that go away, the other of new generations of
nftables. What they say is only a hint to look: our own changes are heard too, and when the kernel had more to say than
the socket could hold it says so, which is a hint as well. Messages are read by their headers alone, because a start of
fifty pods makes hundreds of them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterator

from net.nft import NETLINK_NETFILTER, NEW_GENERATION

RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x4, 0x10, 0x40
NFNLGRP_NFTABLES = 7
NETLINK_ADD_MEMBERSHIP = 1
RTM_NEWLINK, RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE, RTM_DELNEIGH = 16, 17, 21, 25, 29
REMOVALS = {RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE, RTM_DELNEIGH}
IFF_UP = 1
BUFFER = 1 << 20  # bytes the kernel may queue for us: a bulk change of 1,000 Services fits


def open_sockets() -> tuple[socket.socket, socket.socket]:
    """The routing and the nftables socket, in the calling thread's network namespace."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    routing = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    routing.bind((0, RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE))
    rules = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
    rules.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    rules.bind((0, 0))
    rules.setsockopt(270, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)  # 270: SOL_NETLINK
    return routing, rules


def headers(data: bytes) -> Iterator[tuple[int, int]]:
    """The type and the offset of each message in what one read gave."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            return
        yield kind, offset
        offset += (length + 3) & ~3


def links_suffered(data: bytes, own_links: Collection[int]) -> bool:
    """Whether something was removed, or one of our own links (by interface number) is down."""
    for kind, offset in headers(data):
        if kind in REMOVALS:
            return True
        if kind == RTM_NEWLINK and offset + 28 <= len(data):
            index, flags = struct.unpack_from("=iI", data, offset + 20)
            if index in own_links and not flags & IFF_UP:
                return True
    return False


def rules_changed(data: bytes) -> bool:
    """Whether a transaction was committed."""
    return any(kind == NEW_GENERATION for kind, _ in headers(data))


class DriftWatch:
    """Calls back, on the event loop, when it is worth looking at the links or at the rules."""

    def __init__(
        self,
        sockets: tuple[socket.socket, socket.socket],
        own_links: Callable[[], Collection[int]],
        on_links: Callable[[], None],
        on_rules: Callable[[], None],
    ) -> None:
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        routing, rules = sockets
        self._loop.add_reader(routing, self._read, routing, lambda data: links_suffered(data, own_links()), on_links)
        self._loop.add_reader(rules, self._read, rules, rules_changed, on_rules)

    @staticmethod
    def _read(channel: socket.socket, matters: Callable[[bytes], bool], tell: Callable[[], None]) -> None:
        found = False
        try:
            while data := channel.recv(1 << 16):
                found = found or matters(data)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            found = True
        if found:
            tell()

    def close(self) -> None:
        """Stop listening."""
        for channel in self._sockets:
            self._loop.remove_reader(channel)
            channel.close()
