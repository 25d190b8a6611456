"""Changes of membership that would cost the majority are refused with numbers; those that would not are made."""

from __future__ import annotations

import dataclasses

import pytest

from control.api.context import ApiContext
from control.api.leadership import Leadership
from control.api.members import PREFIX, MemberAddresses, Members
from control.api.membership import MembershipHandlers, promotion_refusal, removal_refusal
from control.identity import AUTHENTICATED, MASTERS, Caller
from control.raft.interface import MembershipBusyError, MemberStatus, NotLeaderError, RaftStatus
from control.store.local import LocalStore
from steersman.clock import ManualClock, SeededEntropy
from steersman.errors import ApiError
from steersman.v1 import cluster_pb2 as pb

ADMIN = Caller("admin", frozenset((MASTERS, AUTHENTICATED)))


def one(
    name: str, role: str = "follower", *, match: int = 9, reachable: bool = True, problem: str = ""
) -> MemberStatus:
    return MemberStatus(name, f"{name}:7444", role, match, reachable, problem)


def status(*members: MemberStatus) -> RaftStatus:
    return RaftStatus("a", "c1", "leader", 3, "a", 9, 9, 1, 9, 0, members)


LEADER = one("a", "leader")


@pytest.mark.parametrize(
    ("members", "name", "refusal"),
    [
        ((LEADER, one("b"), one("c")), "c", None),
        ((LEADER, one("b"), one("c", reachable=False)), "c", None),
        ((LEADER, one("b"), one("c", reachable=False)), "b", "without b there would be 2 voters, and a majority of 2 must be well, but only 1"),
        ((LEADER, one("b"), one("c", problem="disk full")), "b", "mend or remove c first"),
        ((LEADER, one("b", "learner", reachable=False)), "b", None),
        ((LEADER, one("b", "learner")), "a", "a is the last voter: add and promote another member first"),
        ((LEADER, *map(one, "bc"), one("d", reachable=False), one("e", reachable=False)), "b", "4 voters, and a majority of 3"),
        ((LEADER, *map(one, "bc"), one("d", reachable=False), one("e", reachable=False)), "e", None),
    ],
)  # fmt: skip
def test_a_member_may_go_when_a_majority_stays_well(members, name, refusal):
    found = removal_refusal(status(*members), name)
    assert (found is None) == (refusal is None)
    assert (refusal or "") in (found or "")


@pytest.mark.parametrize(
    ("members", "refusal"),
    [
        ((LEADER, one("b", "learner")), None),
        ((LEADER, one("b", "learner", reachable=False)), "b is not connected to the leader"),
        ((LEADER, one("b", "learner", match=0)), "b is not connected to the leader"),
        ((LEADER, one("b", "learner", problem="disk full")), "b reports a problem: disk full"),
        ((LEADER, one("c", reachable=False), one("b", "learner")), None),
        ((LEADER, one("c", reachable=False), one("d", reachable=False), one("b", "learner")), "with b voting there would be 4 voters"),
    ],
)  # fmt: skip
def test_a_learner_may_vote_when_it_is_there_and_a_majority_is_well(members, refusal):
    found = promotion_refusal(status(*members), "b")
    assert (found is None) == (refusal is None)
    assert (refusal or "") in (found or "")


class FakeRaft:
    def __init__(self, *members: MemberStatus) -> None:
        self.members = members
        self.done: list[tuple[str, ...]] = []
        self.refusal: Exception | None = None
        self.settled = True

    def status(self) -> RaftStatus:
        return dataclasses.replace(status(*self.members), settled=self.settled)

    async def _do(self, *what: str) -> None:
        self.done.append(what)
        if self.refusal is not None:
            raise self.refusal

    async def transfer_leadership(self, to: str) -> None:
        await self._do("transfer", to)

    async def add_member(self, name: str, address: str) -> None:
        await self._do("add", name, address)

    async def promote_member(self, name: str) -> None:
        await self._do("promote", name)

    async def remove_member(self, name: str) -> None:
        await self._do("remove", name)


