"""The lab's load balancer: connections to 127.0.0.1 are relayed to the members, from inside the lab.

It first listens in the machine's own network namespace, then enters the switch's: listening sockets stay where they
were made, new ones are made where the process is. So clients outside reach the API though no route leads to the lab.
A new connection goes to the members in turn; one that cannot be reached is passed over. A dead member's connections
are closed within seconds (TCP_USER_TIMEOUT), so that clients turn to another.

    python -m lab.balancer NAMESPACE PORT=HOST:PORT,HOST:PORT …
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import itertools
import os
import socket
import sys
from collections.abc import Iterator, Sequence

CONNECT_TIMEOUT_S = 1.0  # a member on the same segment answers in a millisecond or is not there
DEAD_AFTER_MS = 1_000  # unacknowledged for so long closes a connection: kernels on one segment answer at once
CLONE_NEWNET = 0x40000000


class Relay(asyncio.Protocol):
    """One end of a relayed connection: what arrives here is written to the other end, with back-pressure.

    What arrives before the other end is there waits, one read of it at most. A half-closed connection goes on in its other direction; when
    both ends have said that they are done, both are closed.
    """

    def __init__(self) -> None:
        self.peer: Relay | None = None
        self.transport: asyncio.Transport | None = None
        self.done = False  # its sender has ended
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_MS)

    def join(self, peer: Relay) -> None:
        """Pair two ends, pass on what came before, and let both read."""
        self.peer, peer.peer = peer, self
        for end, other in ((self, peer), (peer, self)):
            if end.early and other.transport is not None:
                other.transport.write(end.early)
                end.early = b""
            if end.done and other.transport is not None:
                other.transport.write_eof()
            if end.transport is not None:
                end.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            assert self.transport is not None
            self.early = data
            self.transport.pause_reading()
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.done = True
        peer = self.peer
        if peer is None:
            return True  # `join` passes it on
        if peer.transport is None or peer.done:
            return False  # closes this end once its output is written, and `connection_lost` the other
        peer.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close() if error is None else self.peer.transport.abort()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()


class Front(Relay):
    """A client's connection: picks a member."""

    def __init__(self, members: Sequence[tuple[str, int]], turn: Iterator[int]) -> None:
        super().__init__()
        self._members = members
        self._turn = turn
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.ensure_future(self._connect())

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(error)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        first = next(self._turn)
        for i in range(len(self._members)):
            host, port = self._members[(first + i) % len(self._members)]
            back = Relay()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.create_connection(lambda back=back: back, host, port)  # type: ignore[misc]
            except (OSError, TimeoutError):
                continue
            finally:
                if self.transport is None and back.transport is not None:  # the client went while we dialled
                    back.transport.abort()
            self.join(back)
            return
        if self.transport is not None:
            self.transport.abort()


def enter_network(namespace: str) -> None:
    """Move this thread into a named network namespace. Raises OSError."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
    finally:
        os.close(descriptor)


async def serve(namespace: str, routes: dict[int, list[tuple[str, int]]]) -> None:
    """Relay 127.0.0.1:port to the members of each route, until cancelled."""
    sockets = {}
    for port in routes:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(512)
        sockets[port] = sock
    enter_network(namespace)
    loop = asyncio.get_running_loop()
    for port, members in routes.items():
        await loop.create_server(functools.partial(Front, members, itertools.count()), sock=sockets[port])
    await asyncio.Event().wait()


def main() -> None:
    namespace, *arguments = sys.argv[1:]
    routes = {}
    for argument in arguments:
        port, _, members = argument.partition("=")
        routes[int(port)] = [(host, int(number)) for host, _, number in (m.partition(":") for m in members.split(","))]
    asyncio.run(serve(namespace, routes))


if __name__ == "__main__":
    main()
