"""Feeds and status writes over the real handlers and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import Mock

import grpc.aio
import msgspec
import pytest

from control.api.context import ApiContext
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.gateway.feed import Feed, Feeds
from control.gateway.gateway import Gateway
from control.gateway.heartbeats import Heartbeats
from control.gateway.reports import StatusWriter
from control.gateway.sessions import Sessions
from control.gateway.settings import GatewaySettings
from control.identity import member
from control.store.local import LocalStore
from steersman.client import AsyncClient
from steersman.clock import ManualClock, SeededEntropy
from steersman.errors import ApiError
from steersman.types import Event, Node, Pod
from steersman.v1 import node_pb2
from steersman.v1 import objects_pb2 as pb


class Plane:
    def __init__(self) -> None:
        self.clock = clock = ManualClock()
        self.store = LocalStore(clock)
        context = ApiContext(self.store, Leadership("control-1", alone=True), clock, SeededEntropy(1))
        self.client = AsyncClient(LocalTransport(Handlers(context), member("control-1")), actor="test")
        self.feeds = Feeds(self.client)
        self.writer = StatusWriter(self.client, self.feeds, self._yield)
        self.tasks: list[asyncio.Task[Any]] = []

    async def _yield(self, _seconds: float) -> None:
        await asyncio.sleep(0)

    async def start(self) -> None:
        await self.create("Namespace", "default")
        self.tasks = [asyncio.ensure_future(self.feeds.run()), asyncio.ensure_future(self.writer.run())]
        await self.feeds.synced()

    async def create(self, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        metadata = {"name": name, **({} if kind in ("Namespace", "Node") else {"namespace": "default"})}
        stored = await self.client.create({"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields})
        await self.caught_up()
        return stored

    async def pod(self, name: str, node: str = "node-1", **spec: Any) -> Pod:
        spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": node, **spec}
        return Pod.from_dict(await self.create("Pod", name, spec=spec))

    async def caught_up(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1_000):
            if holds():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come to pass")

    async def report(self, node: str, **report: Any) -> node_pb2.StatusAck:
        answer: asyncio.Future[node_pb2.StatusAck] = asyncio.get_running_loop().create_future()
        self.writer.submit(node, node_pb2.StatusReport(sequence=5, **report), answer.set_result)
        ack = await asyncio.wait_for(answer, 5)
        await self.caught_up()
        return ack


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    plane = Plane()
    await plane.start()
    yield plane
    for task in plane.tasks:
        task.cancel()
    await asyncio.gather(*plane.tasks, return_exceptions=True)


def drain(feed: Feed) -> list[tuple[str, str, str]]:
    """Everything that the feed has to say: (ADDED …, kind, name)."""
    told = []
    while (message := feed.take()) is not None:
        told += [(pb.WatchEvent.Kind.Name(e.kind), e.object.kind, e.object.name) for e in message.events]
        if not feed.pending.is_set():
            break
    return told


def observed(pod: Pod, status: dict[str, Any], **fields: Any) -> node_pb2.PodStatus:
    return node_pb2.PodStatus(
        namespace=pod.namespace, name=pod.name, uid=pod.uid, status_json=msgspec.json.encode(status), **fields
    )


async def test_a_node_is_sent_its_pods_what_they_name_and_what_all_share(plane: Plane) -> None:
    await plane.create("ConfigMap", "mine", data={"a": "1"})
    await plane.create("ConfigMap", "other", data={"a": "1"})
    await plane.pod("here", volumes=[{"name": "v", "configMap": {"name": "mine"}}])
    await plane.pod("there", node="node-2")
    feed = plane.feeds.open("node-1")
    first = feed.take()
    assert first is not None
    assert first.synced
    names = [(e.object.kind, e.object.name) for e in first.events]
    assert names == [("Namespace", "default"), ("ConfigMap", "mine"), ("Pod", "here")], (
        "what pods need comes before them"
    )


async def test_changes_are_coalesced_and_only_what_concerns_the_node(plane: Plane) -> None:
    feed = plane.feeds.open("node-1")
    drain(feed)
    await plane.create("Secret", "key", stringData={"k": "1"})
    assert drain(feed) == []
    pod = await plane.pod("web", containers=[{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "key"}}]}])
    assert drain(feed) == [("ADDED", "Secret", "key"), ("ADDED", "Pod", "web")]
    for value in ("2", "3"):
        await plane.client.patch("secrets", "key", {"stringData": {"k": value}}, "default")
    await plane.caught_up()
    assert drain(feed) == [("MODIFIED", "Secret", "key")]
    await plane.client.delete(Pod, pod.name, "default", grace=0)
    await plane.caught_up()
    assert sorted(drain(feed)) == [("DELETED", "Pod", "web"), ("DELETED", "Secret", "key")]


async def test_what_the_agent_itself_reported_is_not_sent_back(plane: Plane) -> None:
    pod = await plane.pod("web")
    feed = plane.feeds.open("node-1")
    drain(feed)
    await plane.report("node-1", pods=[observed(pod, {"phase": "Running"})])
    assert (await plane.client.get(Pod, "web", "default")).status.phase == "Running"
    assert drain(feed) == []
    await plane.client.patch(Pod, "web", {"metadata": {"labels": {"a": "b"}}}, "default")
    await plane.caught_up()
    assert drain(feed) == [("MODIFIED", "Pod", "web")]


async def test_a_status_keeps_labels_and_the_conditions_of_others(plane: Plane) -> None:
    pod = await plane.pod("web")
    await plane.client.patch(Pod, "web", {"metadata": {"labels": {"a": "b"}}}, "default")
    body = msgspec.json.decode((await plane.client.get(Pod, "web", "default")).encode())
    body.setdefault("status", {})["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    await plane.client.update(body, subresource="status")
    mine = [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": "False"}]
    ack = await plane.report("node-1", pods=[observed(pod, {"phase": "Running", "conditions": mine})])
    assert ack.sequence == 5
    assert not ack.errors
    assert ack.revision > 0
    found = await plane.client.get(Pod, "web", "default")
    assert {c.type: c.status for c in found.status.conditions} == {"Ready": "True", "DisruptionTarget": "True"}
    assert found.metadata.labels == {"a": "b"}


async def test_reports_about_others_pods_are_refused_and_forgotten(plane: Plane) -> None:
    pod = await plane.pod("web")
    foreign = await plane.report("node-2", pods=[observed(pod, {"phase": "Failed"})])
    assert [e.reason for e in foreign.errors] == ["Conflict"]
    assert "not to" in foreign.errors[0].message
    stale = observed(pod, {"phase": "Failed"})
    stale.uid = "another"
    ack = await plane.report("node-1", pods=[stale, observed(pod, {"phase": "Running"})])
    assert [e.reason for e in ack.errors] == ["Conflict"]
    assert (await plane.client.get(Pod, "web", "default")).status.phase == "Running"
    garbage = node_pb2.PodStatus(namespace="default", name="web", uid=pod.uid, status_json=b"{")
    assert [e.reason for e in (await plane.report("node-1", pods=[garbage])).errors] == ["BadRequest"]


async def test_a_terminated_pod_leaves_the_store_its_namesake_does_not(plane: Plane) -> None:
    pod = await plane.pod("web")
    await plane.client.delete(Pod, "web", "default", grace=30)
    await plane.caught_up()
    await plane.report("node-1", pods=[observed(pod, {}, terminated=True)])
    with pytest.raises(ApiError, match="not found"):
        await plane.client.get(Pod, "web", "default")
    again = await plane.pod("web")
    await plane.report("node-1", pods=[observed(pod, {}, terminated=True)])
    assert (await plane.client.get(Pod, "web", "default")).uid == again.uid


async def test_an_event_seen_again_raises_its_count(plane: Plane) -> None:
    def event(count: int) -> bytes:
        return msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": "web.1", "namespace": "default"},
                "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"},
                "reason": "BackOff",
                "message": "m",
                "type": "Warning",
                "count": count,
            }
        )

    for count in (1, 2, 1):  # the last one from an agent that was restarted and counts anew
        ack = await plane.report("node-1", events_json=[event(count)])
        assert not ack.errors
        assert (await plane.client.get(Event, "web.1", "default")).count == count


async def test_many_reports_of_a_moment_are_one_commit(plane: Plane) -> None:
    pods = [await plane.pod(f"p{n}") for n in range(20)]
    before = plane.store.revision
    batches: list[int] = []
    batch = plane.client.batch

    async def counting(writes: Any, **options: Any) -> Any:
        batches.append(len(writes))
        return await batch(writes, **options)

    plane.client.batch = counting  # type: ignore[method-assign]
    await asyncio.gather(*(plane.report("node-1", pods=[observed(p, {"phase": "Running"})]) for p in pods))
    assert batches == [20]
    assert plane.store.revision == before + 20


async def test_a_node_status_is_written_only_when_it_says_something_new(plane: Plane) -> None:
    await plane.create("Node", "node-1")

    def status(beat: str, ready: str) -> bytes:
        condition = {"type": "Ready", "status": ready, "reason": "r", "message": "m"}
        times = {"lastHeartbeatTime": beat, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return msgspec.json.encode({"conditions": [condition | times]})

    await plane.report("node-1", node_status_json=status("2026-01-01T00:00:01Z", "True"))
    assert (await plane.client.get(Node, "node-1")).ready
    before = plane.store.revision
    await plane.report("node-1", node_status_json=status("2026-01-01T00:00:09Z", "True"))
    assert plane.store.revision == before


def test_heartbeats_tell_when_each_node_was_heard_from() -> None:
    clock = ManualClock()
    heartbeats = Heartbeats(clock)
    clock.advance(3)
    assert heartbeats.beat("node-1") == 0.0
    assert heartbeats.last("node-1") == 3
    assert heartbeats.last("node-2") is None
    clock.advance(2)
    assert heartbeats.beat("node-1") == 2.0


async def test_heartbeats_outlive_a_gateway_that_failed(plane: Plane) -> None:
    """Else the nodes' silence would count from the start of the term, and nodes with a good lease be called lost."""
    heartbeats = Heartbeats(plane.clock)
    gateway = Gateway(
        plane.client,
        heartbeats,
        Mock(),
        Mock(),
        Mock(),
        Mock(),
        plane.clock,
        SeededEntropy(1),
    )
    for _ in range(2):
        leading = asyncio.ensure_future(gateway.lead())
        await plane.until(lambda: gateway.leading)
        if heartbeats.last("node-1") is None:
            plane.clock.advance(3)
            heartbeats.beat("node-1")
        assert heartbeats.last("node-1") == 3
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert heartbeats.last("node-1") == 3


