"""The core's promises, section by section of the Raft paper (§5, §7) and of the dissertation (the others)."""

from __future__ import annotations

import pytest

from control.raft import membership as changes
from control.raft.core import Core, ReadState, Role
from control.raft.interface import BusyError, MembershipError, NotLeaderError
from control.raft.log import LostEntriesError
from control.raft.messages import (
    Append,
    AppendResponse,
    EntryKind,
    Heartbeat,
    InstallSnapshot,
    SnapshotMeta,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from control.raft.quorum import committed_index
from control.raft.tracker import ProgressState
from tests.unit.control.raft.harness import Fabric, entries, membership, readdressed, stored


def hand(core: Core, batch_of: str = "") -> tuple[list[object], list[object]]:
    """The messages that a core would send now, and those that wait for its disk."""
    ready = core.ready()
    return list(ready.messages), list(ready.batch.messages if ready.batch else ())


# --- §5.1, §5.2: terms and elections


def test_5_1_a_leader_that_hears_of_a_newer_term_steps_down() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.step(AppendResponse("b", "a", leader.term + 3, 0, rejected=True))
    assert (leader.role, leader.term, leader.leader) == (Role.FOLLOWER, 4, "")
    with pytest.raises(NotLeaderError):
        leader.propose([b"x"])


def test_5_2_one_leader_comes_from_silence_and_stays() -> None:
    net = Fabric(5)
    net.until(lambda: len(net.leaders()) == 1)
    first, term = net.leaders()[0], net[net.leaders()[0]].term
    net.tick(200)
    assert net.leaders() == [first]
    assert net[first].term == term


def test_5_2_a_vote_is_given_once_in_a_term() -> None:
    net = Fabric()
    voter = net["c"]
    voter.step(VoteRequest("a", "c", 1, 0, 0))
    voter.step(VoteRequest("b", "c", 1, 0, 0))
    _, waiting = hand(voter)
    assert waiting == [VoteResponse("c", "a", 1, granted=True), VoteResponse("c", "b", 1, granted=False)]


def test_5_2_a_vote_survives_a_restart() -> None:
    voter = Fabric(3, {"c": stored("abc", term=1, vote="a")})["c"]
    voter.step(VoteRequest("b", "c", 1, 0, 0))
    voter.step(VoteRequest("a", "c", 1, 0, 0))
    now, _ = hand(voter)
    assert [message.granted for message in now if isinstance(message, VoteResponse)] == [False, True]


def test_figure_2_votes_are_durable_before_they_are_answered_or_counted() -> None:
    net = Fabric(1)
    alone = net["a"]
    alone.campaign()
    ready = alone.ready()
    assert alone.role is Role.CANDIDATE  # its own vote is not on the disk yet
    assert ready.batch is not None
    assert (ready.batch.hard_state.term, ready.batch.hard_state.vote) == (1, "a")
    alone.advance(ready.batch)
    assert alone.role is Role.LEADER

    candidate = Fabric()["a"]
    candidate.campaign()
    hand(candidate)
    candidate.step(VoteResponse("b", "a", 1, granted=True, pre=True))
    now, waiting = hand(candidate)
    assert now == []
    assert {type(message) for message in waiting} == {VoteRequest}


# --- §5.3: replication


def test_5_3_entries_reach_every_member_and_are_applied_in_order() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.propose([b"one", b"two"])
    leader.propose([b"three"])
    net.settle()
    assert [net.commands(name) for name in "abc"] == [[b"one", b"two", b"three"]] * 3


def test_5_3_acknowledgements_wait_for_the_disk() -> None:
    net = Fabric()
    net.elect("a")
    follower = net["b"]
    last, term = follower.log.last_index, follower.term
    follower.step(Append("a", "b", term, last, term, (entries(term, term, term)[2],)[:0], 0))
    now, _ = hand(follower)
    assert now == [AppendResponse("b", "a", term, last)]  # nothing new: nothing to wait for
    net["a"].propose([b"x"])
    append = next(message for message in net["a"].ready().messages if message.to == "b")
    follower.step(append)
    ready = follower.ready()
    assert ready.messages == ()
    assert ready.batch is not None
    assert ready.batch.messages == (AppendResponse("b", "a", term, last + 1),)


def test_5_3_many_appends_waiting_for_one_write_are_acknowledged_once() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.slow.add("b")
    first = leader.log.last_index + 1
    for number in range(10):
        leader.propose([b"%d" % number])
        net.drain("a")
        net.deliver()
        net.drain("b")  # the first is being written; the rest gathers
    net.write("b")
    net.drain("b")
    net.write("b")
    answers = [message for message in net.in_flight if isinstance(message, AppendResponse)]
    assert [answer.index for answer in answers] == [first, first + 9]


@pytest.mark.parametrize(
    "follower",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),  # (a) to (f) of figure 7: entries missing, too many, or both
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
)
def test_5_3_figure_7_a_leader_makes_any_follower_agree(follower: tuple[int, ...]) -> None:
    leader_terms = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    net = Fabric(
        3, {"a": stored("abc", *leader_terms), "b": stored("abc", *follower), "c": stored("abc", *leader_terms)}
    )
    net["a"].term = net["c"].term = 7
    net.elect("a")
    net.tick(3)
    assert net.terms("b") == [*leader_terms, 8]
    refusals = sum("refused=" in line and line.startswith("b ") for line in net.lines)
    assert refusals <= 3  # one round trip for each term that differs, not for each entry


