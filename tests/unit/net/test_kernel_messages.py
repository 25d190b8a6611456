"""What is read from and written to netlink by hand."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from net import conntrack, nft, watch
from net.service import ServiceTable
from net.view import HostNetwork


def message(kind, body=b""):
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + b"\0" * (-len(body) % 4)


def link(index, flags):
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, 0)


def test_removals_and_own_links_that_go_down_are_hints_and_pods_that_start_are_not():
    new_pod = message(watch.RTM_NEWLINK, link(9, 0)) + message(watch.RTM_NEWLINK, link(9, watch.IFF_UP))
    assert not watch.links_suffered(new_pod, {3, 4})
    assert watch.links_suffered(new_pod + message(watch.RTM_NEWLINK, link(3, 0)), {3, 4})
    assert not watch.links_suffered(message(watch.RTM_NEWLINK, link(3, watch.IFF_UP)), {3, 4})
    assert watch.links_suffered(new_pod + message(watch.RTM_DELROUTE, bytes(12)), {3, 4})


def test_a_committed_transaction_is_a_hint():
    assert not watch.rules_changed(message(nft.GET_GENERATION))
    assert watch.rules_changed(message(nft.GET_GENERATION, b"12345") + message(nft.NEW_GENERATION))


@given(st.binary(max_size=300))
def test_garbage_from_a_socket_raises_nothing(data):
    watch.links_suffered(data, {1})
    watch.rules_changed(data)
    nft.parse_generation(data)


def test_the_generation_is_read_from_the_kernels_answer():
    attribute = struct.pack("=HH", 8, nft.NFTA_GEN_ID) + struct.pack(">I", 4711)
    assert nft.parse_generation(message(nft.NEW_GENERATION, bytes(4) + attribute)) == 4711


def attribute(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def test_connections_are_matched_by_where_their_answers_come_from():
    key = attribute(conntrack.CTA_TUPLE_IP, b"whatever the client sent")
    reply = attribute(conntrack.CTA_TUPLE_IP, attribute(conntrack.CTA_IP_V4_SRC, bytes([10, 244, 1, 5])))
    flow = attribute(conntrack.CTA_PROTO_NUM, b"\x11") + attribute(
        conntrack.CTA_PROTO_SRC_PORT, struct.pack(">H", 5353)
    )
    reply += attribute(conntrack.CTA_TUPLE_PROTO, flow)
    entry = attribute(conntrack.CTA_TUPLE_ORIG | conntrack.NESTED, key) + attribute(conntrack.CTA_TUPLE_REPLY, reply)
    assert list(conntrack.entries(iter([entry, b"", entry[:-9]]))) == [((17, "10.244.1.5", 5353), key)]
    assert key in conntrack.deletion(key)


def test_of_tcp_only_unanswered_connections_are_asked_for():
    open_ones_too = struct.pack(">I", conntrack.TRANSLATED | conntrack.SEEN_REPLY)
    assert open_ones_too in conntrack.question(6)
    assert open_ones_too not in conntrack.question(17)
    for protocol in (6, 17, 132):
        asked = conntrack.question(protocol)
        assert struct.unpack_from("=I", asked)[0] == len(asked)


def test_a_listed_table_compares_equal_to_what_was_written():
    host, services = HostNetwork("n", "172.29.0.101"), ServiceTable()
    expected = nft.expected_content(host, "10.244.1.0/24", services)
    listed = [{"metainfo": {}}, {"table": {"name": "steersman"}}]
    listed += [{"set": {"name": name}} for name in ("hairpin", "refused")]
    listed += [{"map": {"name": name}} for name in ("services", "nodeports")]
    for name, marks in expected.chains.items():
        listed.append({"chain": {"name": name}})
        listed += [{"rule": {"chain": name, "comment": mark}} for mark in marks]
    assert nft.content_of(listed) == expected
    assert nft.content_of(listed[:-1]) != expected
    element = [{"concat": ["10.96.0.7", 6, 80]}, {"goto": {"target": "service-x"}}]
    content = nft.content_of([{"map": {"name": "services", "elem": [element]}}])
    assert content.elements == {("services", "10.96.0.7 . 6 . 80"): "goto service-x"}
