import datetime as dt

import pytest

from control.store.interface import Cause, CompactedError, Delete, Put, Txn
from control.store.local import LocalStore
from steersman.clock import ManualClock


async def test_a_keys_past_tells_who_wrote_what_why_and_when() -> None:
    clock = ManualClock()
    store = LocalStore(clock)
    start = clock.now()
    await store.commit([Txn((Put("/a/x/web", b"1"),), Cause(0, "admin"))])
    clock.advance(60)
    await store.commit([Txn((Put("/a/x/web", b"2"), Put("/a/x/other", b"")), Cause(1, "controller"))])
    clock.advance(60)
    await store.commit([Txn((Delete("/a/x/web"),), Cause(2, "gc"))])
    past = store.history.of("/a/x/web")
    assert [(entry.cause.actor, entry.cause.revision, entry.deleted) for entry in past] == [
        ("gc", 2, True),
        ("controller", 1, False),
        ("admin", 0, False),
    ]
    assert [entry.kv.mod_revision for entry in past] == [3, 2, 1]
    assert past[2].time == start
    assert len(store.history.of("/a/x/web", limit=1)) == 1
    assert store.history.cause_of(2) == (
        Cause(1, "controller"),
        start + dt.timedelta(seconds=60),
        ("/a/x/web", "/a/x/other"),
    )
    with pytest.raises(KeyError):
        store.history.cause_of(4)


async def test_the_revision_at_a_time_and_its_limits() -> None:
    clock = ManualClock()
    store = LocalStore(clock)
    start = clock.now()
    assert store.history.at(start) == 0
    for number in range(5):
        await store.commit([Txn((Put("/a/x/web", b"%d" % number),))])
        clock.advance(60)
    assert store.history.at(start - dt.timedelta(seconds=1)) == 0
    assert store.history.at(start) == 1
    assert store.history.at(start + dt.timedelta(seconds=150)) == 3
    assert store.history.at(clock.now()) == 5
    store.compact(2)
    assert store.history.oldest == 3
    assert store.history.at(start + dt.timedelta(seconds=120)) == 3
    with pytest.raises(CompactedError):
        store.history.at(start + dt.timedelta(seconds=119))
    assert [entry.kv.value for entry in store.history.of("/a/x/web")] == [b"4", b"3", b"2", b"1"]