def test_5_3_a_lost_append_is_sent_again() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.cut.add(("a", "b"))
    leader.propose([b"lost"])
    net.settle()
    net.heal()
    leader.propose([b"next"])
    net.settle()
    assert net.commands("b") == [b"lost", b"next"]


def test_5_3_the_last_append_lost_is_found_out_by_heartbeats() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.cut.add(("a", "b"))
    leader.propose([b"lost"])
    net.settle()
    net.heal()
    net.tick(4)
    assert net.commands("b") == [b"lost"]


# --- §5.4: safety


def test_5_4_1_nobody_votes_for_a_log_that_is_behind() -> None:
    voter = Fabric(3, {"c": stored("abc", 1, 2, 2)})["c"]
    for last_index, last_term, granted in ((9, 1, False), (2, 2, False), (3, 2, True)):
        voter.step(VoteRequest("a", "c", 5, last_index, last_term))
        _, waiting = hand(voter)
        voter._in_flight = False
        assert isinstance(waiting[0] if waiting else None, VoteResponse) or not granted
        if waiting:
            assert waiting[0].granted is granted  # type: ignore[attr-defined]


class EagerCore(Core):
    """Commits whatever a majority holds."""

    def _maybe_commit(self) -> None:
        self.log.commit_to(max(self.log.commit, committed_index(self.membership.voters, self._match)))


def figure_8(core: type[Core]) -> Fabric:
    """Figure 8 of the paper up to (c): `a` leads term 4 and has just copied its entry of term 2 to a majority."""
    logs = {name: stored("abcde", 1) for name in "abcde"}
    logs["a"] = stored("abcde", 1, 2)
    logs["b"] = stored("abcde", 1, 2)
    logs["e"] = stored("abcde", 1, 3)
    net = Fabric(5, logs, core, max_append_bytes=1)  # one entry in a message
    for member in net.cores.values():
        member.term = 3
    net.isolate("a", "b", "c")
    net["a"].campaign()
    for _ in range(4):  # pre-vote, vote
        for name in "abc":
            net.drain(name)
        net.deliver()
    assert net["a"].role is Role.LEADER
    for _ in range(20):
        for name in "abc":
            net.drain(name)
        # entries of term 4 stay on the leader: only the old one spreads
        net.in_flight = [
            readdressed(message, entries=tuple(entry for entry in message.entries if entry.term != 4))
            if isinstance(message, Append)
            else message
            for message in net.in_flight
        ]
        net.deliver()
    assert net.terms("c")[:2] == [1, 2]
    return net


