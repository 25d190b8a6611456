"""What every cluster has from its first moment."""

from __future__ import annotations

from control import bootstrap
from control.api.context import ApiContext
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.identity import member
from control.store.local import LocalStore
from steersman import AsyncClient
from steersman.clock import ManualClock, SeededEntropy


def new_cluster() -> tuple[LocalStore, AsyncClient]:
    store = LocalStore(ManualClock())
    context = ApiContext(store, Leadership("a", alone=True), ManualClock(), SeededEntropy(1))
    return store, AsyncClient(LocalTransport(Handlers(context), member("a")))


async def test_an_empty_store_becomes_a_cluster_once():
    store, client = new_cluster()
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    names = {item["metadata"]["name"] for item in await client.list("namespaces", "")}
    assert names == {"default", "kube-system", "kube-public", "kube-node-lease"}
    assert (await client.get("services", "kubernetes"))["spec"]["clusterIP"] == "10.96.0.1"
    assert (await client.get("services", "kube-dns", "kube-system"))["spec"]["clusterIP"] == "10.96.0.10"
    before = store.revision
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    assert store.revision == before


async def test_what_was_deleted_comes_back():
    _, client = new_cluster()
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    await client.delete("services", "kubernetes")
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    assert await client.get("services", "kubernetes")


async def test_an_address_that_a_user_holds_stops_nothing():
    _, client = new_cluster()
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    await client.delete("services", "kube-dns", "kube-system")
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mine"},
        "spec": {"ports": [{"port": 1}], "clusterIP": "10.96.0.10"},
    }
    await client.create(body)
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")
    assert len(await client.list("services", "kube-system")) == 0


async def test_the_apis_endpoints_follow_the_members():
    store, client = new_cluster()
    await bootstrap.ensure(client, "10.96.0.0/16", "10.96.0.10")

    async def endpoints() -> dict[str, list[str]]:
        slices = await client.list("endpointslices", "default")
        return {
            f"{one['metadata']['name']}:{one['ports'][0]['port']}": [end["addresses"][0] for end in one["endpoints"]]
            for one in slices
        }

    await bootstrap.publish_api(client, ["10.0.0.1:6443", "10.0.0.2:6443"])
    assert await endpoints() == {"kubernetes:6443": ["10.0.0.1", "10.0.0.2"]}
    before = store.revision
    await bootstrap.publish_api(client, ["10.0.0.2:6443", "10.0.0.1:6443"])
    assert store.revision == before
    await bootstrap.publish_api(client, ["10.0.0.1:6443", "10.0.0.1:6444", "host.example:6443"])
    assert await endpoints() == {"kubernetes:6443": ["10.0.0.1"], "kubernetes-6444:6444": ["10.0.0.1"]}
    await bootstrap.publish_api(client, ["10.0.0.3:6443"])
    assert await endpoints() == {"kubernetes:6443": ["10.0.0.3"]}
