"""The state machine against the simplest model that could be right: a copy of the whole state for every revision."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.store.interface import (
    Cause,
    Check,
    Committed,
    CompactedError,
    Conflicted,
    Delete,
    KeyValue,
    Put,
    Txn,
)
from control.store.mvcc import Budget, Mvcc
from control.store.snapshot import SnapshotDamagedError

KEYS = ["/a/x/1", "/a/x/2", "/a/xy/1", "/a/x/1/deep", "/b/x/1", "/b"]
PREFIXES = ["", "/", "/a/", "/a/x", "/a/x/", "/a/x/1", "/b", "/c"]

expectations = st.one_of(st.none(), st.none(), st.just(0), st.integers(1, 30))
values = st.binary(max_size=6)
operations = st.one_of(
    st.builds(Put, st.sampled_from(KEYS), values, st.sampled_from([-1, 0]), expectations),
    st.builds(Delete, st.sampled_from(KEYS), expectations, st.one_of(st.none(), values), st.just(-1)),
    st.builds(Check, st.sampled_from(KEYS), st.sampled_from([0, 0, 1, 2, 3])),
)
transactions = st.builds(
    Txn,
    st.lists(operations, min_size=1, max_size=4, unique_by=lambda op: op.key).map(tuple),
    st.builds(Cause, st.integers(0, 9), st.sampled_from(["", "user", "controller"])),
)
steps = st.lists(st.one_of(transactions, transactions, st.integers(0, 40)), max_size=40)  # a number: compact to it


class Model:
    """A dict per revision."""

    def __init__(self) -> None:
        self.states: list[dict[str, KeyValue]] = [{}]
        self.written: list[list[str]] = [[]]

    def apply(self, txn: Txn) -> Committed | Conflicted:
        state = self.states[-1]
        revision = len(self.states)
        for op in txn.ops:
            if op.expect is not None:
                current = state.get(op.key)
                if (current.mod_revision if current else 0) != op.expect:
                    return Conflicted(op.key, current, revision - 1)
        after, written, stored = dict(state), [], []
        for op in txn.ops:
            if isinstance(op, Put):
                value = op.value if op.splice < 0 else str(revision).encode() + op.value
                created = state[op.key].create_revision if op.key in state else revision
                after[op.key] = KeyValue(op.key, value, created, revision)
                stored.append(value)
                written.append(op.key)
            elif isinstance(op, Delete) and op.key in state:
                del after[op.key]
                written.append(op.key)
        if not written:
            return Committed(revision - 1, ())
        self.states.append(after)
        self.written.append(written)
        return Committed(revision, tuple(stored))


def compare(state: Mvcc, model: Model) -> None:
    assert state.revision == len(model.states) - 1
    for revision in range(state.compacted + 1, state.revision + 1):
        truth = model.states[revision]
        for key in KEYS:
            assert state.get(key, revision) == truth.get(key)
        for prefix in PREFIXES:
            expected = tuple(truth[key] for key in sorted(truth) if key.startswith(prefix))
            whole = state.range(prefix, revision=revision)
            assert (whole.kvs, whole.count, whole.more) == (expected, len(expected), False)
            for after in ("", "/a/x/1", "/a/x/15"):
                rest = tuple(kv for kv in expected if kv.key > after)
                page = state.range(prefix, revision=revision, limit=2, after=after)
                assert (page.kvs, page.count, page.more) == (rest[:2], len(expected), len(rest) > 2)
        (changed,) = state.changes(revision - 1, 1)
        assert [version.kv.key for version in changed] == model.written[revision]
        for version in changed:
            before = model.states[revision - 1].get(version.kv.key)
            old = version.previous
            assert (None if old is None or old.deleted else old.kv) == before
            assert version.deleted == (version.kv.key not in truth)
    if state.compacted:
        with pytest.raises(CompactedError):
            state.get(KEYS[0], state.compacted)
    assert state.live_bytes == sum(len(kv.key) + len(kv.value) for kv in model.states[-1].values())
    assert len(state) == len(model.states[-1])
    assert state.history_bytes >= 0


@settings(max_examples=150, deadline=None)
@given(steps)
def test_every_read_at_every_revision_agrees_with_the_model(steps) -> None:
    state, model = Mvcc(), Model()
    for time, step in enumerate(steps):
        if isinstance(step, int):
            state.compact(step)
        else:
            assert state.apply(step, time) == model.apply(step)
    compare(state, model)
    restored = Mvcc()
    restored.restore(state.snapshot())
    assert restored.compacted == state.compacted
    assert restored.history_bytes == state.history_bytes
    compare(restored, model)
    restored.compact(restored.revision)
    compare(restored, model)


@settings(max_examples=60, deadline=None)
@given(st.lists(transactions, max_size=20), st.lists(transactions, max_size=20), st.integers(0, 40))
def test_a_snapshot_shows_the_moment_it_was_begun(before, later, compact) -> None:
    state, model = Mvcc(), Model()
    for txn in before:
        state.apply(txn, 1)
        model.apply(txn)
    chunks = state.snapshot()
    for txn in later:
        state.apply(txn, 2)
    state.compact(compact)
    restored = Mvcc()
    restored.restore(chunks)
    compare(restored, model)


def filled(count: int = 2000) -> Mvcc:
    state = Mvcc()
    for number in range(count):
        state.apply(Txn((Put(f"/a/x/{number}", b"%d" % number * 100),)), number)
    return state


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    chunks = list(filled().snapshot())
    assert len(chunks) > 3
    flipped = bytearray(chunks[1])
    flipped[len(flipped) // 2] ^= 4
    damaged = {
        "flipped": [chunks[0], bytes(flipped), *chunks[2:]],
        "missing": [chunks[0], *chunks[2:]],
        "short": chunks[:-1],
        "exchanged": [chunks[0], chunks[2], chunks[1], *chunks[3:]],
        "doubled": [*chunks[:2], *chunks[1:]],
        "longer": [*chunks, chunks[-1]],
        "headless": chunks[1:],
        "empty": [],
    }
    state = Mvcc()
    state.apply(Txn((Put("/mine", b""),)), 1)
    for form in damaged.values():
        with pytest.raises(SnapshotDamagedError):
            state.restore(form)
        assert [kv.key for kv in state.range("").kvs] == ["/mine"]


def test_a_restored_state_goes_on_like_the_original() -> None:
    state, twin = filled(), Mvcc()
    twin.restore(state.snapshot())
    for txn in (Txn((Delete("/a/x/7"), Put("/a/x/8", b"", expect=9))), Txn((Put("/a/x/7", b"again", expect=0),))):
        assert state.apply(txn, 5000) == twin.apply(txn, 5000)
    assert list(state.snapshot()) == list(twin.snapshot())


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(Budget(changes=10), 10), (Budget(bytes=10 * (400 + 6 + 100)), 10), (Budget(age_s=1.0), 11)],
)
def test_history_is_kept_to_its_budget_and_the_newest_is_never_forgotten(budget: Budget, kept: int) -> None:
    state = Mvcc(budget)
    for number in range(12000):
        state.apply(Txn((Put("/a/x/1", b"v" * 100),)), number * 100)
    assert state.revision - state.compacted == kept
    assert len(state.changes(state.compacted)) == kept
    state.apply(Txn((Delete("/a/x/1"),)), 12000 * 100 + 3_600_000 * 24)
    state.compact(state.revision)
    assert state.get("/a/x/1", state.revision) is None
    assert state.revision - state.compacted == 1


def test_forgotten_tombstones_leave_nothing_behind() -> None:
    state = Mvcc(Budget(changes=1))
    for number in range(3000):
        state.apply(Txn((Put(f"/a/{number}", b"v"),)), 1)
        state.apply(Txn((Delete(f"/a/{number}"),)), 1)
    state.apply(Txn((Put("/b", b"v"),)), 1)
    assert list(state._latest) == ["/b"]
    assert len(state._dead) == 0
    assert (state.live_bytes, state.history_bytes) == (3, 0)


def test_time_never_runs_backwards() -> None:
    state = Mvcc()
    state.apply(Txn((Put("/a", b""),)), 5000)
    state.apply(Txn((Put("/a", b""),)), 4000)
    assert [versions[0].time for versions in state.changes(0)] == [5000, 5000]
