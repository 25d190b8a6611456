"""Logs and exec: a client's stream on one side, an agent's on the other, joined in the leader.

    client ── Logs / Exec ──► any member ──► leader ──┐ OpenStream in the node's session
                                             bridge ◄─┴─ Stream, dialled by the agent

Each direction of a bridge is a short queue: whoever is slow makes the other side wait, nobody buffers without end. When
one side goes away, the other is told: an exec whose client is gone is killed by its agent, a client whose node is gone
gets Unavailable.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from control.gateway.feed import Feeds
from control.gateway.sessions import Sessions
from control.rpc import Pen
from steersman.clock import Entropy
from steersman.errors import ApiError, bad_request, not_found, unavailable
from steersman.v1 import node_pb2, streams_pb2

Frame = streams_pb2.StreamFrame

OPEN_TIMEOUT_S = 10.0  # for the agent to dial back: a busy node takes a moment, a dead one's session ends sooner
QUEUED = 16  # frames per direction, up to 32 KiB each


class Bridge:
    """One stream between a client and an agent."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()  # one side is gone
        self.to_agent: asyncio.Queue[Frame] = asyncio.Queue(QUEUED)
        self.to_client: asyncio.Queue[Frame | None] = asyncio.Queue(QUEUED)

    async def next_for_client(self) -> Frame | None:
        """The next frame from the agent; None when its side has ended."""
        taken = asyncio.ensure_future(self.to_client.get())
        closed = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({taken, closed}, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                return taken.result()
            return None if self.to_client.empty() else self.to_client.get_nowait()
        finally:
            taken.cancel()
            closed.cancel()


class Bridges:
    """The streams of one term of leadership."""

    def __init__(self, feeds: Feeds, sessions: Sessions, entropy: Entropy) -> None:
        self._feeds = feeds
        self._sessions = sessions
        self._entropy = entropy
        self._bridges: dict[str, Bridge] = {}

    # --- the client's side ---

    async def open(self, namespace: str, pod: str, start: Frame) -> tuple[str, Bridge]:
        """Ask the pod's node to serve a stream; answers when its agent has dialled.

        Raises:
            ApiError: there is no such pod, it runs nowhere yet, or its node does not answer.
        """
        if not pod:
            raise bad_request("the pod's name is missing")
        held = self._feeds.pods.get(namespace or "default", pod)
        if held is None:
            raise not_found("pods", pod)
        if not held.node_name:
            raise bad_request(f"pod {pod} does not have a host assigned")
        session = self._sessions.get(held.node_name)
        if session is None:
            raise unavailable(f'node "{held.node_name}" of pod "{pod}" has no session with the control plane')
        stream_id = self._entropy.token(24)
        bridge = self._bridges[stream_id] = Bridge(held.node_name)
        session.send(node_pb2.GatewayMessage(open_stream=node_pb2.OpenStream(stream_id=stream_id, start=start)))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await bridge.opened.wait()
        except TimeoutError:
            self.close(stream_id)
            raise unavailable(f'node "{held.node_name}" did not open the stream within {OPEN_TIMEOUT_S:g} s') from None
        except BaseException:
            self.close(stream_id)
            raise
        return stream_id, bridge

    def close(self, stream_id: str) -> None:
        """The client is gone, or served."""
        bridge = self._bridges.pop(stream_id, None)
        if bridge is not None:
            bridge.closed.set()

    def close_all(self) -> None:
        for stream_id in list(self._bridges):
            self.close(stream_id)

    async def logs(self, request: streams_pb2.LogsRequest, context: Any) -> None:
        """Serve a client's Logs call. Raises ApiError."""
        stream_id, bridge = await self.open(request.namespace, request.pod, Frame(logs=_placed(request)))
        try:
            while (frame := await bridge.next_for_client()) is not None:
                match frame.WhichOneof("frame"):
                    case "stdout":
                        await context.write(streams_pb2.LogsResponse(data=frame.stdout))
                    case "exit":
                        return
                    case "refused":
                        raise _refusal(frame.refused)
            raise unavailable("the node's stream broke")
        finally:
            self.close(stream_id)

    async def exec(self, first: Frame, context: Any) -> None:
        """Serve a client's Exec call from its first frame on. Raises ApiError."""
        start = first.exec
        if not start.command:
            raise bad_request("you must specify at least one command for the container")
        start.namespace = start.namespace or "default"
        stream_id, bridge = await self.open(start.namespace, start.pod, first)
        feeding = asyncio.create_task(_feed(bridge, context))
        try:
            while (frame := await bridge.next_for_client()) is not None:
                if frame.WhichOneof("frame") == "refused":
                    raise _refusal(frame.refused)
                await context.write(frame)
                if frame.WhichOneof("frame") == "exit":
                    return
            raise unavailable("the node's stream broke")
        finally:
            self.close(stream_id)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    # --- the agent's side ---

    async def serve_agent(self, node: str, context: Any) -> None:
        """Serve an agent's Stream call. Raises ApiError."""
        first = await context.read()
        if first is grpc.aio.EOF or first.WhichOneof("frame") != "opened":
            raise bad_request("the first frame of Stream holds `opened`")
        bridge = self._bridges.get(first.opened.stream_id)
        if bridge is None or bridge.node != node or bridge.opened.is_set():
            raise ApiError("NotFound", "nobody waits for this stream any more")
        bridge.opened.set()
        pen = Pen(context)
        tasks = [
            asyncio.create_task(_down(bridge, pen)),
            asyncio.create_task(_up(bridge, context)),
            asyncio.create_task(bridge.closed.wait()),
        ]
        try:
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            bridge.closed.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pen.settled()


async def _up(bridge: Bridge, context: Any) -> None:
    """From the agent to the client, until the agent ends its half."""
    while (frame := await context.read()) is not grpc.aio.EOF:
        await bridge.to_client.put(frame)
    await bridge.to_client.put(None)


async def _down(bridge: Bridge, pen: Pen) -> None:
    """From the client to the agent."""
    while True:
        await pen.write(await bridge.to_agent.get())


async def _feed(bridge: Bridge, context: Any) -> None:
    """What the client sends: input, sizes; the end of its half closes the standard input, not the stream."""
    while (frame := await context.read()) is not grpc.aio.EOF:
        if frame.WhichOneof("frame") in ("stdin", "close_stdin", "resize"):
            await bridge.to_agent.put(frame)
    await bridge.to_agent.put(Frame(close_stdin=True))


def _placed(request: streams_pb2.LogsRequest) -> streams_pb2.LogsRequest:
    placed = streams_pb2.LogsRequest()
    placed.CopyFrom(request)
    placed.namespace = request.namespace or "default"
    return placed


def _refusal(refused: Any) -> ApiError:
    return ApiError(refused.reason or "InternalError", refused.message, code=refused.code)
