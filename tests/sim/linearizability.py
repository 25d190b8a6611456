"""Whether a recorded history could have come from one register per key that does one thing at a time.

The search is Wing and Gong's with Lowe's memory: go through the calls in the order of their beginning, take any that began
before the first one still missing had ended, apply it to the model, and go back when nothing fits. A configuration (which
calls are taken, which state that gave) that failed once is not looked at again. Keys are independent, so each has its own
search; within a key the calls under way at once are few, and so is what has to be tried.

A call whose outcome the caller never learned has no end: it may take effect at any later time, or never. A call that the
path may have carried out more than once (`repeats`) may take effect again, as often as that, at any time after it began.

The model is what the API promises of one object: created once, changed only as found or blindly, deleted by identity. Every
write carries a value of its own, so a read tells exactly which write it saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = str
State = tuple[Value, Value] | None  # what created the object, what wrote it last; None: there is none
Kind = Literal["create", "read", "update", "patch", "delete"]
Outcome = Literal["ok", "exists", "missing", "conflict", "unknown"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one key, as its caller saw it.

    Attributes:
    value: what a create, update or patch writes, unlike any other value.
    expect: update: the state that it was made from; delete: (what created the object, anything).
    found: what a read answered.
    start, end: when it began and was answered, on one clock; end is infinite when it was not.
    repeats: how many more times than once it may have been carried out.
    """

    key: str
    kind: Kind
    outcome: Outcome
    start: float
    end: float = math.inf
    value: Value = ""
    expect: State = None
    found: State = None
    process: str = ""
    repeats: int = 0

    def __str__(self) -> str:
        what = {"read": f" -> {self.found}", "update": f" {self.expect} -> {self.value}"}.get(
            self.kind, f" {self.value}"
        )
        if self.kind == "delete":
            what = f" of {self.expect and self.expect[0]}"
        return f"[{self.start:9.1f} … {self.end:9.1f}] {self.process} {self.kind} {self.key}{what}: {self.outcome}"


@dataclass(slots=True)
class History:
    """Calls, recorded as they end."""

    calls: list[Call] = field(default_factory=list)

    def check(self) -> str:
        """Say what cannot be explained; empty: nothing."""
        keys: dict[str, list[Call]] = {}
        for call in self.calls:
            keys.setdefault(call.key, []).append(call)
        for key in sorted(keys):
            problem = explain(keys[key])
            if problem:
                return problem
        return ""


IMPOSSIBLE: tuple[Literal[False], None] = (False, None)
Step = tuple[bool, State]


def step(state: State, call: Call) -> Step:
    """Whether the call could have been answered as it was in `state`, and the state after it."""
    if call.outcome in ("exists", "missing", "conflict"):
        expected = (call.expect or ("", ""))[0] if call.kind == "delete" else call.expect
        fits = {
            "exists": state is not None,
            "missing": state is None,
            "conflict": state != expected if call.kind != "delete" else state is not None and state[0] != expected,
        }
        return fits[call.outcome], state
    match call.kind:
        case "read":
            return call.found == state, state
        case "create":
            return state is None, (call.value, call.value)
        case "update":
            return state is not None and state == call.expect, (state[0] if state else "", call.value)
        case "patch":
            return (True, (state[0], call.value)) if state is not None else IMPOSSIBLE
        case "delete":
            # Gone already is as good: a deletion that is repeated on the way finds its own work.
            return state is None or (call.expect is not None and state[0] == call.expect[0]), None
    raise AssertionError(call.kind)


def linearizable(calls: Sequence[Call], initial: State = None) -> bool:
    """Whether the calls on one key can be put into an order that explains every answer."""
    return _search(calls, initial)[0]


def _search(calls: Sequence[Call], initial: State) -> tuple[bool, int]:
    """Also answers how many calls, counted from the earliest end, could be explained at best."""
    begun = sorted(_with_repeats(calls), key=lambda call: (call.start, call.end))
    required = 0
    for position, call in enumerate(begun):
        if call.end != math.inf:
            required |= 1 << position
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, initial)]
    best = 0
    while stack:
        taken, state = stack.pop()
        if taken & required == required:
            return True, len(begun)
        if (taken, state) in seen:
            continue
        seen.add((taken, state))
        best = max(best, (taken & required).bit_count())
        first_end = math.inf  # of those not taken: who began after it cannot come before it
        candidates: list[int] = []
        for position, call in enumerate(begun):
            if call.start > first_end:
                break
            if not taken >> position & 1:
                candidates.append(position)
                first_end = min(first_end, call.end)
        following: list[tuple[float, int, State]] = []
        for position in candidates:
            if begun[position].start <= first_end:
                fits, after = step(state, begun[position])
                if fits and after == state and required >> position & 1:
                    following = [
                        (0.0, position, state)
                    ]  # it changes nothing: if it may come now, it need not come later
                    break
                if fits and after != state:
                    following.append((begun[position].end, position, after))
        # Those that ended first are tried first, those that never did last: mostly that is how it was.
        following.sort(key=lambda found: found[0], reverse=True)
        stack += [(taken | 1 << position, after) for _, position, after in following]
    return False, best


def _with_repeats(calls: Iterable[Call]) -> Iterable[Call]:
    for call in calls:
        if call.kind == "read" and call.outcome == "unknown":
            continue  # an unanswered read says nothing
        yield call
        for _ in range(call.repeats):
            yield Call(call.key, call.kind, "unknown", call.start, value=call.value, expect=call.expect)


def explain(calls: Sequence[Call]) -> str:
    """Empty when the calls on one key are linearizable; else the shortest beginning of the history that is not."""
    if linearizable(calls):
        return ""
    ends = sorted(call.end for call in calls if call.end != math.inf)
    low, high = 0, len(ends) - 1
    while low < high:  # the beginning of a history that is linearizable is linearizable
        middle = (low + high) // 2
        if linearizable(_until(calls, ends[middle])):
            low = middle + 1
        else:
            high = middle
    shortest = sorted(_until(calls, ends[low]), key=lambda call: call.start)
    told = "\n".join(f"  {call}" for call in shortest[-25:])
    return f"no order of the calls on {calls[0].key} explains their answers; the last of them:\n{told}"


def _until(calls: Sequence[Call], moment: float) -> list[Call]:
    """What was known at a moment: calls that had not ended then had no outcome yet."""
    known = []
    for call in calls:
        if call.end <= moment:
            known.append(call)
        elif call.start <= moment and call.outcome in ("ok", "unknown") and call.kind != "read":
            known.append(
                Call(
                    call.key,
                    call.kind,
                    "unknown",
                    call.start,
                    math.inf,
                    call.value,
                    call.expect,
                    None,
                    call.process,
                    call.repeats,
                )
            )
    return known
