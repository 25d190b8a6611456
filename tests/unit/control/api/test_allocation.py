"""Addresses, ports and ranges: held by one object at a time, never leaked."""

from __future__ import annotations

import asyncio

import pytest

from control.api.allocation import CLUSTER_IPS, NODE_CIDRS, NODE_PORTS
from control.api.context import ApiContext, ClusterNetwork
from control.api.handlers import Handlers
from steersman import ApiError


def service(name: str, **spec) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def node(name: str, **spec) -> dict:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}


def with_network(api, **network):
    api.context = ApiContext(
        api.store, api.leadership, api.clock, api.context.entropy, network=ClusterNetwork(**network)
    )
    api.handlers = Handlers(api.context)
    api.client = api.client_of(api.admin)
    return api.client


async def test_a_service_gets_an_address_and_gives_it_back(api):
    created = await api.client.create(service("a"))
    address = created["spec"]["clusterIP"]
    assert created["spec"]["clusterIPs"] == [address]
    assert await api.keys(CLUSTER_IPS) == [address]
    await api.client.delete("services", "a")
    assert await api.keys(CLUSTER_IPS) == []


async def test_simultaneous_services_get_different_addresses(api):
    made = await asyncio.gather(*(api.client.create(service(f"s{n}")) for n in range(30)))
    assert len({one["spec"]["clusterIP"] for one in made}) == 30


async def test_a_batch_of_services_gets_different_addresses(api):
    results = await api.client.batch([api.client.create_request(service(f"s{n}")) for n in range(30)])
    assert len({result.document["spec"]["clusterIP"] for result in results}) == 30


async def test_every_address_of_the_range_can_be_had_and_then_none(api):
    client = with_network(api, service_cidr="10.9.0.0/28")
    made = [await client.create(service(f"s{n}")) for n in range(14)]
    assert len({one["spec"]["clusterIP"] for one in made}) == 14
    with pytest.raises(ApiError) as refused:
        await client.create(service("more"))
    assert "every address of 10.9.0.0/28 is allocated" in refused.value.message


async def test_a_wish_is_granted_once(api):
    await api.client.create(service("a", clusterIP="10.96.0.77"))
    with pytest.raises(ApiError) as refused:
        await api.client.create(service("b", clusterIP="10.96.0.77"))
    assert refused.value.code == 422
    assert refused.value.causes[0].field == "spec.clusterIPs"
    assert "provided IP is already allocated" in refused.value.message


async def test_a_wish_outside_the_range_is_refused(api):
    with pytest.raises(ApiError) as refused:
        await api.client.create(service("a", clusterIP="10.1.0.1"))
    assert (
        "failed to allocate IP 10.1.0.1: the provided network does not match the current range" in refused.value.message
    )
    assert await api.keys(CLUSTER_IPS) == []


async def test_a_wish_that_cannot_be_is_refused_before_anything_else_is_looked_at(api):
    """As Kubernetes does, which allocates before it validates."""
    body = service("a", clusterIP="1.2.3.4", ports=[{"port": 80}, {"port": 81}], sessionAffinity="Always")
    with pytest.raises(ApiError) as refused:
        await api.client.create(body)
    assert refused.value.message == (
        'Service "a" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: '
        "the provided network does not match the current range: use an address in 10.96.0.0/16"
    )
    body["spec"]["clusterIP"] = "not-an-address"
    with pytest.raises(ApiError) as refused:
        await api.client.create(body)
    assert len(refused.value.causes) > 1


async def test_a_refused_service_holds_nothing(api):
    await api.client.create(service("a"))
    for body in (service("a"), service("b", type="Wrong")):
        with pytest.raises(ApiError):
            await api.client.create(body)
    assert len(await api.keys(CLUSTER_IPS)) == 1


async def test_headless_and_external_services_hold_no_address(api):
    headless = await api.client.create(service("h", clusterIP="None"))
    assert headless["spec"]["clusterIP"] == "None"
    await api.client.create(service("x", type="ExternalName", externalName="example.com", ports=[]))
    assert await api.keys(CLUSTER_IPS) == []


async def test_a_service_that_becomes_external_gives_its_address_back(api):
    await api.client.create(service("a"))
    patch = {"spec": {"type": "ExternalName", "externalName": "example.com"}}
    await api.client.patch("services", "a", patch)
    assert await api.keys(CLUSTER_IPS) == []
    back = await api.client.patch("services", "a", {"spec": {"type": "ClusterIP", "externalName": None}})
    assert await api.keys(CLUSTER_IPS) == [back["spec"]["clusterIP"]]


async def test_an_update_keeps_the_address(api):
    created = await api.client.create(service("a"))
    body = service("a", selector={"app": "web"})
    updated = await api.client.update(body)
    assert updated["spec"]["clusterIP"] == created["spec"]["clusterIP"]
    assert len(await api.keys(CLUSTER_IPS)) == 1


async def test_node_ports_come_and_go_with_the_type(api):
    made = await api.client.create(service("a", type="NodePort"))
    port = made["spec"]["ports"][0]["nodePort"]
    assert 30_000 <= port < 32_768
    assert await api.keys(NODE_PORTS) == [f"TCP-{port}"]
    with pytest.raises(ApiError) as refused:
        await api.client.create(service("b", type="NodePort", ports=[{"port": 80, "nodePort": port}]))
    assert "provided port is already allocated" in refused.value.message
    await api.client.delete("services", "a")
    assert await api.keys(NODE_PORTS) == []


async def test_each_node_gets_a_range_of_its_own(api):
    made = await asyncio.gather(*(api.client.create(node(f"n{n}")) for n in range(5)))
    assert sorted(one["spec"]["podCIDR"] for one in made) == [f"10.244.{n}.0/24" for n in range(5)]
    await api.client.delete("nodes", "n2", "")
    assert len(await api.keys(NODE_CIDRS)) == 4
    again = await api.client.create(node("n9"))
    assert again["spec"]["podCIDR"] == "10.244.5.0/24", (
        "a range rests before others get it, while routes to it may remain"
    )


async def test_a_range_that_was_given_back_is_had_again_when_the_others_are_held(api):
    client = with_network(api, cluster_cidr="10.9.0.0/22")
    made = [await client.create(node(f"n{n}")) for n in range(4)]
    await client.delete("nodes", "n1", "")
    assert (await client.create(node("n9")))["spec"]["podCIDR"] == made[1]["spec"]["podCIDR"]


async def test_a_range_that_is_taken_is_refused(api):
    await api.client.create(node("a", podCIDR="10.244.7.0/24"))
    with pytest.raises(ApiError) as refused:
        await api.client.create(node("b", podCIDR="10.244.7.0/24"))
    assert "another node holds this range" in refused.value.message


async def test_without_a_free_range_the_remedy_is_told(api):
    client = with_network(api, cluster_cidr="10.8.0.0/24", node_cidr_mask=25)
    await client.create(node("a"))
    await client.create(node("b"))
    with pytest.raises(ApiError) as refused:
        await client.create(node("c"))
    assert "larger --cluster-cidr" in refused.value.message
