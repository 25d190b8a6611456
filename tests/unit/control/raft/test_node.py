"""The running member, on in-memory disks and an in-memory network."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from control.raft.files import File, MemoryFiles
from control.raft.interface import BusyError, MembershipError, NotLeaderError
from control.raft.messages import InstallSnapshot, Message
from control.raft.node import Entry, LeaderState, RaftConfig, RaftNode
from control.raft.transport import Receiver
from steersman.clock import SeededEntropy, SystemClock


class Tally:
    """A state machine: everything ever applied, in order."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        if any(entry.data == b"poison" for entry in entries):
            raise ZeroDivisionError("poison")
        self.values += [entry.data for entry in entries]
        return [len(self.values) - len(entries) + position for position in range(1, len(entries) + 1)]

    def snapshot(self) -> Iterator[bytes]:
        return iter(list(self.values))

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.values = list(chunks)


class Wire:
    """Delivers messages at the loop's next turn, unless a link is cut."""

    def __init__(self) -> None:
        self.ends: dict[str, WireEnd] = {}
        self.cut: set[str] = set()


class WireEnd:
    def __init__(self, wire: Wire, name: str) -> None:
        self.wire, self.name = wire, name
        self.problem_here = ""
        self.receiver: Receiver

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.wire.ends[self.name] = self

    async def stop(self) -> None:
        self.wire.ends.pop(self.name, None)

    def _other(self, name: str) -> WireEnd | None:
        return self.wire.ends.get(name) if not {name, self.name} & self.wire.cut else None

    def send(self, messages: Sequence[Message]) -> None:
        loop = asyncio.get_running_loop()
        for message in messages:
            other = self._other(message.to)
            if other is None:
                self.receiver.unreachable(message.to)
            else:
                loop.call_soon(other.receiver.receive, [message])

    def send_snapshot(self, message: InstallSnapshot, file: File) -> None:
        self.sending = asyncio.get_running_loop().create_task(self._carry(message, file.read(0, file.size())))
        file.close()

    async def _carry(self, message: InstallSnapshot, content: bytes) -> None:
        other = self._other(message.to)
        if other is not None:
            await other.receiver.receive_snapshot(message.meta, 0, content)
            await other.receiver.finish_snapshot(message)
        self.receiver.snapshot_sent(message.to, arrived=other is not None)

    def set_members(self, addresses: Mapping[str, str]) -> None:
        self.members = addresses

    def announce(self, problem: str) -> None:
        self.problem_here = problem

    def reachable(self, name: str) -> bool:
        return self._other(name) is not None

    def problem(self, name: str) -> str:
        other = self._other(name)
        return other.problem_here if other else ""


class Cluster:
    def __init__(self) -> None:
        self.wire = Wire()
        self.disks = {name: MemoryFiles() for name in "abcd"}
        self.machines: dict[str, Tally] = {}
        self.nodes: dict[str, RaftNode] = {}
        self.settings: dict[str, int] = {"segment_bytes": 1 << 14}

    async def start(self, *names: str, members: str = "abc") -> None:
        for name in names:
            config = RaftConfig(
                name=name,
                data_dir=Path("/nowhere"),
                listen=f"{name}:1",
                members={member: f"{member}:1" for member in members},
                tick_s=0.005,
                **self.settings,
            )
            self.machines[name] = Tally()
            self.nodes[name] = RaftNode(
                config,
                self.machines[name],
                SystemClock(),
                SeededEntropy(ord(name)),
                transport=WireEnd(self.wire, name),
                files=self.disks[name],
            )
            await self.nodes[name].start()

    async def crash(self, name: str) -> None:
        node = self.nodes.pop(name)
        node._core = None
        await node.stop()
        self.disks[name].crash()

    async def leader(self, *among: str) -> RaftNode:
        async with asyncio.timeout(20):
            while True:
                for name in among or tuple(self.nodes):
                    if self.nodes[name].is_leader:
                        return self.nodes[name]
                await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    for name in list(made.nodes):
        await made.crash(name)


