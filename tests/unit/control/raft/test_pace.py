"""Election time-outs fit the disk, and come back to what is configured."""

from __future__ import annotations

from control.raft.pace import LONGEST, DiskPace


def test_a_quick_disk_changes_nothing() -> None:
    pace = DiskPace()
    pace.observe(0.003)
    assert pace.election_ticks(10, 0.05) == 10


def test_a_slow_disk_gets_time_for_the_three_writes_of_an_election() -> None:
    pace = DiskPace()
    pace.observe(0.4)
    assert 24 <= pace.election_ticks(10, 0.05) <= 25


def test_a_disk_that_is_down_does_not_stop_elections() -> None:
    pace = DiskPace()
    pace.observe(600.0)
    assert pace.election_ticks(10, 0.05) == 10 * LONGEST


def test_one_slow_sync_is_forgotten() -> None:
    pace = DiskPace()
    pace.observe(0.5)
    for _ in range(20):
        pace.observe(0.002)
    assert pace.election_ticks(10, 0.05) == 10