def overwritten_in_figure_8(core: type[Core]) -> bool:
    """Part (d): `e` is elected by those that `a` cannot reach. Whether it lacks what `a` has committed."""
    net = figure_8(core)
    net.heal()
    net.isolate("c", "d", "e")
    net.in_flight.clear()
    net["e"].term = 4  # has heard of a's term
    net["e"].step(TimeoutNow("e", "e", 4))
    net.settle()
    assert net["e"].role is Role.LEADER
    return any(net["e"].log.term(index) != net["a"].log.term(index) for index in range(1, net["a"].log.commit + 1))


def test_5_4_2_figure_8_an_older_terms_entry_is_not_committed_by_counting() -> None:
    assert not overwritten_in_figure_8(Core)


def test_5_4_2_figure_8_finds_a_core_that_does_it() -> None:
    assert overwritten_in_figure_8(EagerCore)


def test_a_member_whose_disk_lost_what_it_acknowledged_refuses_to_go_on() -> None:
    net = Fabric()
    net.elect("a")
    with pytest.raises(LostEntriesError, match="acknowledged here, but the log ends at"):
        net["b"].step(Heartbeat("a", "b", net["a"].term, 99))


# --- §7: snapshots


def test_7_a_member_too_far_behind_gets_a_snapshot_and_then_the_log() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("c")
    leader.propose([b"%d" % number for number in range(20)])
    net.settle()
    meta = SnapshotMeta(leader.log.applied, leader.term, leader.membership)
    leader.compact(meta, meta.index)
    leader.propose([b"after"])
    net.heal()
    net.tick(6)
    assert any(isinstance(message, InstallSnapshot) for message in net.lost) or any(
        "InstallSnapshot" in line for line in net.lines
    )
    assert net["c"].log.offset == meta.index
    assert net.commands("c") == [b"after"]


def test_7_a_snapshot_is_acknowledged_only_when_it_is_durable() -> None:
    net = Fabric()
    follower = net["b"]
    meta = SnapshotMeta(10, 1, membership("abc"))
    follower.step(InstallSnapshot("a", "b", 1, meta, "file"))
    follower.step(Append("a", "b", 1, 10, 1, (), 10))  # asks whether they agree at 10: only in memory yet
    now, waiting = hand(follower)
    assert now == []
    assert waiting == [AppendResponse("b", "a", 1, 10)]


def test_7_a_snapshot_of_what_is_there_already_changes_nothing() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.propose([b"x", b"y"])
    net.settle()
    follower, before = net["b"], net.terms("b")
    follower.step(InstallSnapshot("a", "b", leader.term, SnapshotMeta(2, 1, leader.membership)))
    net.settle()
    assert net.terms("b") == before
    assert follower.log.offset == 0


# --- dissertation §3.10: leadership transfer


def test_3_10_leadership_moves_without_an_election_time_out() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.propose([b"x"])
    leader.transfer("c")
    with pytest.raises(NotLeaderError, match="handing leadership over to c"):
        leader.propose([b"y"])
    net.settle()
    assert net.leaders() == ["c"]
    assert net.commands("c") == [b"x"]


def test_3_10_a_transfer_to_a_member_that_is_away_is_given_up() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("c")
    leader.propose([b"x"])
    leader.transfer("c")
    net.tick(12)
    assert leader.role is Role.LEADER
    leader.propose([b"y"])
    with pytest.raises(MembershipError, match="not another voter"):
        leader.transfer("nobody")


# --- §4: membership changes


