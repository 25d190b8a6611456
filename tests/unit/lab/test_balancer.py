"""The balancer's relay, between sockets of this process."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from lab.balancer import Front

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def member(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


@asynccontextmanager
async def balanced(*members: tuple[str, int]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(functools.partial(Front, members, itertools.count()), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(word: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        writer.write(await reader.read())
        writer.close()

    return serve


async def ask(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def nowhere() -> tuple[str, int]:
    async with member(saying(b"")) as address:
        return address


async def test_connections_go_to_the_members_in_turn_and_pass_over_one_that_is_gone() -> None:
    async with member(saying(b"a:")) as a, member(saying(b"b:")) as b, balanced(a, await nowhere(), b) as port:
        answers = [await ask(port, b"x") for _ in range(6)]
    assert answers == [b"a:x", b"b:x", b"b:x", b"a:x", b"b:x", b"b:x"]


async def test_a_client_is_turned_away_when_no_member_can_be_reached() -> None:
    async with balanced(await nowhere()) as port:
        with suppress(ConnectionResetError):
            assert await ask(port, b"x") == b""


async def test_megabytes_pass_both_ways_past_a_slow_reader_and_a_half_closed_connection() -> None:
    text = os.urandom(1 << 20) * 4
    async with member(saying(b"")) as echo, balanced(echo) as port:
        assert await ask(port, text) == text


async def test_no_socket_is_left_when_both_sides_have_ended() -> None:
    async with member(saying(b"")) as echo, balanced(echo) as port:
        await ask(port, b"warm")
        before = await steady_descriptors()
        for _ in range(20):
            await ask(port, b"x")
        assert await steady_descriptors() <= before


async def steady_descriptors() -> int:
    """How many descriptors this process has once their number no longer falls."""
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        await asyncio.sleep(0)
        count = min(count, len(list(Path("/proc/self/fd").iterdir())))
    return count
