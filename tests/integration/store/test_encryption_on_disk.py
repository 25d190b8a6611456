"""A real member's disk: a known secret is nowhere in it, neither in the log nor in snapshots, and after a rotation nothing needs the old key."""

from pathlib import Path

from control.raft.interface import RaftConfig
from control.store.embedded import EmbeddedStore, open_embedded
from control.store.encryption import EncryptionKey, Sealer, key_ids_on_disk
from control.store.interface import Put, Txn
from steersman.clock import SystemClock, SystemEntropy
from tests.integration.store.test_embedded_cluster import NAMES, certificates, until

OLD, NEW = EncryptionKey(b"o" * 32), EncryptionKey(b"n" * 32)
KNOWN = b"correct-horse-battery-staple"
KEY = "/core/secrets/default/db"


async def member(folder: Path, *keys: EncryptionKey) -> EmbeddedStore:
    """A cluster of one on `folder`; without keys nothing is encrypted."""
    (folder / "data").mkdir(exist_ok=True)
    config = RaftConfig(
        name=NAMES[0],
        data_dir=folder / "data",
        listen="127.0.0.1:0",
        members={NAMES[0]: "127.0.0.1:1"},
        tls=certificates(folder)[NAMES[0]],
        segment_bytes=1 << 20,
        tick_s=0.02,
    )
    store = await open_embedded(config, SystemClock(), SystemEntropy(), sealer=Sealer(keys, SystemEntropy()))
    await until(lambda: store.is_leader)
    return store


def found_on_disk(folder: Path) -> list[str]:
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert any("wal" in path.name for path in files)
    return [path.name for path in files if KNOWN in path.read_bytes()]


async def write_and_snapshot(store: EmbeddedStore) -> None:
    await store.commit([Txn((Put(KEY, b'{"data":"%b"}' % KNOWN),)), Txn((Put("/bootstrap/tokens/abc", KNOWN),))])
    await store.raft.purge()
    await store.commit([Txn((Put(KEY, b'{"data":"%b again"}' % KNOWN),))])


async def test_a_secret_is_nowhere_on_the_disk_and_survives_a_restart(tmp_path: Path) -> None:
    store = await member(tmp_path, OLD)
    await write_and_snapshot(store)
    assert found_on_disk(tmp_path) == []
    await store.stop()
    assert found_on_disk(tmp_path) == []
    store = await member(tmp_path, OLD)
    assert (await store.get(KEY)).value == b'{"data":"%b again"}' % KNOWN
    assert (await store.get(KEY, 2)).value == b'{"data":"%b"}' % KNOWN
    await store.stop()


async def test_without_encryption_log_and_snapshot_show_it(tmp_path: Path) -> None:
    store = await member(tmp_path)
    await write_and_snapshot(store)
    names = found_on_disk(tmp_path)
    assert any("wal" in name for name in names)
    assert any("snap" in name for name in names)
    await store.stop()


async def test_after_a_rotation_and_a_purge_the_old_key_can_go(tmp_path: Path) -> None:
    store = await member(tmp_path, OLD)
    await write_and_snapshot(store)
    assert key_ids_on_disk(tmp_path / "data", [OLD.id, NEW.id]) == {OLD.id}
    store.rekey([NEW, OLD])
    await store.commit([Txn((Put("/core/configmaps/default/a", b"{}"),))])
    assert key_ids_on_disk(tmp_path / "data", [OLD.id, NEW.id]) == {OLD.id}
    await store.raft.purge()
    assert key_ids_on_disk(tmp_path / "data", [OLD.id, NEW.id]) == {NEW.id}
    assert found_on_disk(tmp_path) == []
    await store.stop()
    store = await member(tmp_path, NEW)
    assert (await store.get(KEY)).value == b'{"data":"%b again"}' % KNOWN
    await store.stop()
