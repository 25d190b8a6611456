"""What is taken away of a container in containerd, piece by piece.

Each of these may be asked for what is gone already, so that an end that a crash cut off is simply walked again.
"""

from __future__ import annotations

import signal

import grpc
import grpc.aio

from node.runtime.client import CALL_S, Containerd, ignoring
from node.runtime.containerd import containers_pb2, snapshots_pb2, tasks_pb2


async def delete_task(client: Containerd, container_id: str) -> None:
    """Collect a container's task; one that still runs is ended first."""
    request = tasks_pb2.DeleteTaskRequest(container_id=container_id)
    try:
        await client.tasks.Delete(request, metadata=client.metadata, timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return
        if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNKNOWN):
            raise
        # It still runs (a start that was cut off), which the shim's answer says in words only: end it first.
        kill = tasks_pb2.KillRequest(container_id=container_id, signal=int(signal.SIGKILL), all=True)
        wait = tasks_pb2.WaitRequest(container_id=container_id)
        await ignoring(
            client.tasks.Kill(kill, metadata=client.metadata, timeout=CALL_S),
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNKNOWN,
        )
        await ignoring(client.tasks.Wait(wait, metadata=client.metadata, timeout=CALL_S), grpc.StatusCode.NOT_FOUND)
        await ignoring(
            client.tasks.Delete(request, metadata=client.metadata, timeout=CALL_S),
            grpc.StatusCode.NOT_FOUND,
        )


async def delete_record(client: Containerd, container_id: str) -> None:
    """Delete containerd's record of a container."""
    request = containers_pb2.DeleteContainerRequest(id=container_id)
    call = client.containers.Delete(request, metadata=client.metadata, timeout=CALL_S)
    await ignoring(call, grpc.StatusCode.NOT_FOUND)


async def remove_snapshot(client: Containerd, container_id: str) -> None:
    """Delete the snapshot that a container wrote to."""
    request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=client.snapshotter, key=container_id)
    call = client.snapshots.Remove(request, metadata=client.metadata, timeout=CALL_S)
    await ignoring(call, grpc.StatusCode.NOT_FOUND)
