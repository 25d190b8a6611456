"""Readers share barriers, but never one that began before they came."""

from __future__ import annotations

import asyncio

from control.api.barrier import Barrier


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Rounds:
    """Barriers that end when told to; their results count them."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[int]] = []

    async def __call__(self) -> int:
        self.begun.append(asyncio.get_running_loop().create_future())
        return await self.begun[-1]

    async def end(self, number: int) -> None:
        self.begun[number].set_result(number)
        await settle()


async def test_those_who_come_meanwhile_share_the_next() -> None:
    rounds = Rounds()
    barrier = Barrier(rounds)
    first = asyncio.ensure_future(barrier.wait())
    await settle()
    later = [asyncio.ensure_future(barrier.wait()) for _ in range(3)]
    await settle()
    await rounds.end(0)
    assert first.result() == 0
    assert not any(one.done() for one in later)
    await rounds.end(1)
    assert [one.result() for one in later] == [1, 1, 1]


async def test_a_shared_barrier_that_ended_long_ago_is_never_joined() -> None:
    """Found by the simulation (seed 387 of the store's worlds): a read that showed what had been deleted."""
    rounds = Rounds()
    barrier = Barrier(rounds)
    busy = [asyncio.ensure_future(barrier.wait())]
    await settle()
    busy.append(asyncio.ensure_future(barrier.wait()))  # shares the second
    await settle()
    await rounds.end(0)
    await rounds.end(1)
    third = asyncio.ensure_future(barrier.wait())
    await settle()
    fourth = asyncio.ensure_future(barrier.wait())  # while the third is under way
    await settle()
    assert not fourth.done()
    await rounds.end(2)
    assert third.result() == 2
    await rounds.end(3)
    assert fourth.result() == 3
