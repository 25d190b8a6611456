from __future__ import annotations

from typing import Any

import pytest

from control.scheduler import filters
from control.scheduler.plugin import Change
from control.scheduler.queue import SLEEP_MAX_S, SchedulingQueue
from steersman.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> SchedulingQueue:
    return SchedulingQueue(clock, filters.DEFAULT)


def names(taken: Any) -> list[str]:
    return [one.pod.name for one in taken]


def test_priority_first_then_who_came_first(queue: SchedulingQueue, clock: ManualClock, pod: Any) -> None:
    for name, priority in (("late-low", 0), ("important", 100), ("low", 0)):
        queue.add(pod(name, priority=priority))
        clock.advance(1)
    assert names(queue.take(10)) == ["important", "late-low", "low"]
    assert queue.take(10) == []


@pytest.mark.parametrize(
    ("plugin", "change", "woken"),
    [
        ("NodeResourcesFit", Change.POD_REMOVED, True),
        ("NodeResourcesFit", Change.NODE_LABELS, False),
        ("TaintToleration", Change.NODE_TAINTS, True),
        ("TaintToleration", Change.POD_REMOVED, False),
        ("NodeAffinity", Change.NODE_ADDED, True),
        ("InterPodAffinity", Change.POD_PLACED, True),
    ],
)
def test_only_a_change_that_may_help_wakes(
    queue: SchedulingQueue, clock: ManualClock, pod: Any, plugin: str, change: Change, woken: bool
) -> None:
    queue.add(pod())
    (one,) = queue.take(1)
    queue.refused(one, frozenset((plugin,)))
    clock.advance(20)
    assert queue.wake(change) == int(woken)
    assert len(queue.take(1)) == int(woken)


def test_a_pod_refused_without_nodes_wakes_for_the_first(queue: SchedulingQueue, clock: ManualClock, pod: Any) -> None:
    queue.add(pod())
    queue.refused(queue.take(1)[0], frozenset())
    clock.advance(20)
    assert queue.wake(Change.NODE_ADDED) == 1


def test_a_woken_pod_waits_out_its_back_off(queue: SchedulingQueue, clock: ManualClock, pod: Any) -> None:
    queue.add(pod())
    waits = []
    for _ in range(6):
        (one,) = queue.take(1)
        queue.refused(one, frozenset(("NodeResourcesFit",)))
        queue.wake(Change.POD_REMOVED)
        assert queue.take(1) == []
        delay = queue.next_delay()
        assert delay is not None
        waits.append(delay)
        clock.advance(delay)
    assert waits == [1, 2, 4, 8, 10, 10]


def test_sleepers_are_looked_at_after_five_minutes(queue: SchedulingQueue, clock: ManualClock, pod: Any) -> None:
    queue.add(pod())
    queue.refused(queue.take(1)[0], frozenset(("NodeResourcesFit",)))
    assert queue.next_delay() == SLEEP_MAX_S
    assert queue.lengths() == {"active": 0, "backoff": 0, "unschedulable": 1}
    clock.advance(SLEEP_MAX_S)
    assert queue.wake_stale() == 1
    assert len(queue.take(1)) == 1


def test_bound_pods_leave_and_failed_bindings_come_back(queue: SchedulingQueue, clock: ManualClock, pod: Any) -> None:
    queue.add(pod("a"))
    queue.add(pod("b"))
    one, other = queue.take(2)
    queue.remove(one.pod.uid)
    queue.failed(one)
    queue.failed(other)
    clock.advance(1)
    assert names(queue.take(2)) == ["b"]
