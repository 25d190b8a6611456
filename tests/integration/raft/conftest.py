"""Members over real sockets, TLS and disks, all in the test's process."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.raft.node import Entry, RaftConfig, RaftNode, TlsFiles
from steersman.clock import SystemClock, SystemEntropy


class Register:
    """A state machine: the last value of each key, and every value in order."""

    def __init__(self) -> None:
        self.history: list[bytes] = []

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        results: list[object] = []
        for entry in entries:
            self.history.append(entry.data)
            results.append(len(self.history))
        return results

    def snapshot(self) -> Iterator[bytes]:
        history = list(self.history)
        for start in range(0, len(history), 100):
            yield json.dumps([value.decode() for value in history[start : start + 100]]).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.history = [value.encode() for chunk in chunks for value in json.loads(chunk)]


class Authority:
    """A throw-away CA."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._build(self.name, self.key.public_key(), ca=True, names=[])
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str, name: str) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = self._build(subject, key.public_key(), ca=False, names=[name, "localhost"])
        paths = (self.folder / f"{name}.crt", self.folder / f"{name}.key")
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsFiles(self.path, *paths)

    def _build(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, ca: bool, names: list[str]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(
                x509.SubjectAlternativeName([*map(x509.DNSName, names), *addresses]), critical=False
            ).add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Lab:
    """A cluster whose members can be stopped, killed and started."""

    folder: Path
    authority: Authority
    addresses: dict[str, str]
    adjust: Callable[[RaftConfig], RaftConfig]
    nodes: dict[str, RaftNode]
    machines: dict[str, Register]

    async def start(self, name: str, *, joining: bool = False) -> RaftNode:
        config = RaftConfig(
            name=name,
            data_dir=self.folder / name,
            listen=self.addresses[name],
            members={} if joining else {n: self.addresses[n] for n in ("control-1", "control-2", "control-3")},
            tls=self.authority.issue(f"system:member:{name}", name),
        )
        self.machines[name] = Register()
        node = RaftNode(self.adjust(config), self.machines[name], SystemClock(), SystemEntropy())
        self.nodes[name] = node
        await node.start()
        return node

    async def kill(self, name: str) -> None:
        """End a member as `kill -9` does: no hand-over, nothing flushed that was not written."""
        node = self.nodes.pop(name)
        node._core = None
        await node.stop()

    async def leader(self, *, other_than: str = "") -> RaftNode:
        """Wait until a member leads."""
        node = next(iter(self.nodes.values()))
        async for state in node.leadership():
            found = self.nodes.get(state.leader)
            if found is not None and state.leader != other_than:
                async for own in found.leadership():
                    if own.is_self:
                        return found
                    if own.leader not in ("", state.leader):
                        break
        raise AssertionError("the member stopped")


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
async def raft_lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """Three members, not started; set `adjust` to change their settings."""
    addresses = {f"control-{n}": free_address() for n in range(1, 5)}
    lab = Lab(tmp_path, Authority(tmp_path), addresses, replace, {}, {})
    try:
        yield lab
    finally:
        for name in list(lab.nodes):
            await lab.kill(name)
