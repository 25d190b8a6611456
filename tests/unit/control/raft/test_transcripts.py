"""Whole conversations, as text files that people can read and reviewers can compare.

After an intended change, write them anew with `STEERSMAN_WRITE_TRANSCRIPTS=1` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control.raft import membership as changes
from tests.unit.control.raft.harness import Fabric, stored

FOLDER = Path(__file__).parent / "transcripts"


def election() -> Fabric:
    """Three fresh members; `a` stands, wins, and commits the first entry of its term."""
    net = Fabric()
    net.note("# a asks whether it could win, stands, wins, and commits its empty entry")
    net.elect("a")
    net.note("# a client's write")
    net["a"].propose([b"set x"])
    net.settle()
    net.note("# two heartbeats later")
    net.tick(2)
    return net


def log_repair() -> Fabric:
    """A follower has entries of a leader that died before they were committed; another lacks some."""
    logs = {"a": stored("abc", 1, 1, 2, 2), "b": stored("abc", 1, 1, 1, 1, 1), "c": stored("abc", 1)}
    net = Fabric(3, logs)
    for core in net.cores.values():
        core.term = 2
    net.note("# b has three entries that nobody else has; c lacks three")
    net.elect("a")
    return net


def membership_change() -> Fabric:
    """A member joins as a learner, catches up, votes; another is removed."""
    net = Fabric()
    leader = net.elect("a")
    net.lines.clear()
    net.note("# d joins as a learner")
    net.add("d", stored(()))
    leader.change_membership(lambda current: changes.add_learner(current, "d", "d:1"))
    net.settle()
    net.note("# d has caught up and may vote")
    leader.change_membership(lambda current: changes.promote(current, "d"))
    net.settle()
    net.note("# b leaves")
    leader.change_membership(lambda current: changes.remove(current, "b"))
    net.settle()
    return net


@pytest.mark.parametrize("scene", [election, log_repair, membership_change], ids=lambda scene: scene.__name__)
def test_transcript(scene: type[Fabric]) -> None:
    text = f"{scene.__doc__}\n\n" + "\n".join(scene().lines) + "\n"
    path = FOLDER / f"{scene.__name__}.txt"
    if os.environ.get("STEERSMAN_WRITE_TRANSCRIPTS"):
        path.write_text(text)
    assert text == path.read_text()
