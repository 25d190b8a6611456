"""The connection to containerd: its services, one namespace, and errors in our own words."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2

from node.runtime.containerd import (
    containers_pb2_grpc,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    leases_pb2_grpc,
    snapshots_pb2_grpc,
    tasks_pb2_grpc,
    version_pb2_grpc,
)
from node.runtime.interface import RUNTIME_UNAVAILABLE, RuntimeFailure

NAMESPACE = "steersman"  # containerd's own kind: whose containers and images these are
SNAPSHOTTER = "overlayfs"
RUNTIME = "io.containerd.runc.v2"
CALL_S = 30.0  # deadline of one call; starting a container on a busy host can take seconds, more means a hang

T = TypeVar("T")


class Containerd:
    """Stubs of all services, to be called with `metadata=client.metadata`."""

    def __init__(self, socket: str, namespace: str = NAMESPACE, snapshotter: str = SNAPSHOTTER) -> None:
        self.socket = socket
        self.snapshotter = snapshotter
        self.metadata = (("containerd-namespace", namespace),)
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}",
            options=[
                ("grpc.default_authority", "localhost"),
                ("grpc.max_receive_message_length", 64 << 20),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # Two runtimes in one process (tests) must not share a connection.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.containers = containers_pb2_grpc.ContainersStub(self._channel)
        self.content = content_pb2_grpc.ContentStub(self._channel)
        self.diff = diff_pb2_grpc.DiffStub(self._channel)
        self.events = events_pb2_grpc.EventsStub(self._channel)
        self.images = images_pb2_grpc.ImagesStub(self._channel)
        self.leases = leases_pb2_grpc.LeasesStub(self._channel)
        self.snapshots = snapshots_pb2_grpc.SnapshotsStub(self._channel)
        self.tasks = tasks_pb2_grpc.TasksStub(self._channel)
        self.version = version_pb2_grpc.VersionStub(self._channel)

    def leased(self, lease: str) -> tuple[tuple[str, str], ...]:
        """Metadata that puts what a call makes under a lease."""
        return (*self.metadata, ("containerd-lease", lease))

    async def close(self) -> None:
        await self._channel.close(None)


def wrap(type_url: str, value: bytes) -> any_pb2.Any:
    """An Any with containerd's own type urls, which have no host part."""
    return any_pb2.Any(type_url=type_url, value=value)


def failure(error: grpc.aio.AioRpcError, reason: str, doing: str) -> RuntimeFailure:
    """What a failed call means."""
    words = error.details() or error.code().name
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return RuntimeFailure(RUNTIME_UNAVAILABLE, f"{doing}: containerd does not answer: {words}")
    return RuntimeFailure(reason, f"{doing}: {words}")


async def ignoring(call: Awaitable[T], *codes: grpc.StatusCode) -> T | None:
    """Await a call to which some answers are as good as yes."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() in codes:
            return None
        raise
