"""Group commit: concurrent transactions share entries of the log.

What is submitted in one turn of the event loop goes into one proposal. While one is under way later ones gather, and leave
when it lands, or before if they are enough to make a full group (then up to `MAX_IN_FLIGHT` fly). So one client's write
leaves at once, and a thousand clients' writes cost a few proposals: the more load, the larger the groups. Order is
kept: proposals carry transactions in the order they were submitted.

Failure. A proposal that fails, fails every call in it with the same error. A call whose caller went away is proposed all
the same when it was submitted: its outcome was uncertain to the caller anyway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from control.store.commands import weight
from control.store.interface import StoreError, Txn, TxnResult

GROUP_BYTES = 1 << 20  # per proposal: one fsync of this size takes a few ms; larger ones delay everyone behind
# What is worth a proposal while another flies. A proposal costs the members about 1.5 ms of processor time together, most of it
# for messages: with 64 clients, waiting for company saved a third of the time per write, and small groups no latency.
FULL_GROUP_BYTES = 64 << 10
MAX_IN_FLIGHT = 4  # proposals under way: the log replicates and syncs them in a pipeline, more only shrink the groups

Propose = Callable[[tuple[Txn, ...]], Awaitable[list[TxnResult]]]


class _Part:
    """Transactions of one call that stay together."""

    __slots__ = ("future", "size", "txns")

    def __init__(self, txns: Sequence[Txn], size: int, future: asyncio.Future[list[TxnResult]]) -> None:
        self.txns = txns
        self.size = size
        self.future = future


class Grouping:
    """Gathers transactions and gives them to `propose` in groups."""

    def __init__(self, propose: Propose) -> None:
        self._propose = propose
        self._waiting: deque[_Part] = deque()
        self._waiting_bytes = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._closed: StoreError | None = None

    async def submit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """Have the transactions proposed, in one entry when they fit; answer their results in order."""
        if self._closed is not None:
            raise self._closed
        loop = asyncio.get_running_loop()
        parts: list[_Part] = []
        first = size = 0
        for at, txn in enumerate(txns):
            more = weight(txn)
            if at > first and size + more > GROUP_BYTES:
                parts.append(_Part(txns[first:at], size, loop.create_future()))
                first, size = at, 0
            size += more
        parts.append(_Part(txns[first:], size, loop.create_future()))
        self._waiting.extend(parts)
        self._waiting_bytes += sum(part.size for part in parts)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._launch)
        if len(parts) == 1:
            return await parts[0].future
        return [result for part in await asyncio.gather(*(part.future for part in parts)) for result in part]

    def close(self, error: StoreError) -> None:
        """Refuse what waits and what comes; what is under way ends by itself."""
        self._closed = error
        while self._waiting:
            part = self._waiting.popleft()
            if not part.future.done():
                part.future.set_exception(error)

    def _launch(self) -> None:
        self._scheduled = False
        while self._waiting and self._may_fly():
            group = [self._waiting.popleft()]
            size = group[0].size
            while self._waiting and size + self._waiting[0].size <= GROUP_BYTES:
                size += self._waiting[0].size
                group.append(self._waiting.popleft())
            self._waiting_bytes -= size
            flight = asyncio.get_running_loop().create_task(self._fly(group))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _may_fly(self) -> bool:
        flying = len(self._flights)
        return not flying or (flying < MAX_IN_FLIGHT and self._waiting_bytes >= FULL_GROUP_BYTES)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._launch()

    async def _fly(self, group: list[_Part]) -> None:
        try:
            results = await self._propose(tuple(txn for part in group for txn in part.txns))
        except BaseException as error:
            for part in group:
                if not part.future.done():
                    part.future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        at = 0
        for part in group:
            if not part.future.done():
                part.future.set_result(results[at : at + len(part.txns)])
            at += len(part.txns)
