"""Three members over real gRPC with mutual TLS and real disks, in this process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from control.raft import transport_pb2 as pb
from control.raft import transport_pb2_grpc as rpc
from control.raft.interface import TlsFiles
from control.raft.node import NotLeaderError, RaftConfig, RaftNode
from control.raft.transport import channel_credentials
from steersman.clock import SystemClock, SystemEntropy
from tests.integration.raft.conftest import Authority, Lab, Register

THREE = ("control-1", "control-2", "control-3")


async def start_all(lab: Lab) -> RaftNode:
    for name in THREE:
        await lab.start(name)
    return await lab.leader()


async def write(lab: Lab, value: bytes) -> None:
    """Write as a client does: to whoever leads, again while nobody does."""
    async with asyncio.timeout(20):
        while True:
            try:
                await (await lab.leader()).propose(value)
            except NotLeaderError as refused:
                if refused.uncertain:
                    raise
            else:
                return


async def test_writes_reach_every_member_over_tls(raft_lab: Lab) -> None:
    leader = await start_all(raft_lab)
    await asyncio.gather(*(leader.propose(b"%d" % n) for n in range(500)))
    await asyncio.gather(*(node.barrier() for node in raft_lab.nodes.values()))
    histories = {tuple(machine.history) for machine in raft_lab.machines.values()}
    assert len(histories) == 1
    assert len(next(iter(histories))) == 500
    assert all(member.reachable for member in leader.status().members)


async def test_killed_members_lose_nothing_and_the_others_go_on(raft_lab: Lab) -> None:
    leader = await start_all(raft_lab)
    values = []
    for number in range(3):
        for n in range(20):
            values.append(b"%d-%d" % (number, n))
            await write(raft_lab, values[-1])
        killed = leader.config.name
        await raft_lab.kill(killed)
        values.append(b"without %d" % number)
        await write(raft_lab, values[-1])
        await raft_lab.start(killed)
        leader = await raft_lab.leader()
    await asyncio.gather(*(node.barrier() for node in raft_lab.nodes.values()))
    for machine in raft_lab.machines.values():
        assert machine.history == values


async def test_everyone_killed_at_once_comes_back_with_everything_acknowledged(raft_lab: Lab) -> None:
    leader = await start_all(raft_lab)
    values = [b"%d" % n for n in range(300)]
    await asyncio.gather(*map(leader.propose, values))
    for name in THREE:
        await raft_lab.kill(name)
    leader = await start_all(raft_lab)
    assert raft_lab.machines[leader.config.name].history == values


async def test_a_new_member_gets_a_snapshot_through_the_wire_and_votes(raft_lab: Lab) -> None:
    raft_lab.adjust = lambda config: replace(config, snapshot_entries=100, trailing_entries=10, segment_bytes=1 << 18)
    leader = await start_all(raft_lab)
    values = [b"%d" % n + bytes(2000) for n in range(600)]
    for start in range(0, 600, 50):
        await asyncio.gather(*map(leader.propose, values[start : start + 50]))
    while leader.status().first_index < 300:
        await leader.propose(b"more")
    await leader.add_member("control-4", raft_lab.addresses["control-4"])
    joined = await raft_lab.start("control-4", joining=True)
    await joined.barrier(timeout_s=20)
    assert raft_lab.machines["control-4"].history[:600] == values
    assert joined.status().first_index > 1
    await leader.promote_member("control-4")
    await leader.transfer_leadership("control-4")
    await (await raft_lab.leader(other_than=leader.config.name)).propose(b"from the new one")
    gone = leader.config.name
    await joined.remove_member(gone)
    assert gone not in {member.name for member in joined.status().members}


async def refused(lab: Lab, tls: TlsFiles, batch: pb.Batch) -> grpc.aio.AioRpcError:
    options = [("grpc.ssl_target_name_override", "control-1")]
    async with grpc.aio.secure_channel(
        lab.addresses["control-1"], channel_credentials(tls), options=options
    ) as channel:
        call = rpc.RaftTransportStub(channel).Deliver()
        try:
            while True:
                await call.write(batch)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value


async def test_only_members_of_this_cluster_are_heard(raft_lab: Lab) -> None:
    leader = await start_all(raft_lab)
    term = leader.term
    forged = pb.Batch(
        sender="control-2",
        messages=[pb.Message(term=99, vote_request=pb.VoteRequest(last_index=9999, last_term=99, transfer=True))],
    )
    node = raft_lab.authority.issue("system:node:node-1", "node-1")
    error = await refused(raft_lab, node, forged)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "members only" in (error.details() or "")

    other_member = raft_lab.authority.issue("system:member:control-3", "control-3-again")
    error = await refused(raft_lab, other_member, forged)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    foreign = Authority(raft_lab.folder, "foreign")
    stranger = replace(foreign.issue("system:member:control-2", "stranger"), ca=raft_lab.authority.path)
    error = await refused(raft_lab, stranger, forged)
    assert error.code() is grpc.StatusCode.UNAVAILABLE  # the handshake already fails

    member = raft_lab.authority.issue("system:member:control-2", "control-2-again")
    error = await refused(raft_lab, member, pb.Batch(sender="control-2", cluster_id="another"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "belongs to cluster another" in (error.details() or "")
    assert leader.term == term


async def test_two_processes_cannot_share_a_folder(raft_lab: Lab) -> None:
    await raft_lab.start("control-1")
    second = RaftNode(raft_lab.nodes["control-1"].config, Register(), SystemClock(), SystemEntropy())
    with pytest.raises(OSError, match="two members cannot share a data folder"):
        await second.start()
    await second.stop()


async def test_an_address_in_use_is_said_plainly(raft_lab: Lab) -> None:
    raft_lab.addresses["control-2"] = raft_lab.addresses["control-1"]
    await raft_lab.start("control-1")
    with pytest.raises(OSError, match=f"cannot listen for members on {raft_lab.addresses['control-1']}"):
        await raft_lab.start("control-2")


def test_members_speak_tls_only(tmp_path: Path) -> None:
    config = RaftConfig(name="a", data_dir=tmp_path, members={"a": "127.0.0.1:1"})
    with pytest.raises(ValueError, match="mutual TLS only"):
        RaftNode(config, Register(), SystemClock(), SystemEntropy())
