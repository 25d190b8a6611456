"""What leaves the memory of a store is sealed, and only who holds the key reads it."""

import pytest

from control.store import commands
from control.store.encryption import EncryptionKey, SealedError, Sealer, is_sealed, prefixes_of
from control.store.interface import Delete, Put, Txn
from control.store.mvcc import Budget, Mvcc
from steersman.clock import SeededEntropy
from tests.unit.control.store.test_embedded import SharedLog, opened

OLD, NEW = EncryptionKey(b"o" * 32), EncryptionKey(b"n" * 32)
KEY = "/core/secrets/default/db"
SECRET = b'{"metadata":{"resourceVersion":""},"data":{"password":"aHVudGVyMg=="}}'
SPLICE = SECRET.index(b'""') + 1


def sealer(*keys: EncryptionKey, seed: int = 0, **more) -> Sealer:
    return Sealer(keys, SeededEntropy(seed), **more)


def put(key: str = KEY, value: bytes = SECRET) -> Txn:
    return Txn((Put(key, value, splice=SPLICE),))


def test_another_process_with_the_key_opens_what_was_sealed_and_no_byte_of_it_shows() -> None:
    envelope = sealer(OLD).seal(KEY, SECRET, SPLICE)
    assert b"password" not in envelope
    assert sealer(NEW, OLD, seed=1).open(KEY, envelope) == (SECRET, SPLICE)
    assert sealer(OLD).seal(KEY, b"") != b""


def test_a_value_moved_to_another_key_or_changed_anywhere_does_not_open() -> None:
    box = sealer(OLD)
    envelope = box.seal(KEY, SECRET)
    with pytest.raises(SealedError, match="moved here from another key"):
        box.open("/core/secrets/default/other", envelope)
    for at in range(len(envelope)):
        damaged = bytearray(envelope)
        damaged[at] ^= 1
        if is_sealed(bytes(damaged)):
            with pytest.raises(SealedError):
                box.open(KEY, bytes(damaged))


def test_no_two_values_share_a_nonce_under_one_derived_key() -> None:
    box, other = sealer(OLD), sealer(OLD, seed=1)
    heads = {box.seal(KEY, SECRET)[:44] for _ in range(1000)} | {other.seal(KEY, SECRET)[:44] for _ in range(1000)}
    assert len(heads) == 2000


def test_a_missing_key_is_named_with_the_remedy() -> None:
    envelope = sealer(OLD).seal(KEY, SECRET)
    with pytest.raises(SealedError, match=rf"{KEY} is encrypted with key {OLD.id}.*has {NEW.id}.*encryption-keys.json"):
        sealer(NEW).open(KEY, envelope)
    with pytest.raises(SealedError, match=OLD.id):
        sealer().open(KEY, envelope)


def test_only_the_named_resources_are_sealed() -> None:
    assert prefixes_of(("secrets", "jointokens", "widgets.example.com")) == (
        "/core/secrets/",
        "/bootstrap/tokens/",
        "/example.com/widgets/",
    )
    box = sealer(OLD, resources=("secrets",))
    assert box.seal_txn(put("/core/configmaps/default/a")) == put("/core/configmaps/default/a")
    assert is_sealed(box.seal_txn(put()).ops[0].value)
    assert sealer(OLD, resources=()).seal_txn(put()) == put()
    assert sealer().seal_txn(put()) == put()


async def test_the_log_holds_ciphertext_and_the_store_plaintext_with_its_revision() -> None:
    log = SharedLog()
    store = await opened(log, "m0", sealer=sealer(OLD))
    watch = store.watch("/core/secrets/", 0)
    (result,) = await store.commit([put()])
    expected = SECRET.replace(b'""', b'"1"')
    assert result.values == (expected,)
    assert (await store.get(KEY)).value == expected
    assert (await anext(watch)).events[0].value == expected
    await store.commit([Txn((Delete(KEY, value=SECRET, splice=SPLICE),))])
    assert (await anext(watch)).events[0].value == SECRET.replace(b'""', b'"2"')
    assert all(b"password" not in entry.data for entry in log.entries)
    assert is_sealed(commands.decode(log.entries[1].data).txns[0].ops[0].value)
    await store.stop()


async def test_without_encryption_the_log_shows_the_secret() -> None:
    log = SharedLog()
    store = await opened(log, "m0")
    await store.commit([put()])
    assert b"password" in log.entries[1].data
    await store.stop()


async def test_a_member_without_the_key_refuses_that_value_only_and_reads_it_when_the_key_comes() -> None:
    log = SharedLog()
    leader = await opened(log, "m0", sealer=sealer(NEW))
    lagging = await opened(log, "m1", sealer=sealer(OLD, seed=1))
    watch = lagging.watch("/core/secrets/", 0)
    await leader.commit([put(), put("/core/pods/default/a")])
    assert lagging.revision == leader.revision
    with pytest.raises(SealedError, match=NEW.id):
        await lagging.get(KEY)
    with pytest.raises(SealedError, match=NEW.id):
        await lagging.range("/core/")
    with pytest.raises(SealedError, match=NEW.id):
        await anext(watch)
    assert await lagging.get("/core/pods/default/a") is not None
    lagging.rekey([NEW, OLD])
    assert await lagging.range("") == await leader.range("")
    assert (await anext(lagging.watch("/core/secrets/", 0))).events[0].value == SECRET.replace(b'""', b'"1"')
    await leader.stop()
    await lagging.stop()


def test_a_snapshot_holds_ciphertext_history_included_and_restores_to_the_same() -> None:
    state = Mvcc()
    for number in range(3):
        state.apply(put(value=SECRET.replace(b"hu", b"h%d" % number)), number)
    state.apply(put("/core/configmaps/default/a"), 4)
    box = sealer(OLD)
    chunks = list(state.snapshot(box.seal_stored))
    assert b"".join(chunks).count(b"password") == 1
    restored = Mvcc()
    restored.restore(chunks, sealer(NEW, OLD, seed=1).open_stored)
    assert [v.kv for changed in restored.changes(0) for v in changed] == [
        v.kv for changed in state.changes(0) for v in changed
    ]
    blind = Mvcc()
    blind.restore(chunks, sealer(NEW).open_stored)
    again = Mvcc()
    again.restore(list(blind.snapshot(sealer(NEW).seal_stored)), sealer(NEW, OLD).open_stored)
    assert again.range("") == state.range("")


async def test_sizes_are_as_if_the_key_had_always_been_there_and_forgotten_values_wait_for_nothing(monkeypatch) -> None:
    monkeypatch.setattr("control.store.embedded.PRUNE", 4)
    log = SharedLog()
    leader = await opened(log, "m0", sealer=sealer(NEW), budget=Budget(changes=5))
    lagging = await opened(log, "m1", sealer=sealer(OLD, seed=1), budget=Budget(changes=5))
    for _ in range(20):
        await leader.commit([put(), put()])
    machine = lagging._machine
    assert len(machine.unopened) <= 20
    lagging.rekey([NEW, OLD])
    assert machine.unopened == []
    ours, theirs = lagging._engine.state, leader._engine.state
    assert (ours.live_bytes, ours.history_bytes) == (theirs.live_bytes, theirs.history_bytes)
    assert [version.kv for version in ours.versions()] == [version.kv for version in theirs.versions()]
    await leader.stop()
    await lagging.stop()
