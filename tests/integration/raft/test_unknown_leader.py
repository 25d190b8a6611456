"""A leader that the receiver's log does not know yet is answered, else it could never tell what the log lacks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.integration.raft.conftest import Lab

THREE = ("control-1", "control-2", "control-3")


async def led_by_the_fourth(lab: Lab, *, without: str) -> None:
    """Three members, one of which is away while a fourth comes, votes and leads."""
    lab.adjust = lambda config: replace(
        config, max_append_bytes=100
    )  # so that an old membership is in force for a moment
    for name in THREE:
        await lab.start(name)
    leader = await lab.leader()
    if leader.config.name == without:
        await leader.transfer_leadership("control-2")
        leader = await lab.leader(other_than=without)
    for number in range(30):
        await leader.propose(b"early-%d" % number)
    await lab.kill(without)
    await leader.add_member("control-4", lab.addresses["control-4"])
    fourth = await lab.start("control-4", joining=True)
    await fourth.barrier()
    await leader.promote_member("control-4")
    await leader.transfer_leadership("control-4")
    leader = await lab.leader()
    assert leader is fourth
    await leader.propose(b"late")


async def test_a_member_that_was_away_follows_a_leader_that_came_meanwhile(raft_lab: Lab) -> None:
    await led_by_the_fourth(raft_lab, without="control-3")
    async with asyncio.timeout(10):
        back = await raft_lab.start("control-3")
        await back.barrier(10)
    assert raft_lab.machines["control-3"].history[-1] == b"late"


async def replaced_by_an_empty_one(lab: Lab, name: str) -> None:
    """Remove a member and let it come again, with nothing but its name."""
    leader = lab.nodes["control-4"]
    await leader.remove_member(name)
    if name in lab.nodes:
        await lab.kill(name)
    for path in (lab.folder / name / "raft").iterdir():
        path.unlink()
    await leader.add_member(name, lab.addresses[name])
    async with asyncio.timeout(10):
        await (await lab.start(name, joining=True)).barrier(10)
        await leader.promote_member(name)


async def test_a_new_member_passes_memberships_without_the_leader(raft_lab: Lab) -> None:
    await led_by_the_fourth(raft_lab, without="control-3")
    await replaced_by_an_empty_one(raft_lab, "control-1")
    leader = raft_lab.nodes["control-4"]
    await leader.remove_member("control-3")
    await leader.transfer_leadership("control-1")
    leader = await raft_lab.leader()
    for path in (raft_lab.folder / "control-3" / "raft").iterdir():
        path.unlink()
    await leader.add_member("control-3", raft_lab.addresses["control-3"])
    async with asyncio.timeout(10):
        await (await raft_lab.start("control-3", joining=True)).barrier(10)
    assert raft_lab.machines["control-3"].history[-1] == b"late"
