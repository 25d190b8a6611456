"""A member's handlers over a store in memory, and the SDK's client in front of them."""

from __future__ import annotations

import pytest

from control.api.context import ApiContext
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.identity import AUTHENTICATED, MASTERS, Caller
from control.store.local import LocalStore
from steersman import AsyncClient
from steersman.clock import ManualClock, SeededEntropy


class ApiUnderTest:
    """One member; `client` is an administrator's."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = LocalStore(self.clock)
        self.leadership = Leadership("local", alone=True)
        self.context = ApiContext(self.store, self.leadership, self.clock, SeededEntropy(7))
        self.handlers = Handlers(self.context)
        self.admin = Caller("admin", frozenset((MASTERS, AUTHENTICATED)))
        self.client = self.client_of(self.admin)

    def client_of(self, caller: Caller) -> AsyncClient:
        return AsyncClient(LocalTransport(self.handlers, caller), entropy=SeededEntropy(8))

    async def namespace(self, name: str = "default") -> None:
        await self.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def config_map(self, name: str, **labels: str) -> dict[str, object]:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}
        return await self.client.create(body)

    async def pod(self, name: str, node: str = "", **labels: str) -> dict[str, object]:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }
        created = await self.client.create(body)
        if node:
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": node}}
            request = self.client.create_request(binding, "default", subresource="binding", name=name)
            (result,) = await self.client.batch([request])
            assert result.error is None
        return created

    async def keys(self, prefix: str) -> list[str]:
        return [kv.key.removeprefix(prefix) for kv in (await self.store.range(prefix)).kvs]


@pytest.fixture
async def api() -> ApiUnderTest:
    under_test = ApiUnderTest()
    await under_test.namespace()
    return under_test


@pytest.fixture
def bare() -> ApiUnderTest:
    """Without any namespace."""
    return ApiUnderTest()
