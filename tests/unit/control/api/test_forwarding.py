"""Calls reach the leader, wherever it is, and are repeated only where that does no harm."""

from __future__ import annotations

import pytest

from control.api.carrier import BrokenError
from control.api.forwarding import LeaderLink
from control.api.leadership import Leadership
from control.identity import AUTHENTICATED, Caller
from control.raft.interface import LeaderState
from steersman import ApiError
from steersman.clock import SeededEntropy, SystemClock
from steersman.errors import unavailable
from steersman.v1 import objects_pb2 as pb

ALICE = Caller("alice", frozenset((AUTHENTICATED,)))
HERE = LeaderState("me", 2, is_self=True)
THERE = LeaderState("other", 3, is_self=False)


class Link(LeaderLink):
    """The wire is a list of what happens on it."""

    def __init__(self, leadership: Leadership, *outcomes: object) -> None:
        super().__init__(leadership, lambda _: "addr:1", lambda: None, SystemClock(), SeededEntropy(1))
        self.outcomes = list(outcomes)
        self.sent: list[Caller] = []

    async def _forward(self, service, method, request, caller, deadline):
        self.sent.append(caller)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def leadership() -> Leadership:
    found = Leadership("me")
    found.update(THERE)
    return found


async def never(_request, _caller):
    raise AssertionError("not here")


async def call(link: LeaderLink, method: str, request, local=never, caller=ALICE, timeout=5.0):
    return await link.call("Objects", method, request, caller, local, timeout)


async def test_the_leader_answers_itself(leadership):
    leadership.update(HERE)

    async def local(_request, caller):
        return caller.user

    assert await call(Link(leadership), "Patch", pb.PatchRequest(), local) == "alice"


async def test_what_was_refused_without_a_leader_is_tried_again(leadership):
    link = Link(leadership, unavailable("no leader"), BrokenError("down", never_sent=True), "done")
    assert await call(link, "Update", pb.UpdateRequest()) == "done"


async def test_a_refusal_is_handed_on(leadership):
    link = Link(leadership, ApiError("Conflict", "stale"))
    with pytest.raises(ApiError, match="stale"):
        await call(link, "Update", pb.UpdateRequest())
    assert len(link.sent) == 1


async def test_the_deadline_ends_it(leadership):
    link = Link(leadership, *[unavailable("no leader")] * 100)
    with pytest.raises(ApiError, match="no leader"):
        await call(link, "Update", pb.UpdateRequest(), timeout=0.2)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Update", pb.UpdateRequest()),
        ("Batch", pb.BatchRequest()),
        ("Patch", pb.PatchRequest(format=pb.PatchRequest.JSON)),
        ("CreateJoinToken", pb.KindsRequest()),
    ],
)
async def test_what_may_have_happened_and_would_harm_twice_is_not_repeated(leadership, method, request_):
    link = Link(leadership, BrokenError("reset", never_sent=False))
    with pytest.raises(ApiError) as refused:
        await call(link, method, request_)
    assert refused.value.reason == "Timeout"
    assert "may or may not be done" in refused.value.message


async def test_a_repeated_creation_says_that_it_is_one(leadership):
    link = Link(leadership, BrokenError("reset", never_sent=False), "done")
    assert await call(link, "Create", pb.CreateRequest()) == "done"
    first, second = (caller.request_id for caller in link.sent)
    assert first == second != ""


async def test_a_deletion_whose_first_try_succeeded_is_done(leadership):
    link = Link(leadership, BrokenError("reset", never_sent=False), ApiError("NotFound", "gone"))
    answer = await call(link, "Delete", pb.DeleteRequest())
    assert answer.outcome == pb.WriteResponse.DELETED
    with pytest.raises(ApiError, match="gone"):
        await call(Link(leadership, ApiError("NotFound", "gone")), "Delete", pb.DeleteRequest())


async def test_a_forwarded_call_is_never_forwarded_again(leadership):
    link = Link(leadership)
    with pytest.raises(ApiError) as refused:
        await call(link, "Create", pb.CreateRequest(), caller=Caller("alice", via="system:member:b"))
    assert refused.value.reason == "ServiceUnavailable"
    assert link.sent == []


async def test_a_member_that_comes_to_lead_meanwhile_answers(leadership):
    async def local(_request, _caller):
        return "here"

    class Promoted(Link):
        async def _forward(self, service, method, request, caller, deadline):
            leadership.update(HERE)
            raise unavailable("deposed")

    assert await call(Promoted(leadership), "Update", pb.UpdateRequest(), local) == "here"


async def test_a_member_about_to_lead_does_not_call_itself(leadership):
    leadership.update(LeaderState("me", 4, is_self=False))
    assert LeaderLink(leadership, lambda _: "addr:1", lambda: None, SystemClock(), SeededEntropy(1)).channel() is None