@pytest.fixture
def raft() -> FakeRaft:
    return FakeRaft(LEADER, one("b"), one("c"), one("d", "learner"))


@pytest.fixture
def members() -> Members:
    return Members(LocalStore(ManualClock()), dict, 7443)


@pytest.fixture
def handlers(raft: FakeRaft, members: Members) -> MembershipHandlers:
    leadership = Leadership("a", alone=True)
    context = ApiContext(members._store, leadership, ManualClock(), SeededEntropy(1))
    return MembershipHandlers(context, raft, members)


async def test_repeating_what_was_done_changes_nothing(handlers, raft):
    await handlers.add_member(pb.AddMemberRequest(name="d", raft_address="d:7444"), ADMIN)
    await handlers.promote_member(pb.PromoteMemberRequest(name="b"), ADMIN)
    assert raft.done == []
    answer = await handlers.members(pb.MembersRequest(), ADMIN)
    assert (answer.voters, answer.majority, answer.well) == (3, 2, 3)


async def test_nothing_is_called_done_or_absent_while_it_may_still_be_undone(handlers, raft):
    raft.settled = False
    for call, request in (
        (handlers.members, pb.MembersRequest()),
        (handlers.add_member, pb.AddMemberRequest(name="d", raft_address="d:7444")),
        (handlers.promote_member, pb.PromoteMemberRequest(name="b")),
        (handlers.remove_member, pb.RemoveMemberRequest(name="gone")),
    ):
        with pytest.raises(ApiError) as told:
            await call(request, ADMIN)
        assert (told.value.reason, raft.done) == ("ServiceUnavailable", [])


async def test_a_member_that_goes_takes_its_addresses_with_it(handlers, raft, members):
    for name in "bc":
        await members.write(name, MemberAddresses(f"{name}:7443", f"{name}:6443"), "test")
    await handlers.remove_member(pb.RemoveMemberRequest(name="c"), ADMIN)
    assert raft.done == [("remove", "c")]
    assert [kv.key for kv in (await members._store.range(PREFIX)).kvs] == [PREFIX + "b"]


async def test_a_leader_that_is_to_go_hands_over_to_the_most_advanced_and_sends_the_caller_there(handlers, raft):
    raft.members = (LEADER, one("b", match=7), one("c", match=8))
    with pytest.raises(ApiError) as told:
        await handlers.remove_member(pb.RemoveMemberRequest(name="a"), ADMIN)
    assert raft.done == [("transfer", "c")]
    assert (told.value.reason, "c does" in told.value.message) == ("ServiceUnavailable", True)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (MembershipBusyError("in a moment"), "ServiceUnavailable"),
        (NotLeaderError("deposed", leader="b"), "ServiceUnavailable"),
        (NotLeaderError("deposed", uncertain=True), "Timeout"),
    ],
)
async def test_what_raft_refuses_is_told_so_that_only_what_was_not_done_is_repeated(handlers, raft, refusal, reason):
    raft.refusal = refusal
    with pytest.raises(ApiError) as told:
        await handlers.promote_member(pb.PromoteMemberRequest(name="d"), ADMIN)
    assert told.value.reason == reason


@pytest.mark.parametrize(("name", "address"), [("No_Name", "h:1"), ("ok", "h"), ("ok", ":1"), ("ok", "h:99999")])
async def test_nonsense_is_refused_before_it_is_in_the_log(handlers, raft, name, address):
    with pytest.raises(ApiError) as told:
        await handlers.add_member(pb.AddMemberRequest(name=name, raft_address=address), ADMIN)
    assert (told.value.reason, raft.done) == ("BadRequest", [])


async def test_only_masters_change_members(handlers):
    with pytest.raises(ApiError) as told:
        await handlers.remove_member(pb.RemoveMemberRequest(name="b"), Caller("alice", frozenset((AUTHENTICATED,))))
    assert told.value.reason == "Forbidden"
