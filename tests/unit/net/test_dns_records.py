from __future__ import annotations

import pytest

from net.dns_records import AAAA, ANY, CNAME, NOERROR, NXDOMAIN, PTR, SOA, SRV, TXT, A, Zone
from steersman.types import EndpointSlice, Service


@pytest.fixture
def zone():
    zone = Zone("cluster.local", "10.96.0.0/16", "10.244.0.0/16")
    zone.namespaces = {"default", "quiet"}
    ports = [{"name": "http", "port": 80}, {"name": "", "port": 81}]
    add(zone, "web", {"clusterIP": "10.96.0.7", "ports": ports})
    endpoints = [
        {"addresses": ["10.244.1.5"], "hostname": "db-0"},
        {"addresses": ["10.244.2.6"], "conditions": {"ready": True}},
        {"addresses": ["10.244.2.7"], "hostname": "db-2", "conditions": {"ready": False}},
    ]
    add(zone, "db", {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}, endpoints)
    add(zone, "away", {"type": "ExternalName", "externalName": "Example.org."})
    return zone


def add(zone, name, spec, endpoints=(), namespace="default"):
    service = Service.from_dict({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    piece = EndpointSlice.from_dict(
        {
            "metadata": {"name": name, "namespace": namespace},
            "ports": [{"name": "sql", "port": 5433}],
            "endpoints": list(endpoints),
        }
    )
    zone.update(f"{namespace}/{name}", service, [piece] if endpoints else [])


def data(answer):
    return [record.data for record in answer.records]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.default.svc.cluster.local", A, ["10.96.0.7"]),
        ("web.default.svc.cluster.local", ANY, ["10.96.0.7"]),
        ("db.default.svc.cluster.local", A, ["10.244.2.6", "10.244.1.5"]),
        ("db-0.db.default.svc.cluster.local", A, ["10.244.1.5"]),
        ("10-244-2-6.db.default.svc.cluster.local", A, ["10.244.2.6"]),
        ("away.default.svc.cluster.local", A, ["example.org"]),
        ("_http._tcp.web.default.svc.cluster.local", SRV, [(0, 100, 80, "web.default.svc.cluster.local")]),
        (
            "_sql._tcp.db.default.svc.cluster.local",
            SRV,
            [
                (0, 50, 5433, "10-244-2-6.db.default.svc.cluster.local"),
                (0, 50, 5433, "db-0.db.default.svc.cluster.local"),
            ],
        ),
        ("10-244-1-5.default.pod.cluster.local", A, ["10.244.1.5"]),
        ("7.0.96.10.in-addr.arpa", PTR, ["web.default.svc.cluster.local"]),
        ("5.1.244.10.in-addr.arpa", PTR, ["db-0.db.default.svc.cluster.local"]),
        ("dns-version.cluster.local", TXT, ["1.1.0"]),
    ],
)
def test_names_of_the_specification_are_answered(zone, name, kind, expected):
    answer = zone.answer(name, kind)
    assert answer.rcode == NOERROR
    assert data(answer) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web.default.svc.cluster.local", AAAA),
        ("web.default.svc.cluster.local", SRV),
        ("default.svc.cluster.local", A),
        ("quiet.svc.cluster.local", A),
        ("svc.cluster.local", A),
        ("_tcp.web.default.svc.cluster.local", SRV),
        ("_http._tcp.web.default.svc.cluster.local", A),
        ("7.0.96.10.in-addr.arpa", A),
        ("cluster.local", A),
    ],
)
def test_a_name_that_exists_without_such_a_record_is_no_error_and_no_answer(zone, name, kind):
    answer = zone.answer(name, kind)
    assert (answer.rcode, answer.records, answer.negative) == (NOERROR, (), True)


@pytest.mark.parametrize(
    "name",
    [
        "nope.default.svc.cluster.local",
        "web.other.svc.cluster.local",
        "other.svc.cluster.local",
        "db-2.db.default.svc.cluster.local",
        "x.web.default.svc.cluster.local",
        "_nope._tcp.web.default.svc.cluster.local",
        "_._tcp.web.default.svc.cluster.local",
        "x.away.default.svc.cluster.local",
        "1-2-3.default.pod.cluster.local",
        "1-2-3-4.other.pod.cluster.local",
        "example.org.default.svc.cluster.local",
        "9.0.96.10.in-addr.arpa",
        "example.org.cluster.local",
        "..svc.cluster.local",
    ],
)
def test_a_name_that_does_not_exist_is_said_not_to(zone, name):
    answer = zone.answer(name, A)
    assert (answer.rcode, answer.negative) == (NXDOMAIN, True)


@pytest.mark.parametrize(
    "name", ["example.org", "", "local", "notcluster.local", "8.8.8.8.in-addr.arpa", "x.in-addr.arpa"]
)
def test_other_names_are_not_ours(zone, name):
    assert zone.answer(name, A).outside


def test_a_service_that_goes_takes_its_names_with_it(zone):
    serial = zone.serial
    zone.update("default/web", None, ())
    assert zone.serial > serial
    assert zone.answer("web.default.svc.cluster.local", A).rcode == NXDOMAIN
    assert zone.answer("7.0.96.10.in-addr.arpa", PTR).rcode == NXDOMAIN
    zone.update("default/db", None, ())
    assert zone.answer("5.1.244.10.in-addr.arpa", PTR).rcode == NXDOMAIN


def test_an_address_shared_by_two_services_keeps_the_name_of_the_one_that_stays(zone):
    add(zone, "db2", {"clusterIP": "None"}, [{"addresses": ["10.244.1.5"], "hostname": "db-0"}])
    zone.update("default/db", None, ())
    assert data(zone.answer("5.1.244.10.in-addr.arpa", PTR)) == ["db-0.db2.default.svc.cluster.local"]


def test_endpoints_that_are_not_ready_are_published_where_the_service_wants_it(zone):
    add(
        zone,
        "all",
        {"clusterIP": "None", "publishNotReadyAddresses": True},
        [{"addresses": ["10.244.2.7"], "hostname": "db-2", "conditions": {"ready": False}}],
    )
    assert data(zone.answer("db-2.all.default.svc.cluster.local", A)) == ["10.244.2.7"]


def test_the_soa_stands_at_the_top(zone):
    assert [record.type for record in zone.answer("cluster.local", SOA).records] == [SOA]
    assert zone.answer("away.default.svc.cluster.local", AAAA).records[0].type == CNAME