@pytest.mark.parametrize(
    "document",
    [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}},
        {"metadata": {"name": "x"}},
        [],
    ],
)
@pytest.mark.parametrize("count", [1, 2])
async def test_an_agent_cannot_write_other_things_as_events(plane: Plane, document: Any, count: int) -> None:
    if isinstance(document, dict):
        document = {**document, "count": count}
    before = plane.store.revision
    ack = await plane.report("node-1", events_json=[msgspec.json.encode(document)])
    assert [e.reason in ("Forbidden", "BadRequest") for e in ack.errors] == [True]
    assert plane.store.revision == before


@pytest.mark.parametrize(
    "status",
    [
        b"[]",
        b"7",
        b'{"conditions": 7}',
        b'{"conditions": [7]}',
        b'{"conditions": [{}]}',
        b'{"conditions": [{"type": {}}]}',
        b'{"a":' * 100_000,
        b'{"phase": [1]}',
    ],
)
async def test_no_report_stops_the_writer(plane: Plane, status: bytes) -> None:
    await plane.create("Node", "node-1")
    pod = await plane.pod("web")
    bad = node_pb2.PodStatus(namespace="default", name="web", uid=pod.uid, status_json=status)
    await plane.report("node-1", pods=[bad], node_status_json=status)
    ack = await plane.report("node-1", pods=[observed(pod, {"phase": "Running"})])
    assert not ack.errors
    assert (await plane.client.get(Pod, "web", "default")).status.phase == "Running"


