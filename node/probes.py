"""Probes and hooks: ask a container whether it is well, as the kubelet does.

`check` performs one probe and answers whether it succeeded and in which words it failed. `Threshold` is the pure
counting of successes and failures. Who acts on the outcome is the container's life cycle.
Source: k8s.io/kubernetes/pkg/kubelet/prober and pkg/probe.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.runtime.interface import Runtime, RuntimeFailure
from steersman.types.core import Container, ExecAction, GRPCAction, HTTPGetAction, IntOrString, Probe, TCPSocketAction

MAX_BODY = 10 << 10  # bytes of an answer or output that a probe reads
MAX_MESSAGE = 1 << 10
USER_AGENT = "kube-probe/1.37"  # what servers exempt from authentication and logging


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one probe went; `message` says why it failed."""

    ok: bool
    message: str = ""


class Action(Protocol):
    """What probes and hooks have in common: one of the fields is set."""

    @property
    def exec(self) -> ExecAction | None: ...
    @property
    def http_get(self) -> HTTPGetAction | None: ...
    @property
    def tcp_socket(self) -> TCPSocketAction | None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a probe goes."""

    runtime: Runtime
    container: Container
    container_id: str
    address: str  # the pod's


class Threshold:
    """Counts outcomes: a verdict changes after `success_threshold` or `failure_threshold` equal ones in a row."""

    def __init__(self, probe: Probe) -> None:
        self._needed = {True: max(1, probe.success_threshold), False: max(1, probe.failure_threshold)}
        self._last: bool | None = None
        self._run = 0

    def count(self, *, ok: bool) -> bool | None:
        """The verdict that this outcome establishes, or None while too few agree."""
        self._run = self._run + 1 if ok == self._last else 1
        self._last = ok
        return ok if self._run >= self._needed[ok] else None


def port_number(container: Container, port: IntOrString) -> int:
    """A port by number or by the name that the container gives it.

    Raises:
        ValueError: the container names no such port.
    """
    if isinstance(port, int):
        return port
    for named in container.ports:
        if named.name == port:
            return named.container_port
    if port.isdigit():
        return int(port)
    raise ValueError(f"couldn't find port: {port!r} in container {container.name}")


async def check(probe: Probe, target: Target) -> Outcome:
    """Perform one probe within its time-out."""
    try:
        async with asyncio.timeout(max(1, probe.timeout_seconds)):
            if probe.grpc is not None:
                return await _grpc(probe.grpc, target.address)
            return await act(probe, target)
    except TimeoutError:
        if probe.exec is not None:
            return Outcome(
                False, f'command timed out: "{" ".join(probe.exec.command)}" timed out after {probe.timeout_seconds}s'
            )
        return Outcome(False, "context deadline exceeded (probe timed out while awaiting an answer)")


async def act(action: Action, target: Target) -> Outcome:
    """Perform what a probe or a hook asks for, without a time limit of its own."""
    try:
        if action.exec is not None:
            return await _exec(action.exec.command, target)
        if action.http_get is not None:
            return await _http(action.http_get, target)
        if action.tcp_socket is not None:
            port = port_number(target.container, action.tcp_socket.port)
            return await _tcp(action.tcp_socket.host or target.address, port)
    except ValueError as error:
        return Outcome(False, str(error))
    return Outcome(True)


async def _exec(command: Sequence[str], target: Target) -> Outcome:
    output = bytearray()
    try:
        async with await target.runtime.exec(target.container_id, command) as process:
            async for _, data in process.output():
                output += data[: MAX_BODY - len(output)]
            code = await process.wait()
    except RuntimeFailure as error:
        return Outcome(False, error.message)
    return Outcome(code == 0, bytes(output[:MAX_MESSAGE]).decode("utf-8", "replace"))


async def _tcp(host: str, port: int) -> Outcome:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, _dial_error(host, port, error))
    writer.close()
    return Outcome(True)


# Go's words, which people search for.
_ERRORS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ETIMEDOUT: "i/o timeout",
    errno.EHOSTUNREACH: "no route to host",
    errno.ECONNRESET: "connection reset by peer",
}


def _dial_error(host: str, port: int, error: OSError) -> str:
    text = _ERRORS.get(error.errno or 0) or error.strerror or str(error)
    return f"dial tcp {host}:{port}: connect: {text}"


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a probe asks whether the server answers, as the kubelet's does
    return context


async def _http(action: HTTPGetAction, target: Target) -> Outcome:
    host = action.host or target.address
    port = port_number(target.container, action.port)
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    scheme = action.scheme.lower()
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=_unverified() if scheme == "https" else None)
    except OSError as error:
        return Outcome(False, f'Get "{scheme}://{host}:{port}{path}": {_dial_error(host, port, error)}')
    headers = {"host": f"{host}:{port}", "user-agent": USER_AGENT, "accept": "*/*", "connection": "close"}
    headers |= {header.name.lower(): header.value for header in action.http_headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    try:
        writer.write("\r\n".join(lines).encode())
        status = await reader.readline()
        words = status.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            return Outcome(False, f'Get "{scheme}://{host}:{port}{path}": EOF')
        code = int(words[1])
    except (OSError, ValueError) as error:
        return Outcome(False, f'Get "{scheme}://{host}:{port}{path}": {error}')
    finally:
        writer.close()
    return Outcome(200 <= code < 400, f"HTTP probe failed with statuscode: {code}")


async def _grpc(action: GRPCAction, address: str) -> Outcome:
    import grpc.aio  # noqa: PLC0415 - most pods have no such probe
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    async with grpc.aio.insecure_channel(f"{address}:{action.port}") as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=action.service)
            )
        except grpc.aio.AioRpcError as error:
            return Outcome(False, f"rpc error: {error.code().name}: {error.details()}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Outcome(status == "SERVING", f"service unhealthy (responded with {status!r})")
