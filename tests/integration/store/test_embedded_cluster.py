"""The embedded store over real Raft: three members with real logs on disk and real connections, in one process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from control.raft.node import RaftConfig, TlsFiles
from control.store.embedded import EmbeddedStore, open_embedded
from control.store.interface import Committed, NoLeaderError, Put, StoreError, Txn
from steersman.clock import SystemClock, SystemEntropy
from tests.unit.control.store.conformance import StoreConformance, collect, commit

NAMES = ("m0", "m1", "m2")
PATIENCE_S = 20.0


def certificates(folder) -> dict[str, TlsFiles]:
    """A CA and one certificate per member."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def certify(subject: x509.Name, key, extensions) -> bytes:
        builder = x509.CertificateBuilder(ca_name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca = folder / "ca.crt"
    ca.write_bytes(certify(ca_name, ca_key, [x509.BasicConstraints(ca=True, path_length=None)]))
    files = {}
    for name in NAMES:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, f"system:member:{name}"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:members"),
            ]
        )
        names = [x509.DNSName("localhost"), x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate, private = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(certify(subject, key, [x509.SubjectAlternativeName(names)]))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files[name] = TlsFiles(ca, certificate, private)
    return files


class Cluster:
    """Three members that can be stopped and started again."""

    def __init__(self, folder) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
        self.members = {name: f"127.0.0.1:{held.getsockname()[1]}" for name, held in zip(NAMES, sockets, strict=True)}
        for held in sockets:
            held.close()
        self.folder = folder
        self.tls = certificates(folder)
        self.stores: dict[str, EmbeddedStore] = {}

    async def start(self, name: str, **more) -> EmbeddedStore:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = RaftConfig(
            name=name,
            data_dir=folder,
            listen=self.members[name],
            members=self.members,
            tls=self.tls[name],
            **{"segment_bytes": 1 << 20, "tick_s": 0.02, **more},
        )
        store = await open_embedded(config, SystemClock(), SystemEntropy())
        self.stores[name] = store
        return store

    async def stop(self, name: str) -> None:
        await self.stores.pop(name).stop()

    async def leader(self) -> EmbeddedStore:
        return await until(lambda: next((store for store in self.stores.values() if store.is_leader), None))


async def until(found: Callable):
    """Wait until `found()` is true, and answer what it found. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := found()):
            await asyncio.sleep(0.01)
    return answer


@pytest.fixture
async def cluster(tmp_path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await asyncio.gather(*(cluster.start(name) for name in NAMES))
    yield cluster
    for name in list(cluster.stores):
        with contextlib.suppress(StoreError):
            await cluster.stop(name)


class TestEmbeddedCluster(StoreConformance):
    @pytest.fixture
    async def store(self, cluster: Cluster) -> EmbeddedStore:
        return await cluster.leader()


async def test_a_barrier_on_any_member_sees_what_another_acknowledged(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for number in range(20):
        result = await commit(leader, Put("/a/x/1", b"%d" % number))
        for store in cluster.stores.values():
            assert await store.barrier() >= result.revision
            assert (await store.get("/a/x/1")).value == b"%d" % number


async def test_watches_on_every_member_tell_the_same(cluster: Cluster) -> None:
    leader = await cluster.leader()
    watches = [store.watch("/a/", 0) for store in cluster.stores.values()]
    await asyncio.gather(*(leader.commit([Txn((Put(f"/a/x/{n % 7}", b"%d" % n),))]) for n in range(100)))
    told = [await collect(watch, 100) for watch in watches]
    assert told[0] == told[1] == told[2]


async def test_acknowledged_writes_survive_the_leaders_end_and_a_restart_of_all(cluster: Cluster) -> None:
    acknowledged: dict[str, int] = {}

    async def write(count: int, mark: str) -> None:
        for number in range(count):
            key = f"/a/{mark}/{number}"
            while key not in acknowledged:
                store = await cluster.leader()
                try:
                    result = await commit(store, Put(key, b"v"))
                except NoLeaderError:
                    continue
                assert isinstance(result, Committed)
                acknowledged[key] = result.revision

    await write(20, "before")
    first = (await cluster.leader()).leader
    await asyncio.gather(cluster.stop(first), write(20, "during"))
    await cluster.start(first)
    for name in list(cluster.stores):
        await cluster.stop(name)
    await asyncio.gather(*(cluster.start(name) for name in NAMES))
    await write(1, "after")
    for store in cluster.stores.values():
        await store.barrier()
        found = {kv.key: kv.mod_revision for kv in (await store.range("/a/")).kvs}
        assert found == acknowledged


async def test_a_member_that_was_away_gets_a_snapshot_with_history(tmp_path) -> None:
    cluster = Cluster(tmp_path)
    small = {"snapshot_entries": 50, "trailing_entries": 5, "trailing_bytes": 1000}
    try:
        await asyncio.gather(*(cluster.start(name, **small) for name in NAMES))
        leader = await cluster.leader()
        away = next(name for name in NAMES if name != leader.leader)
        await commit(leader, Put("/a/x/0", b"first"))
        await cluster.stop(away)
        for number in range(300):
            await commit(leader, Put(f"/a/x/{number % 10}", b"%d" % number))
        await until(lambda: leader.status().first_index > 100)
        back = await cluster.start(away, **small)
        watch = back.watch("/a/", 0)
        await until(lambda: back.revision == leader.revision)
        assert await back.range("") == await leader.range("")
        assert await back.range("", revision=150) == await leader.range("", revision=150)
        assert [event.revision for event in await collect(watch, 301)] == list(range(1, 302))
    finally:
        for name in list(cluster.stores):
            await cluster.stop(name)
