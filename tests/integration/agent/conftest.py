"""A control plane of one member with a store in memory and real gRPC, and agents whose runtime and network are fakes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control.api.authorization import Access, GroupAuthorizer, require
from control.api.context import ApiContext
from control.api.grpc_server import GrpcServer
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.ca.files import PkiFolder, create_ca, create_member, create_user
from control.ca.tokens import JoinTokens
from control.gateway.gateway import Gateway
from control.gateway.heartbeats import Heartbeats
from control.gateway.settings import GatewaySettings
from control.identity import Caller, member
from control.store.local import LocalStore
from node.agent import Agent, AgentConfig
from node.credentials import IdentityFile
from node.main import Enrolment
from node.runtime.fake import FakeRuntime
from node.runtime.interface import Container
from steersman.client import AsyncClient
from steersman.clock import SystemClock, SystemEntropy
from steersman.errors import ApiError
from steersman.transport import GrpcTransport, credentials
from steersman.types import Pod


async def eventually(condition: Callable[[], Any], what: str = "the condition", seconds: float = 10.0) -> Any:
    """Wait for a condition, synchronous or not; ApiError counts as not yet."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
        except ApiError as error:
            found = error
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come true: {found}"
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port with a free one two above it, as node bootstrap needs."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 2))
            except OSError:
                continue
            return int(port)


class FakePodNetwork:
    def __init__(self) -> None:
        self.cidr = ""
        self.attached: dict[str, str] = {}
        self.view: Any = None

    async def start(self, pod_cidr: str) -> None:
        self.cidr = pod_cidr

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None:
        self.attached[pod_uid] = ip

    async def detach(self, pod_uid: str) -> None:
        self.attached.pop(pod_uid, None)

    async def retain(self, pod_uids: list[str]) -> tuple[str, ...]:
        gone = [uid for uid in self.attached if uid not in pod_uids]
        for uid in gone:
            del self.attached[uid]
        return tuple(gone)

    async def sync(self, view: Any) -> None:
        self.view = view

    async def stop(self) -> None:
        return


class Plane:
    """One member."""

    def __init__(self, root: Path) -> None:
        self.clock, self.entropy = SystemClock(), SystemEntropy()
        self.pki = PkiFolder(root / "pki")
        self.authority = create_ca(root / "ca", self.clock)
        create_member(root / "pki", root / "ca", "control-1", ["127.0.0.1"], self.clock)
        create_user(root / "users", root / "ca", "admin", ["system:masters"], self.clock)
        self.users = root / "users"
        self.store = LocalStore(self.clock)
        context = ApiContext(self.store, Leadership("control-1", alone=True), self.clock, self.entropy)
        self.handlers = Handlers(context)
        self.client = AsyncClient(LocalTransport(self.handlers, member("control-1")), actor="test")
        self.tokens = JoinTokens(self.store, self.clock, self.entropy)
        self.heartbeats = Heartbeats(self.clock)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.leader = ""
        self.leading: asyncio.Task[None] | None = None

    def leader_address(self) -> str:
        return self.leader

    def member_addresses(self) -> list[str]:
        return [self.address]

    def leader_channel(self) -> None:
        return None

    def authorize(self, caller: Caller, verb: str, resource: str, namespace: str, name: str, subresource: str) -> None:
        require(GroupAuthorizer(), caller, Access(verb, "", resource, namespace, name, subresource))

    async def start(self) -> None:
        await self.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        self.gateway = Gateway(
            self.client,
            self.heartbeats,
            self.authority,
            self.tokens,
            self,
            self.authorize,
            self.clock,
            self.entropy,
            GatewaySettings(lease_s=2.0, heartbeat_s=0.1),
        )
        self.server = GrpcServer(self.address, self.pki, [self.gateway.add_to])
        self.bootstrap = GrpcServer(
            f"127.0.0.1:{self.port + 2}", self.pki, [self.gateway.add_bootstrap_to], client_certificates=False
        )
        await self.server.start()
        await self.bootstrap.start()
        self.lead()
        self.token = (await self.tokens.create()).token

    def lead(self) -> None:
        self.leading = asyncio.ensure_future(self.gateway.lead())

    async def resign(self) -> None:
        assert self.leading is not None
        self.leading.cancel()
        await asyncio.gather(self.leading, return_exceptions=True)

    async def stop(self) -> None:
        await self.resign()
        await self.server.stop(0.1)
        await self.bootstrap.stop(0.1)

    def user(self, name: str = "admin") -> AsyncClient:
        """A client over the wire."""
        files = self.users
        return AsyncClient(
            GrpcTransport(
                [self.address], credentials(self.pki.ca_certificate, files / f"{name}.crt", files / f"{name}.key")
            )
        )

    async def run_pod(self, name: str, node: str = "node-1", **spec: Any) -> Pod:
        """Create a pod that is bound to a node."""
        containers = spec.pop("containers", [{"name": "main", "image": "busybox"}])
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": containers, **spec},
        }
        return Pod.from_dict(await self.client.create(body))

    async def pod(self, name: str) -> Pod:
        return await self.client.get(Pod, name, "default")

    async def ready(self, name: str) -> Pod | None:
        pod = await self.pod(name)
        return pod if pod.ready else None


class Host:
    """One node: what outlives its agent, and the agent."""

    def __init__(self, plane: Plane, root: Path, name: str) -> None:
        self.plane = plane
        self.name = name
        self.data = root / name
        self.data.mkdir()
        self.runtime = FakeRuntime(plane.clock, images=("busybox",))
        self.network = FakePodNetwork()
        self.task: asyncio.Task[None] | None = None

    async def start(self, token: str | None = None, ca_hash: str | None = None) -> None:
        plane = self.plane
        enrolment = Enrolment(IdentityFile(self.data), plane.clock, plane.entropy)
        self.identity = await enrolment.enrol(
            self.name, [plane.address], plane.token if token is None else token, ca_hash or plane.authority.hash
        )
        self.agent = Agent(
            AgentConfig(self.name, "127.0.0.1", self.data),
            self.runtime,
            lambda _facts: self.network,
            [plane.address],
            enrolment.connect,
            plane.clock,
            plane.entropy,
        )
        self.task = asyncio.ensure_future(self.agent.run())

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def running(self) -> list[Container]:
        return [c for c in await self.runtime.containers() if c.running]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = Plane(tmp_path)
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
async def host(plane: Plane, tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(plane, tmp_path, "node-1")
    await host.start()
    yield host
    await host.kill()


@pytest.fixture
def until() -> Any:
    return eventually
