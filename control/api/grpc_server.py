"""The member's gRPC ports, with mutual TLS.

Two of them, because a gRPC server in Python either demands a client certificate on a port or does not look at any:
the main one demands a certificate of the cluster's CA; the bootstrap one serves `NodeBootstrap` only, to hosts that have a join token
and no certificate yet. Garbage, foreign and expired certificates end in the TLS handshake, before any code here.

The server's certificate is read again when its file changes, at the next handshake, so renewal needs no restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from control.ca.files import PkiFolder
from steersman.v1 import cluster_pb2, encryption_pb2, node_pb2, objects_pb2, streams_pb2

log = logging.getLogger("control.api")

MIB: Final = 1 << 20
OPTIONS: Final = (
    # Requests: beyond what an object may have, so that one that is too large is refused in words and by its size.
    ("grpc.max_receive_message_length", 16 * MIB),
    ("grpc.max_send_message_length", 64 * MIB),  # a list of 10,000 objects: what clients accept
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server on it
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # clients look after idle watches with pings
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 10_000),  # and the server notices clients that are gone
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 30 * 60_000),
)
SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (objects_pb2, "Objects"),
        (streams_pb2, "Streams"),
        (cluster_pb2, "Cluster"),
        (encryption_pb2, "Encryption"),
        (node_pb2, "NodeGateway"),
    )
)

# Anybody can reach the bootstrap port: a name, a token and a certificate request fit into this.
BOOTSTRAP_OPTIONS: Final = (*OPTIONS[1:], ("grpc.max_receive_message_length", 64 << 10))

Register = Callable[[grpc.aio.Server], Any]


class ListenError(Exception):
    """A port could not be opened; the message says which and why."""


class GrpcServer:
    """One gRPC port."""

    def __init__(
        self, address: str, pki: PkiFolder, registrations: Sequence[Register], *, client_certificates: bool = True
    ) -> None:
        self._address = address
        self._server = grpc.aio.server(options=OPTIONS if client_certificates else BOOTSTRAP_OPTIONS)
        for register in registrations:
            register(self._server)
        self.health: health_aio.HealthServicer | None = None
        if client_certificates:
            self.health = health_aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
            names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.port = _listen(self._server, address, _credentials(pki, client_certificates=client_certificates))

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def serving(self, serves: bool) -> None:
        """Tell health checks whether calls are answered."""
        if self.health is not None:
            state = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", *SERVICES):
                await self.health.set(name, state)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way end within `grace_s`, then cut them off."""
        await self._server.stop(grace_s)


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port: int = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}: {_plain(error)}") from None
    if not port:
        raise ListenError(f"cannot listen on {address}: is the port in use?")
    return port


def _plain(error: RuntimeError) -> str:
    text = str(error)
    return "the port is in use" if "Address already in use" in text or "Failed to bind" in text else text


def _credentials(pki: PkiFolder, *, client_certificates: bool) -> grpc.ServerCredentials:
    seen = [_stamp(pki)]

    def newer() -> grpc.ServerCertificateConfiguration | None:
        # Called at every handshake, from gRPC's own threads; None: the present one is still right.
        try:
            stamp = _stamp(pki)
            if stamp == seen[0]:
                return None
            found = _configuration(pki)
        except Exception:
            log.exception("cannot read the member's certificate again: the one in memory is used")
            return None
        seen[0] = stamp
        return found

    return grpc.dynamic_ssl_server_credentials(
        _configuration(pki), newer, require_client_authentication=client_certificates
    )


def _configuration(pki: PkiFolder) -> grpc.ServerCertificateConfiguration:
    pair = (pki.read(pki.key), pki.read(pki.certificate))
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=pki.read(pki.ca_certificate))


def _stamp(pki: PkiFolder) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns for path in (pki.certificate, pki.key, pki.ca_certificate))
