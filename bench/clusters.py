"""Three members of the control plane and three of etcd, as plain processes on this machine's loopback, under the same loads.

Both get the same time-outs, mutual TLS, fsync, and raw gRPC calls whose requests are bytes made beforehand and whose
answers are not decoded: what is measured is the servers and the wire, as far as they share two cores with the client.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import grpc
import grpc.aio
import msgspec

from bench.harness import CLOCK
from control.ca import files
from control.raft.interface import RaftConfig
from control.store.etcd import rpc_pb2 as epb
from steersman.transport import CHANNEL_OPTIONS, credentials
from steersman.v1 import cluster_pb2
from steersman.v1 import objects_pb2 as pb

VALUE: Final = "x" * 1024
STEER_CONTROL: Final = str(Path(sys.executable).with_name("steer-control"))
CONFIG_MAP: Final = pb.Type(kind="ConfigMap", api_version="v1")
NODES: Final = 3
OUR_PORT, ETCD_PORT = 18400, 18500  # the first of each cluster's
START_TIMEOUT_S: Final = 60.0
FAST_RECONNECT: Final = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 100))


class Cluster(ABC):
    """Three processes. Members are numbered 0 to 2."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = directory / "pki"
        self.ca = directory / "ca"
        files.create_ca(self.ca, CLOCK)
        files.create_member(self.pki, self.ca, "bench", ["127.0.0.1"], CLOCK)
        files.create_user(self.pki, self.ca, "admin", ["system:masters"], CLOCK)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def argv(self, member: int) -> list[str]:
        """What starts a member."""

    @abstractmethod
    def address(self, member: int) -> str:
        """Where it answers clients."""

    @abstractmethod
    def put(self, name: str) -> bytes:
        """The request that writes an object of 1 KB."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """The request that reads it, linearizably."""

    @abstractmethod
    def list(self, limit: int) -> bytes:
        """The request that lists the objects, in one answer."""

    @abstractmethod
    async def leader(self) -> int:
        """Who leads."""

    @abstractmethod
    def watch(self, channel: grpc.aio.Channel) -> AsyncIterator[None]:
        """A watch of all objects; its first item says that it stands, every other that something was written."""

    methods: ClassVar[dict[str, str]]

    def start(self, member: int) -> None:
        """Start a member's process."""
        with (self.directory / f"log-{member}").open("ab") as log:
            self.processes[member] = subprocess.Popen(self.argv(member), stdout=log, stderr=log)

    def kill(self, member: int) -> None:
        """kill -9."""
        process = self.processes.pop(member)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Kill them all."""
        for member in list(self.processes):
            self.kill(member)

    def channel(self, member: int) -> grpc.aio.Channel:
        """A connection to a member, as the administrator."""
        made = credentials(self.pki / "ca.crt", self.pki / "admin.crt", self.pki / "admin.key")
        return grpc.aio.secure_channel(self.address(member), made, options=FAST_RECONNECT)

    def method(self, channel: grpc.aio.Channel, what: str) -> Any:
        """A unary method: bytes in, bytes out."""
        return channel.unary_unary(self.methods[what])

    async def serving(self, member: int) -> None:
        """Wait until a member answers a linearizable read."""
        deadline = CLOCK.monotonic() + START_TIMEOUT_S
        async with self.channel(member) as channel:
            while True:
                try:
                    await self.method(channel, "list")(self.list(1), timeout=1.0)
                except grpc.aio.AioRpcError as error:
                    if CLOCK.monotonic() > deadline:
                        raise RuntimeError(f"{self.name} does not serve: {error.details()}") from None
                    await asyncio.sleep(0.01)
                else:
                    return

    async def writable(self) -> None:
        """Wait until a new cluster takes objects: the first leader makes the namespaces first."""
        deadline = CLOCK.monotonic() + START_TIMEOUT_S
        async with self.channel(0) as channel:
            while True:
                try:
                    await self.method(channel, "put")(self.put(fresh("first")), timeout=1.0)
                except grpc.aio.AioRpcError as error:
                    if CLOCK.monotonic() > deadline:
                        raise RuntimeError(f"{self.name} takes no writes: {error.details()}") from None
                    await asyncio.sleep(0.05)
                else:
                    return

    def memory_mb(self, member: int) -> float:
        """A member's resident memory."""
        pages = int(Path(f"/proc/{self.processes[member].pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Ours(Cluster):
    """`steer-control`, three times."""

    name = "steersman"
    methods: ClassVar[dict[str, str]] = {
        "put": "/steersman.v1.Objects/Create",
        "get": "/steersman.v1.Objects/Get",
        "list": "/steersman.v1.Objects/List",
        "batch": "/steersman.v1.Objects/Batch",
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for member in range(NODES):
            files.create_member(self._member_pki(member), self.ca, f"control-{member}", ["127.0.0.1"], CLOCK)

    def _member_pki(self, member: int) -> Path:
        return self.directory / f"pki-{member}"

    def address(self, member: int) -> str:
        return f"127.0.0.1:{OUR_PORT + 10 * member}"

    def _raft(self, member: int) -> str:
        return f"127.0.0.1:{OUR_PORT + 10 * member + 1}"

    def argv(self, member: int) -> list[str]:
        initial = ",".join(f"control-{i}={self._raft(i)}" for i in range(NODES))
        return [
            *(
                STEER_CONTROL,
                "run",
                "--name",
                f"control-{member}",
                "--data-dir",
                str(self.directory / f"data-{member}"),
            ),
            *("--pki-dir", str(self._member_pki(member)), "--initial-cluster", initial),
            *("--raft-listen", self._raft(member), "--grpc-listen", self.address(member)),
            *("--bootstrap-listen", f"127.0.0.1:{OUR_PORT + 10 * member + 2}", "--log-level", "WARNING"),
            *("--rest-listen", f"127.0.0.1:{OUR_PORT + 10 * member + 3}", "--advertise-grpc", self.address(member)),
        ]

    @staticmethod
    def create(name: str) -> pb.CreateRequest:
        """The request that creates an object of 1 KB."""
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"},
            "data": {"value": VALUE},
        }
        return pb.CreateRequest(object=pb.Object(json=msgspec.json.encode(document)))

    def put(self, name: str) -> bytes:
        return self.create(name).SerializeToString()

    def batch(self, names: list[str]) -> bytes:
        """Many puts in one call."""
        return pb.BatchRequest(
            writes=[pb.BatchRequest.Write(create=self.create(name)) for name in names]
        ).SerializeToString()

    def get(self, name: str) -> bytes:
        return pb.GetRequest(type=CONFIG_MAP, namespace="default", name=name).SerializeToString()

    def list(self, limit: int) -> bytes:
        return pb.ListRequest(type=CONFIG_MAP, namespace="default", limit=limit).SerializeToString()

    async def leader(self) -> int:
        for member in self.processes:
            async with self.channel(member) as channel:
                answer = await channel.unary_unary("/steersman.v1.Cluster/Status")(b"", timeout=2.0)
            found = cluster_pb2.ClusterStatus.FromString(answer).leader.removeprefix("control-")
            if found.isdecimal() and int(found) in self.processes:
                return int(found)
        raise RuntimeError("steersman has no leader")

    async def watch(self, channel: grpc.aio.Channel) -> AsyncIterator[None]:
        revision = pb.ListResponse.FromString(await self.method(channel, "list")(self.list(1))).revision
        request = pb.WatchRequest(type=CONFIG_MAP, namespace="default", revision=revision).SerializeToString()
        call = channel.unary_stream("/steersman.v1.Objects/Watch")(request)
        yield  # from here on nothing is missed: events follow the revision asked for
        async for _ in call:
            yield


class Etcd(Cluster):
    """Debian's etcd, three times."""

    name = "etcd"
    methods: ClassVar[dict[str, str]] = {
        "put": "/etcdserverpb.KV/Put",
        "get": "/etcdserverpb.KV/Range",
        "list": "/etcdserverpb.KV/Range",
    }
    prefix = b"/core/configmaps/default/"

    def address(self, member: int) -> str:
        return f"127.0.0.1:{ETCD_PORT + 10 * member}"

    def _peer(self, member: int) -> str:
        return f"https://127.0.0.1:{ETCD_PORT + 10 * member + 1}"

    def argv(self, member: int) -> list[str]:
        tls = [
            f"--{prefix}{name}={self.pki / file}"
            for prefix in ("", "peer-")
            for name, file in (("cert-file", "member.crt"), ("key-file", "member.key"), ("trusted-ca-file", "ca.crt"))
        ]
        client = f"https://{self.address(member)}"
        ours = {
            field.name: cast(float, field.default) for field in dataclasses.fields(RaftConfig)
        }  # the same time-outs
        heartbeat = int(ours["tick_s"] * ours["heartbeat_ticks"] * 1000)
        election = int(ours["tick_s"] * ours["election_ticks"] * 1000)
        return [
            *("/usr/bin/etcd", "--name", f"m{member}", "--data-dir", str(self.directory / f"data-{member}")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self._peer(member), "--initial-advertise-peer-urls", self._peer(member)),
            *("--initial-cluster", ",".join(f"m{i}={self._peer(i)}" for i in range(NODES))),
            *("--heartbeat-interval", str(heartbeat), "--election-timeout", str(election)),
            *(*tls, "--client-cert-auth", "--peer-client-cert-auth", "--log-level", "error"),
        ]

    def put(self, name: str) -> bytes:
        return epb.PutRequest(key=self.prefix + name.encode(), value=VALUE.encode()).SerializeToString()

    def get(self, name: str) -> bytes:
        return epb.RangeRequest(key=self.prefix + name.encode()).SerializeToString()

    def list(self, limit: int) -> bytes:
        return epb.RangeRequest(key=self.prefix, range_end=self.prefix[:-1] + b"0", limit=limit).SerializeToString()

    async def leader(self) -> int:
        for member in self.processes:
            async with self.channel(member) as channel:
                answer = await channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=2.0)
            status = epb.StatusResponse.FromString(answer)
            if status.leader == status.header.member_id:
                return member
        raise RuntimeError("etcd has no leader")

    async def watch(self, channel: grpc.aio.Channel) -> AsyncIterator[None]:
        wanted = epb.WatchCreateRequest(key=self.prefix, range_end=self.prefix[:-1] + b"0")
        call = channel.stream_stream("/etcdserverpb.Watch/Watch")()
        await call.write(epb.WatchRequest(create_request=wanted).SerializeToString())
        while (await call.read()) is not grpc.aio.EOF:
            yield


_numbers = itertools.count()


def fresh(label: str) -> str:
    """A name not used before."""
    return f"{label}-{next(_numbers)}"
