"""What a lost cluster's logs tell: which is the most advanced, what is certain, what may be lost."""

from __future__ import annotations

import pytest

from control.raft.core import Batch
from control.raft.files import OsFiles
from control.raft.messages import Entry, EntryKind, HardState, Membership
from control.raft.wal import Wal
from control.store import commands, recovery
from control.store.interface import Cause, Put, Txn
from control.store.mvcc import Mvcc
from control.store.rebase import GAP, ORIGIN

THREE = Membership(frozenset("abc"), frozenset(), {name: f"{name}:1" for name in "abc"}, "old")


def command(number: int) -> bytes:
    txn = Txn((Put(f"/k{number}", b"{}"),), Cause(0, "test"))
    return commands.encode(commands.Command(1_700_000_000_000 + number, (txn,)))


@pytest.fixture
def log(tmp_path):
    """Make the folder of a member whose log ends with these terms."""

    def make(name: str, terms: list[int], *, commit: int, cluster: str = "old"):
        wal = Wal(OsFiles(tmp_path / name / "raft"))
        wal.open(Membership(THREE.voters, THREE.learners, THREE.addresses, cluster))
        entries = [Entry(1, 1, b"", EntryKind.EMPTY)]
        entries += [Entry(number + 2, term, command(number)) for number, term in enumerate(terms)]
        wal.save(Batch(HardState(terms[-1], "a", commit), tuple(entries), None, ()))
        wal.close()
        return tmp_path / name

    return make


def test_the_most_advanced_log_is_the_one_that_would_be_elected(log):
    found = [recovery.inspect(log("a", [1, 1, 1, 1], commit=2)), recovery.inspect(log("b", [1, 1, 2], commit=3))]
    assert recovery.most_advanced(found) is found[1]
    other = recovery.inspect(log("c", [1], commit=1, cluster="another"))
    with pytest.raises(recovery.RecoveryError, match="of several clusters"):
        recovery.most_advanced([*found, other])


def test_what_is_certain_and_what_is_not_is_told_apart(log):
    found = recovery.inspect(log("a", [1, 1, 1, 1], commit=3))
    assert (found.last_index, found.last_term, found.commit) == (5, 1, 3)
    assert (found.committed_revision, found.revision, found.keys) == (2, 4, 4)
    assert [(write.index, write.keys) for write in found.uncommitted] == [(4, ("/k2",)), (5, ("/k3",))]
    alone = "\n".join(recovery.assess(found, 1))
    assert "Safe: everything up to revision 2 (entry 3)" in alone
    assert "Kept: 2 writes after it, up to revision 4 (entry 5)" in alone
    assert "May be lost: every write acknowledged after entry 5 of term 1, proposed at 2023-11-14T22:13:20Z" in alone
    assert "Find 1 more" in alone
    assert "Lost: nothing that was acknowledged" in "\n".join(recovery.assess(found, 2))


def test_looking_changes_nothing_not_even_a_torn_tail(log):
    folder = log("a", [1, 1], commit=1)
    segment = next((folder / "raft").glob("wal-*"))
    content = segment.read_bytes()
    end = len(content.rstrip(b"\0"))
    segment.write_bytes(content[:end] + b"torn" + content[end + 4 :])
    before = {path.name: path.read_bytes() for path in (folder / "raft").iterdir()}
    assert recovery.inspect(folder).last_index == 3
    assert {path.name: path.read_bytes() for path in (folder / "raft").iterdir()} == before


def test_a_recovered_member_starts_alone_in_another_cluster_and_the_old_log_is_kept(log):
    folder = log("a", [1, 1], commit=1)
    old = {path.name: path.read_bytes() for path in (folder / "raft").iterdir()}
    aside = recovery.recover(recovery.inspect(folder), "a", "a:1", "new")
    assert aside is not None
    assert {path.name: path.read_bytes() for path in aside.iterdir()}.items() >= old.items()
    wal = Wal(OsFiles(folder / "raft"))
    stored = wal.open(THREE)
    assert (stored.snapshot.index, stored.snapshot.term, stored.entries) == (4, 2, ())
    assert stored.snapshot.membership == Membership(frozenset("a"), frozenset(), {"a": "a:1"}, "new")
    state = Mvcc()
    state.restore(wal.snapshots.chunks(stored.snapshot))
    wal.close()
    assert (sorted(state.keys()), state.revision) == ([ORIGIN, "/k0", "/k1"], 2 + GAP)


def test_an_interrupted_recovery_leaves_the_old_log_and_can_be_repeated(log):
    folder = log("a", [1, 1], commit=1)
    found = recovery.inspect(folder)

    def broken():
        yield from list(found.state.snapshot())[:1]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        recovery.begin(folder, recovery.SnapshotMeta(9, 9, THREE), broken())
    assert recovery.inspect(folder).last_index == 3
    assert recovery.recover(found, "a", "a:1", "new") is not None


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(recovery.RecoveryError, match="holds no member's log"):
        recovery.inspect(tmp_path)
