"""The fault run notices a broken promise when there is one: each of these stories has a lie in it."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from steersman.v1 import objects_pb2 as pb
from tests.integration.faults.clients import BrokenPromiseError, Watcher, Writer
from tests.integration.faults.hosts import Site
from tests.integration.faults.run import Run
from tests.sim.linearizability import Call


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Site("stnone", tmp_path), 1.0, 1)


@pytest.fixture
def watcher(run: Run) -> Watcher:
    found = Watcher("v", None, run.story)  # type: ignore[arg-type]
    found.revision = found.began_at = 10
    return found


def writer(run: Run) -> Writer:
    return Writer("w", None, run.history, run.now, random.Random(1))  # type: ignore[arg-type]


def event(kind: pb.WatchEvent.Kind.ValueType, name: str, revision: int, value: str) -> pb.WatchEvent:
    body = msgspec.json.encode({"data": {"value": value}})
    return pb.WatchEvent(kind=kind, object=pb.Object(name=name, revision=revision, json=body))


def test_a_true_story_passes(run, watcher):
    watcher._take(event(pb.WatchEvent.ADDED, "k", 11, "a"))
    watcher.revision = 11
    one = writer(run)
    one.acknowledged[11] = ("k", "a")
    run.history.calls += [
        Call("k", "create", "ok", 0.0, 1.0, "a"),
        Call("k", "read", "ok", 2.0, 3.0, found=("a", "a")),
    ]
    run.check([one], [watcher])


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ([(pb.WatchEvent.ADDED, "k", 11, "a"), (pb.WatchEvent.MODIFIED, "k", 11, "a")], "twice, or late"),
        ([(pb.WatchEvent.ADDED, "k", 9, "a")], "twice, or late"),
        ([(pb.WatchEvent.MODIFIED, "k", 11, "a")], "which it did not know"),
        ([(pb.WatchEvent.ADDED, "k", 12, "b")], "others"),
    ],
)
def test_a_watch_that_repeats_invents_or_contradicts_is_noticed(run, watcher, events, broken):
    run.story[12] = ("k", "a", False)
    *before, last = (event(*one) for one in events)
    for one in before:
        watcher._take(one)
    with pytest.raises(BrokenPromiseError, match=broken):
        watcher._take(last)


def test_a_watch_that_misses_what_others_were_told_is_noticed(run, watcher):
    run.story[11] = ("k", "a", False)
    watcher.revision = 12
    with pytest.raises(BrokenPromiseError, match="was not told of"):
        run.check([], [watcher])


def test_an_acknowledged_write_that_nobody_was_told_of_is_noticed(run, watcher):
    watcher.revision = 12
    one = writer(run)
    one.acknowledged[11] = ("k", "a")
    with pytest.raises(BrokenPromiseError, match="no watcher was told of it"):
        run.check([one], [watcher])


def test_a_stale_read_is_noticed(run):
    run.history.calls += [
        Call("k", "create", "ok", 0.0, 1.0, "a"),
        Call("k", "update", "ok", 2.0, 3.0, "b", ("a", "a")),
        Call("k", "read", "ok", 4.0, 5.0, found=("a", "a")),
    ]
    with pytest.raises(BrokenPromiseError, match="no order of the calls"):
        run.check([], [])
