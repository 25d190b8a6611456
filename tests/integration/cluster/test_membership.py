"""Members are added, promoted, removed and replaced while writes go on, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from steersman.errors import ApiError

WRITERS = 4


def config_map(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"by": name}}


class Load:
    """Writers that never stop; each remembers what was acknowledged, and what may or may not have happened."""

    def __init__(self, world, *names: str) -> None:
        self.world = world
        self.names = names
        self.acknowledged: set[str] = set()
        self.unclear: set[str] = set()
        self._ending = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._write(number)) for number in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        async with self.world.client(*self.names) as client:
            count = 0
            while not self._ending.is_set():
                name = f"w{writer}-{count}"
                count += 1
                try:
                    await client.create(config_map(name), timeout=20)
                    self.acknowledged.add(name)
                except ApiError as error:
                    assert error.reason in ("Timeout", "ServiceUnavailable", "AlreadyExists"), error
                    (self.acknowledged if error.reason == "AlreadyExists" else self.unclear).add(name)

    async def more(self, count: int = 40) -> None:
        """Wait until so many more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        await self.world.until(lambda: len(self.acknowledged) >= goal)

    async def end(self) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)


async def replace(world, old: str, new: str, *ask: str) -> None:
    """Add a new member, wait until it votes, remove an old one and switch it off."""
    async with world.client(*ask) as client:
        await client.add_member(new, world.member(new).raft)
        world.member(new).start("--join", ",".join(world.member(name).grpc for name in ask))

        async def votes() -> bool:
            try:
                return (await client.promote_member(new, timeout=5)) is not None
            except ApiError as error:
                assert error.reason in ("BadRequest", "ServiceUnavailable", "Timeout"), error
                return False

        await world.until(votes)
        await client.remove_member(old)
    await world.until(lambda: f"{old} is not a member of this cluster" in world.member(old).text())
    world.member(old).end()
    shutil.rmtree(world.member(old).data)


async def test_replacing_all_three_members_under_load_loses_nothing(world):
    old, new = ("a1", "a2", "a3"), ("b1", "b2", "b3")
    await world.begin(*old)
    load = Load(world, *old, *new)
    try:
        await load.more()
        for number in range(3):
            present = (*old[number:], *new[:number])
            await replace(world, old[number], new[number], *present)
            await load.more()
    finally:
        await load.end()
    assert await world.led(*new) in new
    for name in new:
        async with world.client(name) as client:
            found = {item["metadata"]["name"] for item in await client.list("configmaps", "default")}
            assert load.acknowledged <= found
            assert found <= load.acknowledged | load.unclear
            members = await client.members()
            assert {member.name for member in members.members} == set(new)
            assert {member.grpc_address for member in members.members} == {world.member(one).grpc for one in new}
            assert (members.voters, members.well) == (3, 3)


async def test_a_change_that_would_cost_the_majority_is_refused_with_numbers(world):
    await world.begin("a1", "a2", "a3")
    leader = await world.led("a1", "a2", "a3")
    lost, other = (name for name in ("a1", "a2", "a3") if name != leader)
    async with world.client(leader) as client:
        await client.add_member("a4", world.member("a4").raft)
        with pytest.raises(ApiError, match="not connected to the leader"):
            await client.promote_member("a4")
        world.member(lost).end(9)

        async def noticed() -> bool:
            return not next(m for m in (await client.members()).members if m.name == lost).reachable

        await world.until(noticed)
        with pytest.raises(ApiError) as refused:
            await client.remove_member(other)
        assert refused.value.reason == "BadRequest"
        assert f"without {other} there would be 2 voters, and a majority of 2 must be well, but only 1" in str(
            refused.value
        )
        assert f"remove {lost} first" in str(refused.value)
        await client.remove_member(lost)
        assert (await client.members()).voters == 2
        await client.create(config_map("after"))


async def test_a_member_joins_when_it_was_added_and_needs_nobody_to_come_back(world):
    await world.begin("a1")
    world.config("a1")
    newcomer = world.member("a2")
    newcomer.start("--join", world.member("a1").grpc)
    await world.until(lambda: f"waiting to join: run `steer cluster add a2 {newcomer.raft}`" in newcomer.text())
    added = world.steer("cluster", "add", "a2", newcomer.raft)
    assert (added.stdout, added.returncode) == ("member/a2 added\n", 0), added.stderr
    assert f"--join {world.member('a1').grpc}" in added.stderr
    promoted = world.steer("cluster", "promote", "a2")
    assert promoted.stdout == "member/a2 votes\n", promoted.stderr
    assert "2 of 2 voters are well, 2 are needed: none may be lost" in promoted.stderr
    assert await world.led("a1", "a2")
    newcomer.end(9)
    newcomer.start("--join", world.member("a1").grpc)  # the log knows its cluster: nobody is asked
    await world.led("a1", "a2")


async def test_a_voter_with_an_empty_folder_is_turned_away(world):
    await world.begin("a1", "a2", "a3")
    leader = await world.led("a1", "a2", "a3")
    lost, other = (name for name in ("a1", "a2", "a3") if name != leader)
    member = world.member(lost)
    member.end(9)
    shutil.rmtree(member.data)
    member.start("--join", f"{world.member(other).grpc},{world.member(leader).grpc}")
    await world.until(lambda: member.ended is not None)
    assert f"{lost} votes in cluster" in member.text()
    assert f"steer cluster remove {lost}" in member.text()
