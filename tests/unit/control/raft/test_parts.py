"""Quorums, progress, membership history and the wire: the small pure parts."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.raft import membership as changes
from control.raft import messages as m
from control.raft import wire
from control.raft.interface import MembershipError
from control.raft.messages import Entry, EntryKind, Membership
from control.raft.quorum import VoteResult, committed_index, has_majority, vote_result
from control.raft.tracker import Progress, ProgressState

VOTERS = frozenset("abc")


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 20), min_size=1))
def test_the_committed_index_is_the_highest_that_a_majority_has(matches: dict[str, int]) -> None:
    index = committed_index(matches, lambda name: matches[name])
    assert has_majority(matches, lambda name: matches[name] >= index)
    assert not has_majority(matches, lambda name: matches[name] >= index + 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_an_election_is_won_or_lost_when_no_answer_can_change_it(size: int) -> None:
    voters = "abcde"[:size]
    for answers in product((True, False, None), repeat=size):
        votes = {name: answer for name, answer in zip(voters, answers, strict=True) if answer is not None}
        outcomes = {
            2 * sum(final) > size for final in product(*((a,) if a is not None else (True, False) for a in answers))
        }
        expected = (
            VoteResult.PENDING if len(outcomes) == 2 else (VoteResult.WON if outcomes == {True} else VoteResult.LOST)
        )
        assert vote_result(voters, votes) is expected


def test_nobody_is_no_majority() -> None:
    assert not has_majority((), lambda _: True)
    assert committed_index((), lambda _: 9) == 0


def test_progress_pipelines_until_the_limit_and_falls_back_to_probing() -> None:
    peer = Progress(10, max_inflight_bytes=100)
    peer.accepted(9)
    peer.replicate()
    peer.sent(12, 60)
    peer.sent(15, 60)
    assert (peer.next, peer.full) == (16, True)
    peer.accepted(12)
    assert not peer.full
    assert peer.rejected(15, retry_at=13)
    assert (peer.state, peer.next, peer.match) == (ProgressState.PROBE, 13, 12)
    assert not peer.rejected(15, retry_at=5)  # a late answer to the same loss
    assert peer.next == 13


def test_progress_never_goes_back_behind_what_is_durable() -> None:
    peer = Progress(100, 1000)
    peer.accepted(50)
    peer.probe(100)
    assert peer.rejected(99, retry_at=2)
    assert peer.next == 51
    assert not peer.accepted(40)
    assert peer.match == 50


def test_membership_changes_say_why_they_are_refused() -> None:
    current = Membership(VOTERS, frozenset("d"), {name: f"{name}:1" for name in "abcd"})
    for change, why in (
        (lambda: changes.add_learner(current, "a", "x:1"), "a is a member already"),
        (lambda: changes.add_learner(current, "e", "b:1"), "belongs to b"),
        (lambda: changes.add_learner(current, "e", ""), "needs a name and an address"),
        (lambda: changes.promote(current, "a"), "votes already"),
        (lambda: changes.promote(current, "z"), "not a member"),
        (lambda: changes.remove(current, "z"), "members are a, b, c, d"),
        (lambda: changes.remove(Membership(frozenset("a")), "a"), "last voter"),
    ):
        with pytest.raises(MembershipError, match=why):
            change()


def test_each_change_differs_by_at_most_one_voter() -> None:
    current = Membership(VOTERS, frozenset("d"), {name: f"{name}:1" for name in "abcd"})
    assert changes.promote(current, "d").voters == frozenset("abcd")
    removed = changes.remove(current, "b")
    assert removed.voters == frozenset("ac")
    assert "b" not in removed.addresses
    assert changes.add_learner(current, "e", "e:1").voters == VOTERS


def test_membership_history_goes_back_when_the_log_is_cut() -> None:
    first, second, third = (Membership(frozenset("abc"[:count])) for count in (1, 2, 3))
    history = changes.MembershipHistory(0, first)
    history.append(Entry(5, 1, second.encode(), EntryKind.MEMBERSHIP))
    history.append(Entry(6, 1, b"not a membership"))
    history.append(Entry(9, 1, third.encode(), EntryKind.MEMBERSHIP))
    assert (history.current, history.at(8), history.at(4)) == (third, second, first)
    assert history.truncate(7)
    assert history.current == second
    history.compact(8)
    history.truncate(1)
    assert history.current == second  # a snapshot stands for it: it cannot be cut any more


numbers = st.integers(0, 2**63)
entries = st.lists(st.builds(Entry, numbers, numbers, st.binary(max_size=20), st.sampled_from(EntryKind)), max_size=4)
head = (st.just("a"), st.just("b"), numbers)


@given(
    st.one_of(
        st.builds(m.VoteRequest, *head, numbers, numbers, st.booleans(), st.booleans()),
        st.builds(m.VoteResponse, *head, st.booleans(), st.booleans()),
        st.builds(m.Append, *head, numbers, numbers, entries.map(tuple), numbers),
        st.builds(m.AppendResponse, *head, numbers, st.booleans(), numbers, numbers),
        st.builds(m.Heartbeat, *head, numbers, numbers),
        st.builds(m.HeartbeatResponse, *head, numbers),
        st.builds(m.ReadIndex, *head, numbers),
        st.builds(m.ReadIndexResponse, *head, numbers, numbers),
        st.builds(m.TimeoutNow, *head),
    )
)
def test_every_message_arrives_as_it_was_sent(message: m.Message) -> None:
    carried = wire.pb.Message.FromString(wire.encode(message).SerializeToString())
    assert wire.decode(carried, "a", "b") == message


def test_a_snapshots_announcement_arrives_as_it_was_sent() -> None:
    meta = m.SnapshotMeta(7, 3, Membership(VOTERS, frozenset("d"), {"a": "a:1"}, "id"))
    message = m.InstallSnapshot("a", "b", 4, meta)
    assert wire.decode_header(wire.encode_header(message, "id"), "b") == message


def test_a_message_from_the_future_is_refused_not_misread() -> None:
    with pytest.raises(wire.UnknownMessageError):
        wire.decode(wire.pb.Message(term=1), "a", "b")