def sessions(plane: Plane) -> Sessions:
    return Sessions(plane.client, plane.feeds, plane.writer, Heartbeats(plane.clock), GatewaySettings())


class Call:
    """An agent's side of a session that says Hello once."""

    def __init__(self, node: str, document: bytes) -> None:
        self.incoming: list[Any] = [
            node_pb2.AgentMessage(hello=node_pb2.Hello(node_name=node, node_json=document)),
            grpc.aio.EOF,
        ]
        self.written: list[node_pb2.GatewayMessage] = []

    async def read(self) -> Any:
        return self.incoming.pop(0)

    async def write(self, message: node_pb2.GatewayMessage) -> None:
        self.written.append(message)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"metadata": {"labels": []}}',
        b'{"metadata": {"labels": {"a": 1}}}',
        b'{"metadata": {}, "status": []}',
        b'{"metadata": {}, "status": {"a":' + b'{"a":' * 100_000,
    ],
)
async def test_a_hello_that_makes_no_sense_is_refused(plane: Plane, document: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        await sessions(plane).serve("node-1", Call("node-1", document))
    assert refused.value.reason == "BadRequest"


async def test_an_agent_does_not_set_the_labels_that_are_to_keep_pods_off_it(plane: Plane) -> None:
    labels = {"node-restriction.kubernetes.io/trusted": "yes"}
    with pytest.raises(ApiError, match="an administrator does"):
        await sessions(plane).serve("node-1", Call("node-1", msgspec.json.encode({"metadata": {"labels": labels}})))
    call = Call("node-1", b'{"metadata": {"labels": {"disk": "ssd"}}}')
    await sessions(plane).serve("node-1", call)
    assert call.written[0].welcome.pod_cidr
    assert (await plane.client.get(Node, "node-1")).metadata.labels == {"disk": "ssd"}


async def test_a_log_that_cannot_take_a_status_now_is_asked_again(plane: Plane) -> None:
    pod = await plane.pod("web")
    batch, failures = plane.client.batch, ["ServiceUnavailable", "Timeout"]

    async def failing(writes: Any, **options: Any) -> Any:
        if failures:
            raise ApiError(failures.pop(), "not now")
        return await batch(writes, **options)

    plane.client.batch = failing  # type: ignore[method-assign]
    ack = await plane.report("node-1", pods=[observed(pod, {"phase": "Running"})])
    assert not ack.errors
    assert (await plane.client.get(Pod, "web", "default")).status.phase == "Running"
