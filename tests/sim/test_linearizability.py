"""The checker accepts what one register could have done, and nothing else."""

from __future__ import annotations

import math
import random

import pytest

from tests.sim.linearizability import Call, History, State, explain, linearizable, step


def create(value: str, start: float, end: float = math.inf, outcome: str = "ok") -> Call:
    return Call("k", "create", outcome if end != math.inf else "unknown", start, end, value)  # type: ignore[arg-type]


def patch(value: str, start: float, end: float = math.inf, repeats: int = 0) -> Call:
    return Call("k", "patch", "ok" if end != math.inf else "unknown", start, end, value, repeats=repeats)


def read(found: State, start: float, end: float) -> Call:
    return Call("k", "read", "ok", start, end, found=found)


def update(expect: State, value: str, start: float, end: float = math.inf, outcome: str = "ok") -> Call:
    return Call("k", "update", outcome if end != math.inf else "unknown", start, end, value, expect)  # type: ignore[arg-type]


def delete(born: str, start: float, end: float = math.inf, outcome: str = "ok") -> Call:
    return Call("k", "delete", outcome if end != math.inf else "unknown", start, end, expect=(born, ""))  # type: ignore[arg-type]


AA, AB, AC = ("a", "a"), ("a", "b"), ("a", "c")
GOOD: dict[str, list[Call]] = {
    "nothing": [],
    "one after the other": [create("a", 0, 1), read(AA, 2, 3), update(AA, "b", 4, 5), read(AB, 6, 7)],
    "a read beside a write sees either": [create("a", 0, 1), patch("b", 2, 9), read(AA, 3, 4), read(AB, 5, 6)],
    "a lost write that took effect later": [create("a", 0, 1), patch("b", 2), read(AA, 3, 4), read(AB, 5, 6)],
    "a lost write that never did": [create("a", 0, 1), patch("b", 2), read(AA, 3, 4), read(AA, 50, 60)],
    "one of two updates from the same state wins": [
        create("a", 0, 1), update(AA, "b", 2, 5), update(AA, "c", 2, 5, "conflict"), read(AB, 6, 7),
    ],
    "two creations, one refused": [create("a", 0, 3), create("b", 0, 3, "exists"), read(AA, 4, 5)],
    "made anew after a deletion": [create("a", 0, 1), delete("a", 2, 3), read(None, 4, 5), create("b", 6, 7), read(("b", "b"), 8, 9)],
    "the deletion of another is refused": [create("a", 0, 1), delete("x", 2, 3, "conflict"), read(AA, 4, 5)],
    "carried out twice": [create("a", 0, 1), patch("b", 2, 3, 1), patch("c", 4, 5), read(AC, 6, 7), read(AB, 8, 9)],
}  # fmt: skip
BAD: dict[str, list[Call]] = {
    "a stale read": [create("a", 0, 1), patch("b", 2, 3), read(AA, 4, 5)],
    "a write that vanished": [create("a", 0, 1), patch("b", 2, 3), read(AB, 4, 5), read(AA, 6, 7)],
    "two reads that see a write come and go": [create("a", 0, 1), patch("b", 2, 9), read(AB, 3, 4), read(AA, 5, 6)],
    "a value that nobody wrote": [create("a", 0, 1), read(("a", "z"), 2, 3)],
    "both of two updates from the same state": [create("a", 0, 1), update(AA, "b", 2, 5), update(AA, "c", 2, 5)],
    "created twice": [create("a", 0, 1), create("b", 2, 3)],
    "deleted and still there": [create("a", 0, 1), delete("a", 2, 3), read(AA, 4, 5)],
    "missing though created": [create("a", 0, 1), read(None, 2, 3)],
    "a write that took effect before it began": [create("a", 0, 1), read(AB, 2, 3), patch("b", 4, 5)],
    "a conflict with nobody": [create("a", 0, 1), update(AA, "b", 2, 3, "conflict")],
    "a lost write that took effect twice": [create("a", 0, 1), patch("b", 2), patch("c", 4, 5), read(AB, 6, 7), read(AC, 8, 9), read(AB, 10, 11)],
}  # fmt: skip


@pytest.mark.parametrize("calls", GOOD.values(), ids=GOOD)
def test_what_one_register_can_do_is_accepted(calls: list[Call]) -> None:
    assert explain(calls) == ""


@pytest.mark.parametrize("calls", BAD.values(), ids=BAD)
def test_what_no_register_can_do_is_refused(calls: list[Call]) -> None:
    assert not linearizable(calls)
    assert "explains their answers" in explain(calls)


def made_up(dice: random.Random, count: int) -> list[Call]:
    """What clients of a real register would record: every call takes effect at some moment between its ends."""
    moments = sorted(dice.uniform(0, count) for _ in range(count))
    state: State = None
    calls = []
    for number, moment in enumerate(moments):
        start, end = moment - dice.expovariate(0.5), moment + dice.expovariate(0.5)
        call = dice.choice((create(f"v{number}", start, end), patch(f"v{number}", start, end), read(state, start, end)))
        fits, after = step(state, call)
        if not fits:
            outcome = "exists" if call.kind == "create" else "missing"
            call = Call("k", call.kind, outcome, start, end, call.value)
        else:
            state = after
        lost = fits and call.kind != "read" and dice.random() < 0.1
        calls.append(Call("k", call.kind, "unknown", start, value=call.value) if lost else call)
    return calls


def test_every_history_of_a_real_register_is_accepted_and_spoilt_ones_are_mostly_refused() -> None:
    refused = 0
    for seed in range(150):
        dice = random.Random(seed)
        calls = made_up(dice, 40)
        assert linearizable(calls), seed
        reads = [at for at, call in enumerate(calls) if call.kind == "read" and call.found is not None]
        if reads:  # a read that sees what was overwritten long ago
            at = dice.choice(reads)
            calls[at] = read(("v0", "never"), calls[at].start, calls[at].end)
            refused += not linearizable(calls)
    assert refused > 100


def test_keys_are_independent_and_the_broken_one_is_named() -> None:
    history = History([*GOOD["one after the other"], Call("other", "read", "ok", 0, 1, found=("x", "x"))])
    assert "calls on other" in history.check()
