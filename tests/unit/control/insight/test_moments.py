"""Moments are read as people write them, and resolved against what is kept."""

import datetime as dt

import pytest

from control.insight import moments
from control.store.history import History
from control.store.interface import CompactedError, Put, Txn
from control.store.mvcc import Mvcc

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1234", 1234),
        ("10m", NOW - dt.timedelta(minutes=10)),
        ("1h30m", NOW - dt.timedelta(minutes=90)),
        ("2d", NOW - dt.timedelta(days=2)),
        ("0.5s", NOW - dt.timedelta(seconds=0.5)),
        ("2026-01-31T11:00:00Z", NOW - dt.timedelta(hours=1)),
        ("2026-01-31T11:00:00+02:00", NOW - dt.timedelta(hours=3)),
        ("2026-01-31 11:00", NOW - dt.timedelta(hours=1)),
    ],
)
def test_moments_are_read(text: str, expected: object) -> None:
    assert moments.parse(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [("yesterday", "10m, 1h30m"), ("", "10m, 1h30m"), ("0", "10m, 1h30m"), ("-5", "10m"), ("9" * 12 + "d", "beginning"), ("2026-02-01T00:00:00Z", "future")],
)  # fmt: skip
def test_what_is_no_moment_is_refused_with_examples(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        moments.parse(text, NOW)


def test_a_time_stands_for_the_newest_revision_at_it() -> None:
    state = Mvcc()
    start = int(NOW.timestamp() * 1000)
    for minute in range(3):
        state.apply(Txn((Put("/a", b"{}"),)), start + minute * 60_000)
    history = History(state)
    at = moments.resolve(history, NOW + dt.timedelta(seconds=90))
    assert (at.revision, at.text) == (2, "2026-01-31T12:01:30.000000Z")
    assert moments.resolve(history, moments.parse(at.text, NOW + dt.timedelta(days=1))) == at
    assert moments.resolve(history, 1).time == NOW
    with pytest.raises(moments.TooEarlyError):
        moments.resolve(history, NOW - dt.timedelta(seconds=1))
    state.compact(1)
    with pytest.raises(moments.TooEarlyError):
        moments.resolve(history, NOW)
    with pytest.raises(CompactedError, match=r"revisions from 2 \(2026-01-31T12:01:00Z\) on"):
        moments.resolve(history, 1)
    with pytest.raises(KeyError):
        moments.resolve(history, 4)


def test_revisions_that_changed_nothing_here_do_not_hide_the_oldest_time() -> None:
    from control.store.etcd.mirror import Mirror

    mirror = Mirror()
    mirror.begin(5)
    history = History(mirror)
    assert history.since is None
    mirror._skip_to(8)
    mirror.revision = 7
    assert history.since is None
    with pytest.raises(KeyError):
        moments.resolve(history, 7)