def test_4_1_a_membership_is_in_force_as_soon_as_it_is_in_the_log_and_goes_with_it() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("a")
    leader.change_membership(lambda current: changes.remove(current, "c"))
    net.settle()
    assert leader.membership.names == ["a", "b"]
    net.until(lambda: any(name in "bc" for name in net.leaders()))
    net.heal()
    net.tick(6)
    assert net["a"].membership.names == ["a", "b", "c"]


def test_4_1_one_change_at_a_time() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("a")
    leader.change_membership(lambda current: changes.add_learner(current, "d", "d:1"))
    with pytest.raises(MembershipError, match="previous change"):
        leader.change_membership(lambda current: changes.remove(current, "c"))


def test_4_1_no_change_before_the_leader_has_committed_in_its_term() -> None:
    net = Fabric()
    net["a"].campaign()
    for _ in range(4):
        for name in "abc":
            net.drain(name)
        net.deliver()
    leader = net["a"]
    assert leader.role is Role.LEADER
    with pytest.raises(MembershipError, match="has not committed an entry of its term"):
        leader.change_membership(lambda current: changes.remove(current, "c"))
    net.settle()
    leader.change_membership(lambda current: changes.remove(current, "c"))


def test_4_2_1_a_learner_receives_the_log_without_counting_and_may_vote_when_caught_up() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.propose([b"%d" % number for number in range(2000)])
    net.settle()
    leader.change_membership(lambda current: changes.add_learner(current, "d", "d:1"))
    net.settle()
    with pytest.raises(MembershipError, match="entries behind"):
        leader.change_membership(lambda current: changes.promote(current, "d"))
    net.add("d", stored(()))
    net.tick(4)
    assert len(net.commands("d")) == 2000
    net["d"].campaign()
    assert net["d"].role is Role.FOLLOWER
    leader.change_membership(lambda current: changes.promote(current, "d"))
    net.settle()
    assert net["d"].is_voter
    assert net["b"].membership.voters == frozenset("abcd")


def test_4_2_2_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.slow |= {"b", "c"}
    leader.change_membership(lambda current: changes.remove(current, "a"))
    net.settle()
    assert leader.role is Role.LEADER
    net.slow.clear()
    for name in "bc":
        net.write(name)
    net.settle()
    assert leader.role is Role.FOLLOWER
    net.until(lambda: bool(net.leaders()))
    assert net.leaders()[0] in "bc"
    net.tick(100, "a")
    assert net["a"].role is Role.FOLLOWER  # not a voter: it never stands again


def test_4_2_3_a_removed_member_cannot_disturb() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.cut |= {("a", "c"), ("b", "c")}  # c will not learn of its removal
    leader.change_membership(lambda current: changes.remove(current, "c"))
    net.settle()
    term = leader.term
    net.tick(100)
    assert net.leaders() == ["a"]
    assert leader.term == term


# --- §6: clients


def test_6_2_a_leader_without_a_majority_steps_down() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("a")
    net.tick(2 * leader.config.election_ticks + 1, "a")
    assert leader.role is Role.FOLLOWER


def test_6_4_reads_share_one_confirmation_and_see_what_was_committed() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.propose([b"x"])
    net.settle()
    net.lines.clear()
    for context in range(50):
        leader.read_index(context)
    net["b"].read_index(99)
    net.settle()
    commit = leader.log.commit
    assert net.reads["a"] == [ReadState(context, commit) for context in range(50)]
    assert net.reads["b"] == [ReadState(99, commit)]
    assert sum(" Heartbeat " in line for line in net.lines) <= 4  # two rounds to two followers


def test_6_4_a_new_leader_answers_reads_only_when_it_has_committed_in_its_term() -> None:
    net = Fabric(3, {name: stored("abc", 1) for name in "abc"})
    net["a"].campaign()
    for _ in range(4):
        for name in "abc":
            net.drain(name)
        net.deliver()
    leader = net["a"]
    assert leader.role is Role.LEADER
    leader.read_index(1)
    net.isolate("a")
    net.settle()
    assert net.reads["a"] == []
    net.heal()
    net.tick(4)
    assert net.reads["a"] == [ReadState(1, leader.log.commit)]


