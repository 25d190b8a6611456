"""What a new cluster begins with: the newest state of the old one, out of reach of its revisions."""

from __future__ import annotations

import pytest

from control.store.interface import Cause, CompactedError, Delete, Put, Txn
from control.store.mvcc import Mvcc
from control.store.rebase import GAP, ORIGIN, rebase
from control.store.snapshot import SnapshotDamagedError


def old() -> Mvcc:
    state = Mvcc()
    for number, ops in enumerate(
        (
            (Put("/a", b"1"),),
            (Put("/b", b"1"), Put("/cluster/members/m", b"x")),
            (Put("/a", b"2"),),
            (Delete("/b"),),
            (Put("/c", b"r=", 2),),
        )
    ):
        state.apply(Txn(ops, Cause(0, "test")), 1_000 + number)
    return state


def renewed(state: Mvcc, how: str = "snapshot") -> Mvcc:
    fresh = Mvcc()
    fresh.restore(rebase(state.snapshot(), "old", how))
    return fresh


def test_what_lives_is_kept_as_it_was_written() -> None:
    state, before = renewed(old()), old()
    assert [state.get(key) for key in ("/a", "/c")] == [before.get(key) for key in ("/a", "/c")]
    assert sorted(state.keys()) == ["/a", "/c", ORIGIN]


def test_watchers_of_the_old_cluster_are_told_that_their_revision_is_forgotten() -> None:
    state = renewed(old())
    assert state.revision == 5 + GAP
    for seen in (1, 5, 6, 5 + GAP - 2):
        with pytest.raises(CompactedError):
            state.changes(seen)
    assert len(state.changes(state.revision - 1)) == 1
    assert state.range("/", revision=state.revision).count == 3


def test_the_new_cluster_goes_on_from_there_and_can_be_restored_again() -> None:
    state = renewed(old())
    state.apply(Txn((Put("/d", b"1"),)), 2_000)
    again = renewed(state, "recovery")
    assert again.revision == 6 + 2 * GAP
    origin = again.get(ORIGIN)
    assert origin is not None
    assert origin.value == b'{"cluster":"old","revision":%d,"how":"recovery"}' % (6 + GAP)
    assert sorted(again.keys()) == ["/a", "/c", ORIGIN, "/d"]


def test_the_same_snapshot_gives_every_member_the_same_bytes() -> None:
    chunks = list(old().snapshot())
    assert list(rebase(chunks, "old", "snapshot")) == list(rebase(chunks, "old", "snapshot"))


def test_a_damaged_snapshot_begins_nothing() -> None:
    chunks = list(old().snapshot())
    with pytest.raises(SnapshotDamagedError):
        rebase([*chunks[:-1]], "old", "snapshot")
