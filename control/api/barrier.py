"""Linearizable reads at the price of one round among the members for many readers.

A reader must not share a barrier that began before it came: a write acknowledged in between might be missed. So those who
come while one is under way wait for the next one, together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Barrier:
    """Coalesces calls of the store's `barrier`."""

    def __init__(self, barrier: Callable[[], Awaitable[int]]) -> None:
        self._barrier = barrier
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        """Wait until this member has applied every write acknowledged before the call; answer its revision.

        Raises NoLeaderError as the store does. A cancelled reader does not disturb the others.
        """
        if self._running is None or self._running.done():
            self._running = _quiet(asyncio.ensure_future(self._barrier()))
            return await asyncio.shield(self._running)
        if self._next is None or self._next is self._running or self._next.done():
            self._next = _quiet(asyncio.ensure_future(self._after(self._running)))
        return await asyncio.shield(self._next)

    async def _after(self, previous: asyncio.Task[int]) -> int:
        await asyncio.wait((previous,))
        self._running = self._next
        return await self._barrier()


def _quiet(task: asyncio.Task[int]) -> asyncio.Task[int]:
    """A barrier may fail after every reader has gone: nobody is left to be told."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
