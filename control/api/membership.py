"""Changing who the members are: add, promote, remove, each refused with numbers when it would cost the majority.

A cluster of three is replaced one member at a time: add a learner (it receives the log and does not vote), promote it when it
has caught up, remove an old one. Raft holds what keeps that safe; here is what keeps it wise: a change that is legal and
leaves fewer voters well than a majority would stop every write, and could not be taken back, because taking it back is a write.

All of it is the leader's (`forwarding` carries it there). What a change waits for, another change under way, a hand-over, is
answered as unavailable, and `forwarding` tries again. A leader that is to be removed hands over first and answers so, which
leads the same call to its successor. Repeating an addition or a promotion that was done changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from control.api.authorization import Access, require
from control.api.context import ApiContext
from control.api.errors import from_store, no_leader
from control.api.members import Members
from control.config import ConfigError, check_address, check_name
from control.identity import Caller
from control.raft.interface import MembershipBusyError, MembershipError, MemberStatus, NotLeaderError, RaftStatus
from control.store.interface import StoreError
from steersman.errors import ApiError, bad_request, not_found, unavailable
from steersman.v1 import cluster_pb2 as pb

ROLES = {
    "follower": pb.Member.FOLLOWER,
    "candidate": pb.Member.CANDIDATE,
    "leader": pb.Member.LEADER,
    "learner": pb.Member.LEARNER,
}


class Raft(Protocol):
    """What changing the members needs of Raft."""

    def status(self) -> RaftStatus: ...
    async def transfer_leadership(self, to: str) -> None: ...
    async def add_member(self, name: str, address: str) -> None: ...
    async def promote_member(self, name: str) -> None: ...
    async def remove_member(self, name: str) -> None: ...


def majority(voters: int) -> int:
    """How many of the voters must agree."""
    return voters // 2 + 1


def is_well(member: MemberStatus) -> bool:
    """Whether a member counts on: it is connected and reports no problem."""
    return member.reachable and not member.problem


def removal_refusal(status: RaftStatus, name: str) -> str | None:
    """Why a member must stay, as the leader of `status` sees it; None when it may go."""
    removed = _find(status, name)
    if removed is None or removed.role == "learner":
        return None
    left = [member for member in _voters(status) if member.name != name]
    if not left:
        return f"{name} is the last voter: add and promote another member first"
    return _without_majority(left, f"without {name}")


def promotion_refusal(status: RaftStatus, name: str) -> str | None:
    """Why a learner must not vote yet, as the leader of `status` sees it; None when it may."""
    learner = _find(status, name)
    if learner is None or learner.role != "learner":
        return None
    if not learner.reachable or learner.match == 0:
        return f"{name} is not connected to the leader: start it with --join, and wait until it has the log"
    if learner.problem:
        return f"{name} reports a problem: {learner.problem}"
    return _without_majority([*_voters(status), learner], f"with {name} voting")


def _without_majority(voters: list[MemberStatus], when: str) -> str | None:
    need = majority(len(voters))
    lost = [member.name for member in voters if not is_well(member)]
    if len(voters) - len(lost) >= need:
        return None
    return (
        f"{when} there would be {len(voters)} voters, and a majority of {need} must be well, but only {len(voters) - len(lost)} "
        f"would be ({', '.join(lost)} not): nothing could be written any more, this change taken back included; mend or remove "
        f"{lost[0]} first"
    )


def _voters(status: RaftStatus) -> list[MemberStatus]:
    return [member for member in status.members if member.role != "learner"]


def _find(status: RaftStatus, name: str) -> MemberStatus | None:
    return next((member for member in status.members if member.name == name), None)


class MembershipHandlers:
    """`Members`, `AddMember`, `PromoteMember`, `RemoveMember`, as `(request, caller) -> response`."""

    def __init__(self, context: ApiContext, raft: Raft, members: Members) -> None:
        self._context = context
        self._raft = raft
        self._members = members

    async def members(self, _request: pb.MembersRequest, caller: Caller) -> pb.MembersResponse:
        """Everyone, as the leader sees them."""
        self._require(caller, "list")
        await self._settled()
        return self._shown()

    async def add_member(self, request: pb.AddMemberRequest, caller: Caller) -> pb.MembersResponse:
        """Add a learner."""
        self._require(caller, "create")
        try:
            check_name("the member's name", request.name)
            check_address("the member's Raft address", request.raft_address)
        except ConfigError as error:
            raise bad_request(str(error)) from None
        present = _find(await self._settled(), request.name)
        if present is None or present.address != request.raft_address:
            await _changed(self._raft.add_member(request.name, request.raft_address))
        return self._shown()

    async def promote_member(self, request: pb.PromoteMemberRequest, caller: Caller) -> pb.MembersResponse:
        """Let a learner vote."""
        self._require(caller, "update")
        status = await self._settled()
        if _present(status, request.name).role == "learner":
            if refusal := promotion_refusal(status, request.name):
                raise bad_request(refusal)
            await _changed(self._raft.promote_member(request.name))
        return self._shown()

    async def remove_member(self, request: pb.RemoveMemberRequest, caller: Caller) -> pb.MembersResponse:
        """Take a member out, and forget its addresses."""
        self._require(caller, "delete")
        status = await self._settled()
        _present(status, request.name)
        if refusal := removal_refusal(status, request.name):
            raise bad_request(refusal)
        if request.name == status.name:
            await self._hand_over(status)
        await _changed(self._raft.remove_member(request.name))
        try:
            await self._members.forget(request.name, f"user:{caller.user}")
        except StoreError as error:
            raise from_store(error) from None
        return self._shown()

    async def _hand_over(self, status: RaftStatus) -> None:
        """Have another member lead, and say so. Raises ApiError in any case."""
        others = [member for member in _voters(status) if member.name != status.name and is_well(member)]
        successor = max(others, key=lambda member: member.match).name
        try:
            await self._raft.transfer_leadership(successor)
        except (NotLeaderError, MembershipError, TimeoutError) as error:
            raise unavailable(
                f"{status.name} is to be removed and must hand over to {successor} first: {error}"
            ) from None
        raise no_leader(successor)  # `forwarding` asks it

    async def _settled(self) -> RaftStatus:
        """The members as they certainly are: this member still leads, and no change of them may be undone. Raises ApiError.

        "It is so already" and "there is none" are answers that people act on, by emptying a disk for one.
        """
        leadership = self._context.leadership
        if not leadership.is_self:
            raise no_leader(leadership.leader)
        try:
            await self._context.barrier.wait()
        except StoreError as error:
            raise from_store(error) from None
        status = self._raft.status()
        if not leadership.is_self:
            raise no_leader(leadership.leader)
        if not status.settled:
            raise unavailable("a change of the members is under way: try again in a moment")
        return status

    def _shown(self) -> pb.MembersResponse:
        status = self._raft.status()
        announced = self._members.announced
        voters = _voters(status)
        return pb.MembersResponse(
            cluster_id=status.cluster_id,
            leader=status.leader,
            term=status.term,
            last_index=status.last_index,
            commit_index=status.commit,
            members=[
                shown(member, announced[member.name].grpc if member.name in announced else "")
                for member in status.members
            ],
            voters=len(voters),
            majority=majority(len(voters)),
            well=sum(map(is_well, voters)),
        )

    def _require(self, caller: Caller, verb: str) -> None:
        require(self._context.authorizer, caller, Access(verb, "cluster", "members"))


def _present(status: RaftStatus, name: str) -> MemberStatus:
    found = _find(status, name)
    if found is None:
        raise not_found("members", name)
    return found


def shown(member: MemberStatus, grpc_address: str) -> pb.Member:
    """A member as clients see it."""
    return pb.Member(
        name=member.name,
        raft_address=member.address,
        grpc_address=grpc_address,
        role=ROLES.get(member.role, pb.Member.ROLE_UNSPECIFIED),
        match_index=member.match,
        reachable=member.reachable,
        problem=member.problem,
    )


async def _changed(change: Awaitable[None]) -> None:
    """Wait for a change of membership. Raises ApiError."""
    try:
        await change
    except NotLeaderError as error:
        if error.uncertain:
            raise ApiError("Timeout", f"{error}: look at the members before repeating it") from None
        raise no_leader(error.leader) from None
    except MembershipBusyError as error:
        raise unavailable(str(error)) from None
    except MembershipError as error:
        raise bad_request(str(error)) from None
