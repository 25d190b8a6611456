"""How a node becomes known to the cluster: it trades a join token for a certificate of its own.

Before the node has a certificate it knows two things: the token and the SHA-256 of the cluster's CA certificate. It
connects without trusting anybody, looks for the certificate with that hash in the chain that the server presents, and
from there on trusts only that: the token is sent over a connection that the pinned CA vouches for. The private key is
made here and never leaves; the certificate is renewed, with a new key, when half of its life is over.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import msgspec

from steersman.clock import Clock
from steersman.errors import ApiError
from steersman.v1 import node_pb2, node_pb2_grpc

BOOTSTRAP_PORT_OFFSET = 2  # node bootstrap is served this far above a member's gRPC port (node.proto)
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 15.0


class JoinError(Exception):
    """The node cannot join; the message says why and what to do. `final`: trying again cannot help."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's certificate and key, the CA it trusts, and the members it knows."""

    certificate: bytes
    key: bytes
    ca: bytes
    members: tuple[str, ...]

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


class IdentityFile:
    """The identity on disk, readable by root only, replaced whole."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "identity.json"

    def load(self) -> Identity | None:
        """The identity, or None when the node has not joined yet (or the file is torn)."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Identity)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def save(self, identity: Identity) -> None:
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(identity))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" in its parts. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _chain(host: str, port: int) -> list[bytes]:
    """The DER certificates that a TLS server presents, whoever vouches for them."""
    import socket  # noqa: PLC0415 - needed once in a node's life

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as secured,
    ):
        # Public as get_unverified_chain from Python 3.13 on, where it gives DER; before, objects of the private module.
        public = getattr(secured, "get_unverified_chain", None)
        chain = public() if public is not None else secured._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
        return [
            entry if isinstance(entry, bytes) else ssl.PEM_cert_to_DER_cert(entry.public_bytes())
            for entry in chain or ()
        ]


def pinned(chain: list[bytes], ca_hash: str) -> bytes:
    """The CA certificate (PEM) of a chain that has the pinned hash.

    Raises:
        JoinError: none has; whoever answered is not the cluster that the token is for.
    """
    wanted = ca_hash.removeprefix("sha256:").lower()
    for der in chain:
        if hashlib.sha256(der).hexdigest() == wanted:
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise JoinError(
        f"no certificate of the server's chain has the SHA-256 {wanted}: either --ca-hash is wrong"
        " (`steer token create` prints the right one) or another server answers at this address",
        final=True,
    )


def new_key(node_name: str) -> tuple[bytes, bytes]:
    """A fresh private key and a certificate request for it, PEM."""
    from cryptography import x509  # noqa: PLC0415 - a large import that only joining and renewing need
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node_name}")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    return (
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        request.public_bytes(encoding),
    )


def life(certificate: bytes) -> tuple[dt.datetime, dt.datetime]:
    """When a PEM certificate begins and ends."""
    from cryptography import x509  # noqa: PLC0415

    parsed = x509.load_pem_x509_certificate(certificate)
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def renewal_due(certificate: bytes, now: dt.datetime) -> float:
    """Seconds until half of the certificate's life is over; 0: it is."""
    begins, ends = life(certificate)
    return max(0.0, (begins + (ends - begins) / 2 - now).total_seconds())


async def join(server: str, *, node_name: str, token: str, ca_hash: str) -> Identity:
    """Join through one member.

    Raises:
        JoinError: it refused, or it is not there.
    """
    host, port = split_address(server)
    port += BOOTSTRAP_PORT_OFFSET
    try:
        chain = await asyncio.to_thread(_chain, host, port)
    except (OSError, ssl.SSLError) as error:
        raise JoinError(f"{host}:{port} does not answer: {error}") from error
    ca = pinned(chain, ca_hash)
    key, request = await asyncio.to_thread(new_key, node_name)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        try:
            answer = await node_pb2_grpc.NodeBootstrapStub(channel).Join(
                node_pb2.JoinRequest(token=token, node_name=node_name, csr_pem=request), timeout=JOIN_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            problem = ApiError.from_rpc(error)
            final = problem.reason in (
                "Unauthorized",
                "Forbidden",
                "Invalid",
                "BadRequest",
                "Conflict",
                "AlreadyExists",
            )
            raise JoinError(f"{server} refused the node: {problem.message}", final=final) from error
    return Identity(answer.certificate_pem, key, answer.ca_pem or ca, tuple(answer.members) or (server,))


async def renew(identity: Identity, channel: grpc.aio.Channel, node_name: str) -> Identity:
    """A new certificate, asked for with the old one.

    Raises:
        JoinError: it was refused.
    """
    key, request = await asyncio.to_thread(new_key, node_name)
    try:
        answer = await node_pb2_grpc.NodeGatewayStub(channel).Renew(
            node_pb2.RenewRequest(csr_pem=request), timeout=JOIN_TIMEOUT_S
        )
    except grpc.aio.AioRpcError as error:
        raise JoinError(f"the certificate was not renewed: {ApiError.from_rpc(error).message}") from error
    return Identity(
        answer.certificate_pem, key, answer.ca_pem or identity.ca, tuple(answer.members) or identity.members
    )


def usable(identity: Identity, ca_hash: str, clock: Clock) -> str:
    """Why an identity cannot be used (any more), or ""; `ca_hash` "" fits every CA."""
    if life(identity.certificate)[1] <= clock.now():
        return "its certificate has ended"
    if ca_hash:
        der = ssl.PEM_cert_to_DER_cert(identity.ca.decode())
        if hashlib.sha256(der).hexdigest() != ca_hash.removeprefix("sha256:").lower():
            return "its certificate is of another cluster"
    return ""
