from __future__ import annotations

from typing import Any

import pytest

from control.controllers.endpointslice import SLICE_MAX, View, reconcile
from control.controllers.intents import Create, Delete, Patch
from steersman.types import EndpointSlice, Service


def service(**spec: Any) -> Service:
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    return Service.from_dict({"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": spec})


def stored(create: Create, name: str) -> EndpointSlice:
    document = create.document
    return EndpointSlice.from_dict({**document, "metadata": {**document["metadata"], "name": name, "uid": name}})


@pytest.fixture
def backend(pod: Any) -> Any:
    def build(number: int, port: int = 8080, **more: Any) -> Any:
        container = {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
        ip = f"10.0.{number // 250}.{number % 250 + 1}"
        return pod(f"p{number:04}", node="n1", ip=ip, containers=[container], **more)

    return build


def only(result: Any, kind: type) -> list[Any]:
    assert all(isinstance(intent, kind) for intent in result.intents), result.intents
    return list(result.intents)


@pytest.mark.parametrize(
    ("more", "publish", "conditions"),
    [
        ({}, False, (True, True, False)),
        ({"ready": False}, False, (False, False, False)),
        ({"meta": {"deletionTimestamp": "2026-01-01T11:59:00Z"}}, False, (False, True, True)),
        ({"ready": False}, True, (True, False, False)),
    ],
)
def test_endpoint_conditions(backend: Any, now: Any, more: Any, publish: bool, conditions: tuple[bool, ...]) -> None:
    view = View(service(publishNotReadyAddresses=publish), (backend(1, **more),), (), {"n1": "zone-a"})
    (create,) = only(reconcile(view, now), Create)
    (endpoint,) = create.document["endpoints"]
    assert tuple(endpoint["conditions"].values()) == conditions
    assert (endpoint["zone"], endpoint["nodeName"], endpoint["targetRef"]["name"]) == ("zone-a", "n1", "p0001")
    assert create.document["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


def test_finished_pods_and_pods_without_address_are_no_endpoints(backend: Any, pod: Any, now: Any) -> None:
    view = View(service(), (backend(1, phase="Succeeded"), pod("young")), ())
    (create,) = only(reconcile(view, now), Create)
    assert create.document["endpoints"] == []


def test_named_ports_may_differ_between_pods(backend: Any, now: Any) -> None:
    creates = only(reconcile(View(service(), (backend(1), backend(2, port=9090)), ()), now), Create)
    assert sorted(c.document["ports"][0]["port"] for c in creates) == [8080, 9090]


def test_a_slice_holds_at_most_a_hundred_and_changes_touch_one(backend: Any, now: Any) -> None:
    pods = [backend(n) for n in range(250)]
    creates = only(reconcile(View(service(), tuple(pods), ()), now), Create)
    assert [len(c.document["endpoints"]) for c in creates] == [SLICE_MAX, SLICE_MAX, 50]
    slices = tuple(stored(create, f"web-{n}") for n, create in enumerate(creates))
    assert reconcile(View(service(), tuple(pods), slices), now).intents == ()
    (patch,) = only(reconcile(View(service(), tuple(pods[:7] + pods[8:]), slices), now), Patch)
    assert (patch.name, len(patch.patch["endpoints"])) == ("web-0", 99)
    (patch,) = only(reconcile(View(service(), (*pods, backend(900)), slices), now), Patch)
    assert (patch.name, len(patch.patch["endpoints"])) == ("web-2", 51)
    replaced = tuple(pods[:7] + pods[8:] + [backend(900)])
    (patch,) = only(reconcile(View(service(), replaced, slices), now), Patch)
    assert (patch.name, len(patch.patch["endpoints"])) == ("web-0", 100)


def test_one_empty_slice_stays(backend: Any, now: Any) -> None:
    pods = tuple(backend(n) for n in range(150))
    creates = only(reconcile(View(service(), pods, ()), now), Create)
    slices = tuple(stored(create, f"web-{n}") for n, create in enumerate(creates))
    result = reconcile(View(service(), (), slices), now)
    assert [(type(i).__name__, i.name) for i in result.intents] == [("Patch", "web-0"), ("Delete", "web-1")]


def test_a_service_that_selects_nothing_any_more_loses_its_slices(backend: Any, now: Any) -> None:
    (create,) = only(reconcile(View(service(), (backend(1),), ()), now), Create)
    result = reconcile(View(service(selector={}), (), (stored(create, "web-0"),)), now)
    assert [i.name for i in only(result, Delete)] == ["web-0"]


def test_headless_services_tell_hostnames(backend: Any, now: Any) -> None:
    found = service(clusterIP="None")
    (create,) = only(reconcile(View(found, (backend(1, hostname="db-0", subdomain="web"),), ()), now), Create)
    assert create.document["endpoints"][0]["hostname"] == "db-0"
    assert create.document["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
