"""The manager as a member runs it: real clock, real loops; waits are on conditions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control import identity
from control.api.context import ApiContext
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.controllers.manager import Controllers
from control.store.local import LocalStore
from steersman import ApiError, AsyncClient
from steersman.clock import SystemClock, SystemEntropy
from steersman.types import Event, Node, Pod


class Always:
    """Every node was heard from just now."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock

    def last(self, node_name: str) -> float | None:
        return self._clock.monotonic()


async def until(client: AsyncClient, kind: Any, condition: Any) -> None:
    """Follow a kind until `condition` holds of an object."""
    async with asyncio.timeout(20):
        async for event in client.watch(kind):
            if event.type != "BOOKMARK" and condition(event.object):
                return


@pytest.fixture
async def client() -> AsyncClient:
    clock, entropy = SystemClock(), SystemEntropy()
    context = ApiContext(LocalStore(clock), Leadership("m", alone=True), clock, entropy)
    found = AsyncClient(LocalTransport(Handlers(context), identity.member("m")), entropy=entropy)
    await found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    return found


async def test_leading_twice_goes_on_where_the_first_term_ended(client: AsyncClient) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    await client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    status = {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(Node, "n1", {"status": status}, subresource="status")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    for replicas in (2, 3):
        term = asyncio.create_task(Controllers(client, Always(clock), clock, entropy).run())
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template},
        }
        (result,) = await client.apply(deployment)
        assert result.error is None
        bound: set[str] = set()
        await until(
            client,
            Pod,
            lambda pod, bound=bound, n=replicas: pod.spec.node_name and (bound.add(pod.uid) or len(bound) == n),
        )
        term.cancel()
        with pytest.raises(asyncio.CancelledError):
            await term
    assert len((await client.list(Pod)).items) == 3


async def test_events_are_written_by_the_running_manager(client: AsyncClient) -> None:
    clock = SystemClock()
    running = asyncio.create_task(Controllers(client, Always(clock), clock, SystemEntropy()).run())
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await client.create(pod)
    await until(client, Event, lambda event: event.message == "no nodes available to schedule pods")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_part_that_ends_ends_them_all(client: AsyncClient) -> None:
    clock = SystemClock()

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(client.transport, name)

        def stream(self, service: str, method: str, request: Any) -> Any:
            raise ApiError("Forbidden", "no watching")

    broken = AsyncClient(Broken())  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with asyncio.timeout(10):
            await Controllers(broken, Always(clock), clock, SystemEntropy()).run()
