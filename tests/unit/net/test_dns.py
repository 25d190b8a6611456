from __future__ import annotations

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from net.dns import DnsServer
from net.dns_records import Zone
from steersman.clock import ManualClock
from steersman.types import EndpointSlice, Service


def make_server(upstream=()):
    zone = Zone("cluster.local", "10.96.0.0/16", "10.244.0.0/16")
    spec = {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}
    zone.update(
        "default/web", Service.from_dict({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}), ()
    )
    many = [{"addresses": [f"10.244.{n // 250}.{n % 250 + 1}"]} for n in range(120)]
    zone.update(
        "default/crowd",
        Service.from_dict({"metadata": {"name": "crowd", "namespace": "default"}, "spec": {"clusterIP": "None"}}),
        [EndpointSlice.from_dict({"metadata": {"name": "c", "namespace": "default"}, "endpoints": many})],
    )
    near = {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}
    zone.update(
        "default/near", Service.from_dict({"metadata": {"name": "near", "namespace": "default"}, "spec": near}), ()
    )
    return DnsServer("10.96.0.10", zone, upstream, ManualClock()), zone


def ask(server, name, kind="A", *, stream=False, edns=0, number=7):
    question = DNSRecord(DNSHeader(id=number, rd=1), q=DNSQuestion(name, getattr(QTYPE, kind)))
    if edns:
        question.add_ar(EDNS0(udp_len=edns))
    answer = server.respond(bytes(question.pack()), stream=stream)
    return DNSRecord.parse(answer) if isinstance(answer, bytes) else answer


def test_an_answer_carries_the_question_in_the_case_it_was_asked():
    server, _ = make_server()
    reply = ask(server, "WEB.default.SVC.cluster.local")
    assert str(reply.q.qname) == "WEB.default.SVC.cluster.local."
    assert str(reply.rr[0].rdata) == "10.96.0.7"
    assert (reply.header.aa, reply.header.rd, reply.header.ra) == (1, 1, 0)


def test_a_remembered_answer_has_the_number_of_its_own_question_and_dies_with_the_zones_change():
    server, zone = make_server()
    assert ask(server, "web.default.svc.cluster.local", number=1).header.id == 1
    again = ask(server, "web.default.svc.cluster.local", number=2)
    assert (again.header.id, str(again.rr[0].rdata)) == (2, "10.96.0.7")
    zone.update("default/web", None, ())
    assert ask(server, "web.default.svc.cluster.local", number=3).header.rcode == RCODE.NXDOMAIN


def test_negative_answers_carry_the_soa():
    server, _ = make_server()
    for name, rcode in (("nope.default.svc.cluster.local", RCODE.NXDOMAIN), ("svc.cluster.local", RCODE.NOERROR)):
        reply = ask(server, name)
        assert reply.header.rcode == rcode
        assert [record.rtype for record in reply.auth] == [QTYPE.SOA]


def test_a_cname_inside_the_cluster_is_followed():
    server, _ = make_server()
    reply = ask(server, "near.default.svc.cluster.local")
    assert [QTYPE[record.rtype] for record in reply.rr] == ["CNAME", "A"]


def test_what_does_not_fit_a_datagram_is_cut_and_whole_by_tcp():
    server, _ = make_server()
    plain = ask(server, "crowd.default.svc.cluster.local")
    assert (plain.header.tc, len(plain.rr)) == (1, 0)
    assert ask(server, "crowd.default.svc.cluster.local", edns=65535).header.tc == 1
    whole = ask(server, "crowd.default.svc.cluster.local", stream=True)
    assert (whole.header.tc, len(whole.rr)) == (0, 120)


def test_clients_are_spread_by_turning_the_answer():
    server, _ = make_server()
    first = {
        str(ask(server, "crowd.default.svc.cluster.local", stream=True, number=number).rr[0].rdata)
        for number in range(9)
    }
    assert len(first) == 9


def test_names_outside_are_refused_or_asked_elsewhere():
    alone, _ = make_server()
    assert ask(alone, "example.org").header.rcode == RCODE.REFUSED
    forwarding, _ = make_server(["192.0.2.53"])
    assert isinstance(forwarding.respond(bytes(DNSRecord.question("example.org").pack()), stream=False), DNSRecord)


@pytest.mark.parametrize("kind", ["AAAA", "MX", "SRV", "HTTPS"])
def test_other_types_of_a_name_that_exists_have_no_answer(kind):
    server, _ = make_server()
    reply = ask(server, "web.default.svc.cluster.local", kind)
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])


@given(st.binary(max_size=200))
def test_garbage_never_raises_and_never_starts_a_conversation_of_answers(data):
    server, _ = make_server()
    for stream in (False, True):
        answer = server.respond(data, stream=stream)
        if len(data) < 12 or data[2] & 0x80:
            assert answer is None
        else:
            assert isinstance(answer, bytes)
            assert answer[:2] == data[:2]
            assert answer[2] & 0x80


@given(st.data())
def test_a_damaged_question_is_answered_all_the_same(data):
    server, _ = make_server()
    query = bytearray(DNSRecord.question("web.default.svc.cluster.local", "SRV").pack())
    for _ in range(data.draw(st.integers(1, 4))):
        query[data.draw(st.integers(3, len(query) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(server.respond(bytes(query), stream=False), bytes)
