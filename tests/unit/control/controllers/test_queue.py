from __future__ import annotations

from control.controllers.queue import BACKOFF_FIRST_S, BACKOFF_MAX_S, WorkQueue
from steersman.clock import ManualClock


def test_a_key_is_queued_once_with_its_latest_cause() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    for cause in (3, 9, 5):
        queue.add("a", cause)
    queue.add("b")
    assert queue.take(10) == [("a", 9), ("b", 0)]
    assert queue.take(10) == []
    assert queue.next_delay() is None


def test_the_earliest_delay_counts() -> None:
    clock = ManualClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    queue.add_after("a", 10, cause=4)
    queue.add_after("a", 2)
    queue.add_after("a", 5)
    assert queue.next_delay() == 2
    clock.advance(2)
    assert queue.take(10) == [("a", 4)]
    assert queue.next_delay() is None, "replaced times must not wake anybody"


def test_failures_back_off_and_success_forgets_them() -> None:
    clock = ManualClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    delays = []
    for _ in range(20):
        delays.append(queue.retry("a"))
        clock.advance(BACKOFF_MAX_S)
        assert queue.take(1) == [("a", 0)]
    assert delays[:3] == [BACKOFF_FIRST_S, BACKOFF_FIRST_S * 2, BACKOFF_FIRST_S * 4]
    assert delays[-1] == BACKOFF_MAX_S
    queue.forget("a")
    assert queue.retry("a") == BACKOFF_FIRST_S


def test_take_leaves_the_rest_for_later() -> None:
    queue: WorkQueue[int] = WorkQueue(ManualClock())
    for key in range(5):
        queue.add(key)
    assert [key for key, _ in queue.take(2)] == [0, 1]
    assert (len(queue), queue.next_delay()) == (3, 0.0)
