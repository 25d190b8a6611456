"""Forgets the connections that the kernel still sends to an endpoint that left its Service.

Address translation is decided by a connection's first packet; later ones follow the conntrack entry. A UDP "connection"
whose client keeps sending from one port (a resolver, a metrics sender) would follow a dead endpoint for ever, so its
entries are deleted and the next packet picks another. TCP connections that are open stay: an endpoint that is leaving
may finish them. Those that never got an answer are deleted, so that the client's next SYN goes elsewhere.

The kernel does the filtering (CTA_FILTER, Linux 5.8), one message for each endpoint.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

NETLINK_NETFILTER = 12
DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NESTED = 0x8000
CTA_TUPLE_REPLY, CTA_STATUS, CTA_FILTER, CTA_STATUS_MASK = 2, 3, 25, 26
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT = 1, 1, 2
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
MATCH_SOURCE_IP, MATCH_PROTOCOL, MATCH_SOURCE_PORT = 1 << 0, 1 << 3, 1 << 4
SEEN_REPLY, TRANSLATED = 1 << 1, 1 << 5  # IPS_SEEN_REPLY, IPS_DST_NAT
TCP = 6
TIMEOUT_S = 5.0  # the kernel walks its whole table, which may hold a million entries


def forget(targets: Iterable[tuple[int, str, int]]) -> None:
    """Delete the entries that lead to (protocol number, address, port), in the calling thread's network namespace.

    Raises:
        OSError: the kernel refused, or is older than the filter.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT_S)
        for protocol, address, port in sorted(targets):
            channel.send(message(protocol, address, port))
            code = -struct.unpack_from("=i", channel.recv(4096), 16)[0]
            if code not in (0, errno.ENOENT):
                raise OSError(code, f"conntrack entries of {address}:{port}: {os.strerror(code)}")


def message(protocol: int, address: str, port: int) -> bytes:
    """The netlink message that deletes the entries of one endpoint.

    An entry's reply comes from the endpoint, so the reply tuple's source is what to match.
    """
    mask = TRANSLATED | (SEEN_REPLY if protocol == TCP else 0)
    source = _attribute(CTA_TUPLE_IP | NESTED, _attribute(CTA_IP_V4_SRC, socket.inet_aton(address)))
    flow = _attribute(CTA_PROTO_NUM, bytes([protocol])) + _attribute(CTA_PROTO_SRC_PORT, struct.pack(">H", port))
    matched = MATCH_SOURCE_IP | MATCH_PROTOCOL | MATCH_SOURCE_PORT
    body = struct.pack("=BBH", socket.AF_INET, 0, 0)
    body += _attribute(CTA_TUPLE_REPLY | NESTED, source + _attribute(CTA_TUPLE_PROTO | NESTED, flow))
    body += _attribute(CTA_STATUS, struct.pack(">I", TRANSLATED)) + _attribute(CTA_STATUS_MASK, struct.pack(">I", mask))
    body += _attribute(
        CTA_FILTER | NESTED,
        _attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", 0))
        + _attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", matched)),
    )
    return struct.pack("=IHHII", 16 + len(body), DELETE, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)