def test_6_4_a_leader_that_was_replaced_without_knowing_answers_no_read() -> None:
    net = Fabric()
    old = net.elect("a")
    net.isolate("a")
    net.until(lambda: any(name in "bc" for name in net.leaders()))
    old_role = old.role
    old.read_index(7)
    net.tick(8)
    assert net.reads["a"] == []
    assert old_role in (Role.LEADER, Role.FOLLOWER)


# --- §9.6: pre-vote


def test_9_6_a_member_that_was_cut_off_comes_back_without_disturbing() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.isolate("c")
    net.tick(100)
    assert net["c"].term == leader.term  # asked in vain, and counted no term up
    net.heal()
    net.tick(30)
    assert net.leaders() == ["a"]
    assert net["c"].leader == "a"


def test_9_6_a_member_stuck_in_a_newer_term_gets_in_again() -> None:
    net = Fabric()
    net.elect("a")
    net.isolate("c")
    net["c"].step(TimeoutNow("a", "c", net["c"].term))  # stands for a term that nobody hears of
    net.settle()
    assert net["c"].term > net["a"].term
    net.heal()
    net.until(lambda: len({core.term for core in net.cores.values()}) == 1 and bool(net.leaders()))


# --- §10.2.1 and flow control


def test_10_2_1_a_leader_sends_while_it_writes_and_may_commit_by_the_others_disks() -> None:
    net = Fabric()
    leader = net.elect("a")
    net.slow.add("a")
    leader.propose([b"x"])
    for _ in range(6):
        for name in "abc":
            net.drain(name)
        net.deliver()
    assert leader.log.commit == leader.log.last_index
    assert net.commands("a") == []  # applied here only when it is durable here
    net.slow.clear()
    net.write("a")
    net.settle()
    assert net.commands("a") == [b"x"]


def test_flow_control_bounds_what_is_under_way_to_a_peer() -> None:
    net = Fabric(max_append_bytes=1000, max_inflight_bytes=4000)
    leader = net.elect("a")
    net.slow.add("b")
    leader.propose([bytes(468)] * 100)
    net.drain("a")
    sent = [message for message in net.in_flight if isinstance(message, Append) and message.to == "b"]
    assert sum(len(message.entries) for message in sent) == 8  # 500 bytes each with overhead: 4000 under way
    assert leader.progress["b"].full
    net.slow.clear()
    net.settle()
    assert leader.progress["b"].match == leader.log.last_index


def test_flow_control_refuses_proposals_when_too_much_is_uncommitted() -> None:
    net = Fabric(max_uncommitted_bytes=1000)
    leader = net.elect("a")
    net.isolate("a")
    leader.propose([bytes(900)])
    with pytest.raises(BusyError, match="wait to be committed"):
        leader.propose([bytes(900)])
    net.heal()
    net.tick(4)
    leader.propose([bytes(900)])


def test_an_unreachable_peer_is_probed_not_flooded() -> None:
    net = Fabric()
    leader = net.elect("a")
    leader.report_unreachable("b")
    leader.propose([b"x"])
    net.drain("a")
    assert not any(isinstance(message, Append) and message.to == "b" for message in net.in_flight)
    assert leader.progress["b"].state is ProgressState.PROBE
    net.tick(3)
    assert net.commands("b") == [b"x"]


def test_a_resigning_leader_hands_over_at_once() -> None:
    net = Fabric()
    net.elect("a").resign()
    net.settle()
    assert len(net.leaders()) == 1
    assert net.leaders() != ["a"]


def test_the_empty_entry_of_a_term_is_not_a_command() -> None:
    net = Fabric()
    net.elect("a")
    assert [entry.kind for entry in net.applied["b"]] == [EntryKind.EMPTY]