async def test_a_proposal_gets_its_result_and_every_member_applies_it(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    assert await asyncio.gather(*(leader.propose(b"%d" % n) for n in range(100))) == list(range(1, 101))
    await asyncio.gather(*(node.barrier() for node in cluster.nodes.values()))
    assert {tuple(machine.values) for machine in cluster.machines.values()} == {tuple(b"%d" % n for n in range(100))}


async def test_proposals_made_together_share_one_write(cluster: Cluster) -> None:
    await cluster.start("a", members="a")
    node = await cluster.leader()
    before = node._wal._number
    await asyncio.gather(*(node.propose(b"x") for _ in range(500)))
    assert node._wal._number - before == 1


async def test_a_member_that_does_not_lead_says_who_does(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    other = next(node for node in cluster.nodes.values() if node is not leader)
    await cluster.until(lambda: other.leader == leader.config.name)
    with pytest.raises(NotLeaderError) as refused:
        await other.propose(b"x")
    assert (refused.value.leader, refused.value.uncertain) == (leader.config.name, False)
    with pytest.raises(ValueError, match="larger than the limit"):
        await leader.propose(bytes(leader.config.max_entry_bytes + 1))


async def test_a_leader_that_is_cut_off_tells_that_the_outcome_is_uncertain(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    cluster.wire.cut.add(leader.config.name)
    with pytest.raises(NotLeaderError) as refused:
        await leader.propose(b"lost?")
    assert refused.value.uncertain
    with pytest.raises(NotLeaderError, match="no leader confirmed"):
        await leader.barrier(timeout_s=0.01)


async def test_acknowledged_writes_survive_power_loss_of_everyone(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    for number in range(20):
        await leader.propose(b"%d" % number)
    for name in "abc":
        await cluster.crash(name)
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    assert cluster.machines[leader.config.name].values == [b"%d" % number for number in range(20)]


async def test_a_new_leader_has_applied_everything_before_it_says_so(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    for number in range(50):
        await leader.propose(b"%d" % number)
    name = leader.config.name
    await cluster.crash(name)
    follower = await cluster.leader()
    assert len(cluster.machines[follower.config.name].values) == 50


async def test_snapshots_shorten_the_log_and_bring_a_member_up_to_date(cluster: Cluster) -> None:
    cluster.settings |= {"snapshot_entries": 50, "trailing_entries": 5}
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    away = next(name for name in "abc" if name != leader.config.name)
    await cluster.crash(away)
    values = [b"%d" % number for number in range(200)]
    for value in values:
        await leader.propose(value)
    await cluster.until(lambda: leader.status().first_index > 100)
    await cluster.start(away)
    await cluster.nodes[away].barrier()
    assert cluster.machines[away].values == values
    assert cluster.nodes[away].status().first_index > 100  # by snapshot, not by the log
    await cluster.crash(away)
    await cluster.start(away)
    await cluster.nodes[away].barrier()
    assert cluster.machines[away].values == values


async def test_a_purge_leaves_nothing_of_the_past_on_the_disk_and_followers_that_are_behind_get_the_state(
    cluster: Cluster,
) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    name = leader.config.name
    away = next(other for other in "abc" if other != name)
    await cluster.crash(away)
    await leader.propose(b"overwritten-in-the-next-state")
    await leader.propose(b"kept")
    machine = cluster.machines[name]
    await cluster.until(lambda: len(machine.values) == 2)
    machine.values[0] = b"-"
    await leader.purge()
    disk = cluster.disks[name]
    assert not [file for file in disk.names() if b"overwritten" in disk.open(file).read(0, 1 << 20)]
    assert [file for file in disk.names() if b"kept" in disk.open(file).read(0, 1 << 20)]
    await leader.propose(b"after")
    await cluster.start(away)
    await cluster.nodes[away].barrier()
    assert cluster.machines[away].values == [b"-", b"kept", b"after"]


async def test_a_full_disk_stops_a_leader_which_says_so_and_comes_back_when_there_is_room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.raft.node.RETRY_DISK_S", 0.01)
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    name = leader.config.name
    disk = cluster.disks[name]
    disk.capacity = disk.used
    acknowledged = 0
    try:
        while True:
            await leader.propose(bytes(1000))
            acknowledged += 1
    except NotLeaderError:
        pass
    status = leader.status()
    assert status.role == "stopped"
    assert status.problem.startswith("disk full: the log in")
    others = [other for other in "abc" if other != name]
    successor = await cluster.leader(*others)
    assert any(member.problem.startswith("disk full") for member in successor.status().members)
    assert len(cluster.machines[successor.config.name].values) >= acknowledged
    await successor.propose(b"goes on")
    disk.capacity = None
    await cluster.until(lambda: leader.status().problem == "")
    await leader.barrier()
    assert cluster.machines[name].values == cluster.machines[successor.config.name].values


async def test_a_failed_fsync_never_acknowledges(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.raft.node.RETRY_DISK_S", 0.01)
    await cluster.start("a", members="a")
    node = await cluster.leader()
    await node.propose(b"kept")
    cluster.disks["a"].fail_sync = OSError(errno.EIO, "Input/output error")
    with pytest.raises(NotLeaderError) as refused:
        await node.propose(b"lost")
    assert refused.value.uncertain
    assert "the disk failed" in node.status().problem
    assert cluster.machines["a"].values == [b"kept"]
    cluster.disks["a"].fail_sync = None
    await cluster.leader()
    assert await node.propose(b"after") == 2


async def test_a_state_machine_that_raises_stops_the_member_for_good(cluster: Cluster) -> None:
    await cluster.start("a", members="a")
    node = await cluster.leader()
    with pytest.raises(NotLeaderError):
        await node.propose(b"poison")
    assert node.status().problem == "stopped for good: ZeroDivisionError: poison"
    with pytest.raises(NotLeaderError, match="poison"):
        await node.barrier()


async def test_leadership_can_be_followed_and_moved(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    target = next(name for name in "abc" if name != leader.config.name)
    seen: list[LeaderState] = []

    async def follow() -> None:
        async for state in cluster.nodes[target].leadership():
            seen.append(state)
            if state.is_self:
                return

    following = asyncio.create_task(follow())
    await leader.transfer_leadership(target)
    await following
    assert seen[-1] == LeaderState(target, seen[-1].term, is_self=True)
    with pytest.raises(NotLeaderError):
        await leader.transfer_leadership("a")


async def test_a_stopping_leader_hands_over(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    name, term = leader.config.name, leader.term
    await cluster.nodes.pop(name).stop()
    successor = await cluster.leader()
    assert successor.term == term + 1
    async for _ in leader.leadership():
        pytest.fail("a stopped member has nothing to tell")


async def test_members_are_added_promoted_and_removed_under_load(cluster: Cluster) -> None:
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    done = asyncio.Event()

    async def load() -> int:
        count = 0
        while not done.is_set():
            await leader.propose(b"%d" % count)
            count += 1
        return count

    loading = asyncio.create_task(load())
    await leader.add_member("d", "d:1")
    with pytest.raises(MembershipError, match="member already"):
        await leader.add_member("d", "d:2")
    await cluster.start("d", members="")
    await cluster.nodes["d"].barrier()
    await leader.promote_member("d")
    gone = next(name for name in "abc" if name != leader.config.name)
    await leader.remove_member(gone)
    done.set()
    count = await loading
    await cluster.nodes["d"].barrier()
    assert len(cluster.machines["d"].values) == count
    status = cluster.nodes["d"].status()
    assert sorted(member.name for member in status.members) == sorted({*"abcd"} - {gone})
    assert {member.role for member in status.members} == {"leader", "follower"}


async def test_too_much_waiting_is_refused(cluster: Cluster) -> None:
    cluster.settings["max_uncommitted_bytes"] = 1000
    await cluster.start("a", "b", "c")
    leader = await cluster.leader()
    cluster.wire.cut.add(leader.config.name)
    first = asyncio.create_task(leader.propose(bytes(900)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await leader.propose(bytes(900))
    with pytest.raises(NotLeaderError):
        await first


async def test_metrics_tell_what_happened(cluster: Cluster) -> None:
    await cluster.start("a", members="a")
    node = await cluster.leader()
    await asyncio.gather(*(node.propose(b"x") for _ in range(7)))
    await node.barrier()
    registry = node.metrics.term.collect()
    assert registry[0].samples[0].value == node.term
    assert node.metrics.proposals.labels("applied")._value.get() == 7
    assert node.metrics.barriers.labels("confirmed")._value.get() == 1
    assert node.metrics.is_leader._value.get() == 1
