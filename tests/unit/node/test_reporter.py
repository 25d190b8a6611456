from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.credentials import JoinError, pinned, split_address
from node.metrics import NodeMetrics
from node.reporter import Observation, Reporter
from node.session import Lease
from steersman.v1 import node_pb2


class Link:
    """A session that keeps what is sent."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[node_pb2.StatusReport] = []

    def send(self, message: node_pb2.AgentMessage) -> bool:
        if self.up:
            self.sent.append(message.status)
        return self.up


class Desk:
    def __init__(self, time: Any) -> None:
        self.time = time
        self.link = Link()
        self.states: dict[str, bytes] = {}
        self.reporter = Reporter(self.observe, self.link.send, NodeMetrics(), time.sleep)
        self.tasks = [asyncio.ensure_future(self.reporter.run()), asyncio.ensure_future(self.reporter.run_events())]

    def observe(self, uid: str) -> Observation | None:
        state = self.states.get(uid)
        return None if state is None else Observation("default", uid, uid, state, False, 1)

    def set(self, uid: str, state: bytes, urgent: bool = True) -> None:
        self.states[uid] = state
        self.reporter.changed(uid, urgent)

    def ack(self) -> None:
        self.reporter.acknowledged(node_pb2.StatusAck(sequence=self.link.sent[-1].sequence))


@pytest.fixture
async def desk(node: Any) -> Any:
    desk = Desk(node.time)
    yield desk
    for task in desk.tasks:
        task.cancel()
    await asyncio.gather(*desk.tasks, return_exceptions=True)


async def test_changes_of_one_moment_travel_together_each_pod_once(desk: Desk) -> None:
    for n in range(50):
        desk.set(f"p{n}", b"1")
        desk.set(f"p{n}", b"2")
    await desk.time.advance(0.02)
    (report,) = desk.link.sent
    assert len(report.pods) == 50
    assert {p.status_json for p in report.pods} == {b"2"}


async def test_one_report_is_under_way_at_a_time_and_the_next_holds_the_newest(desk: Desk) -> None:
    desk.set("p", b"1")
    await desk.time.advance(0.02)
    desk.set("p", b"2")
    desk.set("p", b"3")
    await desk.time.advance(1)
    assert len(desk.link.sent) == 1
    desk.ack()
    await desk.time.advance(0.3)
    assert [p.status_json for p in desk.link.sent[1].pods] == [b"3"]


async def test_what_was_acknowledged_is_not_told_again_until_a_new_session(desk: Desk) -> None:
    desk.set("p", b"1")
    await desk.time.advance(0.02)
    desk.ack()
    desk.set("p", b"1")
    await desk.time.advance(1)
    assert len(desk.link.sent) == 1
    desk.reporter.begin(["p"])
    await desk.time.advance(1)
    assert len(desk.link.sent) == 2


async def test_intermediate_states_wait_longer_than_urgent_ones(desk: Desk) -> None:
    desk.set("p", b"1", urgent=False)
    await desk.time.advance(0.1)
    assert desk.link.sent == []
    desk.set("q", b"1")
    await desk.time.advance(0.02)
    assert len(desk.link.sent[0].pods) == 2


async def test_without_a_session_nothing_is_lost(desk: Desk) -> None:
    desk.link.up = False
    desk.set("p", b"1")
    desk.reporter.event(b"{}")
    await desk.time.advance(2)
    desk.link.up = True
    desk.reporter.begin(["p"])
    await desk.time.advance(2)
    assert [len(r.pods) for r in desk.link.sent if r.pods] == [1]
    assert [list(r.events_json) for r in desk.link.sent if r.events_json] == [[b"{}"]]


def test_a_lease_counts_from_the_sending_of_what_was_acknowledged() -> None:
    lease = Lease(8.0, 0.0)
    lease.sent(1, 10.0)
    lease.sent(2, 11.0)
    lease.sent(3, 12.0)
    assert lease.confirm(2) == 11.0
    assert lease.acknowledged == 11.0
    assert lease.confirm(2) is None
    lease.forget()
    assert lease.confirm(3) is None
    assert lease.acknowledged == 11.0


def test_only_the_pinned_ca_is_trusted() -> None:
    with pytest.raises(JoinError, match="--ca-hash is wrong") as refused:
        pinned([b"other"], "sha256:" + "ab" * 32)
    assert refused.value.final
    assert split_address("[::1]:7443") == ("::1", 7443)
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address("nowhere")
