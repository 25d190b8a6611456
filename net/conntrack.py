"""Forgets the connections that the kernel still sends to an endpoint that left its Service.

Address translation is decided by a connection's first packet; later ones follow the conntrack entry. A UDP "connection"
whose client keeps sending from one port (a resolver, a metrics sender) would follow a dead endpoint for ever, so its
entries are deleted and the next packet picks another. TCP connections that are open stay: an endpoint that is leaving
may finish them. Those that never got an answer are deleted, so that the client's next SYN goes elsewhere.

The kernel walks its whole table for every question, some 10 ms for 262,144 buckets however few entries there are. So all
endpoints of a protocol are one question; the kernel picks the translated entries of the protocol (for TCP the unanswered
ones), and only what matches an endpoint is deleted, each by its own key.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator

NETLINK_NETFILTER = 12
NEW, GET, DELETE = 1 << 8, 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK: IPCTNL_MSG_CT_NEW, GET, DELETE
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NESTED, KIND_MASK = 0x8000, 0x3FFF
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_FILTER, CTA_STATUS_MASK = 1, 2, 3, 25, 26
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT = 1, 1, 2
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
MATCH_PROTOCOL = 1 << 3
SEEN_REPLY, TRANSLATED = 1 << 1, 1 << 5  # IPS_SEEN_REPLY, IPS_DST_NAT
TCP = 6
TIMEOUT_S = 5.0  # for one read; the table may hold a million entries
READ_SIZE = 1 << 16

Target = tuple[int, str, int]


def forget(targets: Collection[Target]) -> int:
    """Delete the entries that lead to (protocol number, address, port), in the calling thread's network namespace.

    Returns:
        how many were deleted.

    Raises:
        OSError: the kernel refused, or is older than the filter (Linux 5.8).
    """
    deleted = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT_S)
        for protocol in sorted({protocol for protocol, _, _ in targets}):
            channel.send(question(protocol))
            found = [key for target, key in entries(_answers(channel)) if target in targets]
            for key in found:
                channel.send(deletion(key))
                code = _error(channel.recv(READ_SIZE))
                if code not in (0, errno.ENOENT):
                    raise OSError(code, os.strerror(code))
            deleted += len(found)
    return deleted


def question(protocol: int) -> bytes:
    """The message that asks for the translated entries of a protocol; of TCP, those that saw no answer."""
    mask = TRANSLATED | (SEEN_REPLY if protocol == TCP else 0)
    flow = _attribute(CTA_TUPLE_PROTO | NESTED, _attribute(CTA_PROTO_NUM, bytes([protocol])))
    flags = _attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", 0))
    flags += _attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", MATCH_PROTOCOL))
    body = _attribute(CTA_TUPLE_REPLY | NESTED, flow) + _attribute(CTA_FILTER | NESTED, flags)
    body += _attribute(CTA_STATUS, struct.pack(">I", TRANSLATED)) + _attribute(CTA_STATUS_MASK, struct.pack(">I", mask))
    return _message(GET, NLM_F_REQUEST | NLM_F_DUMP, body)


def deletion(key: bytes) -> bytes:
    """The message that deletes the entry with the original tuple `key`."""
    return _message(DELETE, NLM_F_REQUEST | NLM_F_ACK, _attribute(CTA_TUPLE_ORIG | NESTED, key))


def entries(answers: Iterator[bytes]) -> Iterator[tuple[Target, bytes]]:
    """Where each entry leads to, and its key.

    An entry's reply comes from the endpoint, so that is what the reply tuple's source says.
    """
    for body in answers:
        entry = dict(_attributes(body))
        reply = dict(_attributes(entry.get(CTA_TUPLE_REPLY, b"")))
        source = dict(_attributes(reply.get(CTA_TUPLE_IP, b""))).get(CTA_IP_V4_SRC, b"")
        flow = dict(_attributes(reply.get(CTA_TUPLE_PROTO, b"")))
        port, protocol = flow.get(CTA_PROTO_SRC_PORT, b""), flow.get(CTA_PROTO_NUM, b"")
        if len(source) == 4 and len(port) == 2 and protocol and CTA_TUPLE_ORIG in entry:
            target = protocol[0], socket.inet_ntoa(source), int.from_bytes(port, "big")
            yield target, entry[CTA_TUPLE_ORIG]


def _answers(channel: socket.socket) -> Iterator[bytes]:
    """The attributes of each entry of a dump."""
    while True:
        data, offset = channel.recv(READ_SIZE), 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind == NLMSG_DONE or length < 16:
                return
            if kind == NLMSG_ERROR:
                code = _error(data[offset:])
                raise OSError(code, os.strerror(code))
            if kind == NEW:
                yield data[offset + 20 : offset + length]
            offset += (length + 3) & ~3


def _error(message: bytes) -> int:
    return -int(struct.unpack_from("=i", message, 16)[0])


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & KIND_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    family = struct.pack("=BBH", socket.AF_INET, 0, 0)
    return struct.pack("=IHHII", 20 + len(body), kind, flags, 0, 0) + family + body
