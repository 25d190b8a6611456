"""The sessions of the nodes with the leader.

A session is the agent's: it says who it is (Hello), the gateway makes sure that the Node object exists and tells the
cluster's ranges (Welcome), then changes go down, statuses and heartbeats come up. One task writes to the stream,
heartbeats' acknowledgements before everything else, and asks the feed for changes only when it can send, so a slow
agent is sent the newest state and never a backlog. The newest session of a node ends the one before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import grpc.aio
import msgspec

from control.admission.nodes import RESTRICTED
from control.gateway.documents import NodeDocument
from control.gateway.feed import Feed, Feeds
from control.gateway.heartbeats import Heartbeats
from control.gateway.reports import StatusWriter, node_status_request
from control.gateway.settings import GatewaySettings
from control.rpc import Pen
from steersman.client import AsyncClient
from steersman.errors import ApiError, bad_request, forbidden
from steersman.types import Node
from steersman.v1 import node_pb2

log = logging.getLogger(__name__)

COALESCE_S = 0.002  # between a change and its sending: what one controller round changes travels together
HELLO_TIMEOUT_S = 5.0
ENSURE_ATTEMPTS = 5  # at bringing the Node object in line while others change it


class _HelloMetadata(msgspec.Struct):
    labels: dict[str, str] = {}


class _HelloNode(msgspec.Struct):
    """What counts of the Node document in a Hello."""

    metadata: _HelloMetadata
    status: dict[str, Any] = {}


_hello = msgspec.json.Decoder(_HelloNode)


class Session:
    """One node's session. `messages` writes what `send` and the feed give; `end` ends it from the gateway's side."""

    def __init__(self, node: str, feed: Feed) -> None:
        self.node = node
        self.feed = feed
        self.problem: ApiError | None = None  # why the gateway ended it
        self._urgent: deque[node_pb2.GatewayMessage] = deque()
        self._ended = asyncio.Event()

    def send(self, message: node_pb2.GatewayMessage) -> None:
        self._urgent.append(message)
        self.feed.pending.set()

    def end(self, problem: ApiError) -> None:
        self.problem = self.problem or problem
        self._ended.set()

    async def ended(self) -> None:
        await self._ended.wait()

    async def write(self, pen: Pen) -> None:
        """Send until cancelled."""
        while True:
            await self.feed.pending.wait()
            if not self._urgent:
                await asyncio.sleep(COALESCE_S)
            while self._urgent:
                await pen.write(self._urgent.popleft())
            changes = self.feed.take()
            if changes is not None:
                await pen.write(node_pb2.GatewayMessage(changes=changes))
            if self._urgent:
                self.feed.pending.set()


class Sessions:
    """All sessions of one term of leadership."""

    def __init__(
        self, client: AsyncClient, feeds: Feeds, writer: StatusWriter, heartbeats: Heartbeats, settings: GatewaySettings
    ) -> None:
        self._client = client
        self._feeds = feeds
        self._writer = writer
        self._heartbeats = heartbeats
        self._settings = settings
        self._sessions: dict[str, Session] = {}

    @property
    def nodes(self) -> list[str]:
        """The nodes that have a session."""
        return list(self._sessions)

    def get(self, node: str) -> Session | None:
        return self._sessions.get(node)

    def end_all(self, problem: ApiError) -> None:
        """The member leads no more."""
        for session in self._sessions.values():
            session.end(problem)

    async def serve(self, node: str, context: Any) -> None:
        """One session from Hello to its end. Raises ApiError when the gateway refuses or ends it."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await context.read()
        except TimeoutError:
            raise bad_request(f"the agent said no Hello within {HELLO_TIMEOUT_S:g} s") from None
        if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
            raise bad_request("a session begins with Hello")
        hello = first.hello
        if hello.node_name != node:
            raise forbidden("nodes", hello.node_name, f'the certificate is of node "{node}"')
        self._heartbeats.beat(node)
        pod_cidr = await self._ensure_node(node, hello.node_json)
        before = self._sessions.get(node)
        if before is not None:
            before.end(ApiError("Conflict", f'node "{node}" began another session'))
        session = self._sessions[node] = Session(node, self._feeds.open(node))
        log.info("node %s begins a session (agent %s)", node, hello.agent_version)
        pen = Pen(context)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await pen.write(node_pb2.GatewayMessage(welcome=self._welcome(pod_cidr)))
            session.feed.pending.set()
            tasks = [
                asyncio.create_task(session.write(pen)),
                asyncio.create_task(self._read(session, context)),
                asyncio.create_task(session.ended()),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if session.problem is not None:
                raise session.problem
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._feeds.close(session.feed)
            if self._sessions.get(node) is session:
                del self._sessions[node]
            log.info("the session of node %s ended", node)
            await pen.settled()

    def _welcome(self, pod_cidr: str) -> node_pb2.Welcome:
        settings = self._settings
        return node_pb2.Welcome(
            lease_seconds=settings.lease_s,
            heartbeat_seconds=settings.heartbeat_s,
            pod_cidr=pod_cidr,
            cluster_cidr=settings.cluster_cidr,
            service_cidr=settings.service_cidr,
            dns_ip=settings.dns_ip,
            cluster_domain=settings.cluster_domain,
        )

    async def _read(self, session: Session, context: Any) -> None:
        """Take in what the agent sends until it ends the session."""

        def acknowledge(ack: node_pb2.StatusAck) -> None:
            session.send(node_pb2.GatewayMessage(status_ack=ack))

        while (message := await context.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "heartbeat":
                    silence = self._heartbeats.beat(session.node)
                    if silence > self._settings.lease_s:
                        # It may count as lost by now: a new Hello says what it is, its Ready condition too.
                        why = f'node "{session.node}" was silent for {silence:.1f} s, longer than its lease'
                        session.end(ApiError("ServiceUnavailable", why, retry_after=1))
                        return
                    ack = node_pb2.HeartbeatAck(sequence=message.heartbeat.sequence)
                    session.send(node_pb2.GatewayMessage(heartbeat_ack=ack))
                case "status":
                    self._writer.submit(session.node, message.status, acknowledge)

    async def _ensure_node(self, name: str, node_json: bytes) -> str:
        """Make the Node object what the agent says of itself; answers the node's pod range.

        The agent's labels are added to what is there; labels and taints of others stay.
        """
        try:
            told = _hello.decode(node_json)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise bad_request(f"the Hello's Node document does not parse: {error}") from None
        labels, status_json = told.metadata.labels, msgspec.json.encode(told.status)
        restricted = sorted(key for key in labels if key.startswith(RESTRICTED))
        if restricted:
            why = (
                f"its agent may not set labels that begin with {RESTRICTED}, as {restricted[0]}: an administrator does"
            )
            raise forbidden("nodes", name, why)
        for _ in range(ENSURE_ATTEMPTS):
            held = await self._node(name)
            try:
                if held is None:
                    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
                    await self._client.create(body)
                    log.info("node %s is registered", name)
                    continue
                if any(held.metadata.labels.get(key) != value for key, value in labels.items()):
                    await self._client.patch(Node, name, {"metadata": {"uid": held.uid, "labels": labels}})
                    continue
                request = node_status_request(name, held, status_json)
                if request is not None:
                    (result,) = await self._client.batch([request])
                    if result.error is not None:
                        raise result.error
            except ApiError as error:
                if error.reason not in ("AlreadyExists", "Conflict", "NotFound"):
                    raise
            else:
                return held.pod_cidr
        raise ApiError("ServiceUnavailable", f'node "{name}" is being changed by others: try again', retry_after=1)

    async def _node(self, name: str) -> NodeDocument | None:
        try:
            return await self._client.get(NodeDocument, name)
        except ApiError as error:
            if error.reason == "NotFound":
                return None
            raise
