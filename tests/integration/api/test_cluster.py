"""Three members: any of them answers, one of them decides, and the loss of that one is survived."""

from __future__ import annotations

import asyncio
import signal

from steersman.v1 import cluster_pb2

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}


async def leader_of(three, client):
    status = await client.cluster_status()
    return next(member for member in three.members if member.name == status.leader)


async def test_any_member_takes_writes_and_every_member_shows_them(three):
    for number, member in enumerate(three.members):
        async with three.client("admin", member) as client:
            body = {**CONFIG_MAP, "metadata": {"name": f"by-{number}"}}
            created = await client.create(body)
        for other in three.members:
            async with three.client("admin", other) as client:
                assert await client.get("configmaps", f"by-{number}") == created


async def test_a_forwarded_write_is_its_users_not_the_members(three):
    async with three.client() as client:
        leader = await leader_of(three, client)
    follower = next(member for member in three.members if member is not leader)
    async with three.client("admin", follower) as client:
        await client.create(CONFIG_MAP)
        async for event in client.watch("configmaps", "default"):
            assert event.object["metadata"]["name"] == "a"
            break
        created = (await client.get("configmaps", "a"))["metadata"]["resourceVersion"]
        async for event in client.watch("configmaps", "default", revision=int(created) - 1):
            assert event.cause.actor == "user:admin"
            break
    async with three.client("alice", follower) as client:
        (result,) = await client.apply({**CONFIG_MAP, "metadata": {"name": "b"}})
        assert result.error is not None
        assert 'User "alice" cannot patch resource "configmaps"' in result.error.message


async def test_every_member_knows_every_address(three):
    async with three.client() as client:
        async with asyncio.timeout(20):
            while True:
                status = await client.cluster_status()
                addresses = {member.name: member.grpc_address for member in status.members}
                if all(addresses.values()):
                    break
                await asyncio.sleep(0.05)
        assert addresses == {member.name: member.grpc for member in three.members}


async def test_writes_go_on_after_the_leader_is_killed(three):
    async with three.client() as client:
        leader = await leader_of(three, client)
        others = [member for member in three.members if member is not leader]
    async with three.client("admin", *others) as client:
        await client.create(CONFIG_MAP)
        leader.end(signal.SIGKILL)
        started = asyncio.get_running_loop().time()
        await client.patch("configmaps", "a", {"data": {"k": "v"}})
        assert asyncio.get_running_loop().time() - started < 10
        assert (await client.get("configmaps", "a"))["data"] == {"k": "v"}
        generated = {**CONFIG_MAP, "metadata": {"generateName": "g-"}}
        await client.create(generated)
        assert len(await client.list("configmaps", "default")) == 2


async def test_creations_under_way_when_the_leader_dies_happen_once(three):
    async with three.client() as client:
        leader = await leader_of(three, client)
    followers = [member for member in three.members if member is not leader]
    async with three.client("admin", followers[0]) as client:
        body = {**CONFIG_MAP, "metadata": {"generateName": "g-"}}

        async def create(number: int) -> bool:
            if number == 20:
                leader.end(signal.SIGKILL)
            await client.create(body, timeout=20)
            return True

        made = await asyncio.gather(*(create(number) for number in range(60)))
        assert len(await client.list("configmaps", "default")) == len(made)


async def test_leadership_is_handed_over_on_request(three):
    async with three.client() as client:
        leader = await leader_of(three, client)
        target = next(member for member in three.members if member is not leader)
        request = cluster_pb2.TransferLeaderRequest(member=target.name)
        await client.transport.unary("Cluster", "TransferLeader", request)
        assert (await leader_of(three, client)) is target
        await client.create(CONFIG_MAP)
