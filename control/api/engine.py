"""How writes reach the log: plan on the newest state, commit with expectations, plan again when the state moved on.

A `Write` plans: it reads the present state and answers a `Plan`, the operations to commit and how to answer when they
are. Every operation expects the revision that the plan saw, so a plan made on an old state is never applied; it is made
again, unless the conflict is the caller's to solve (a stale resourceVersion). Many writes share one trip through the
log; those that touch the same keys take turns, in order.

Invariants:
- Refusals and "nothing to change" are as linearizable as writes: they are only told when a barrier confirmed that the
  state they were planned on was the newest, or after planning again on one that is.
- Without leadership nothing is planned. When leadership is lost while a commit is under way, the outcome is found out
  from the new leader's log where that can be told; where not, the caller gets Timeout, never a false answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from control.api.context import ApiContext
from control.api.errors import from_store, no_leader
from control.store.interface import (
    Cause,
    Check,
    Committed,
    Delete,
    NoLeaderError,
    Put,
    StoreError,
    Txn,
    TxnResult,
)
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb

MAX_PLANS = 16  # of one write; so many lost races in a row mean that something writes the object in a tight loop
# Refusals that depend on the request alone: no newer state would change them.
FINAL_REASONS = frozenset(
    ("BadRequest", "Forbidden", "Unauthorized", "RequestEntityTooLarge", "MethodNotAllowed", "InternalError")
)

Op = Put | Delete | Check
Outcome = pb.WriteResponse | ApiError


def _nothing() -> None:
    """Nothing was reserved."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    ops: what to commit, the object's own operation first; empty: nothing needs to be written.
    answer: makes the response; its argument is None when nothing was committed.
    release: gives back what planning reserved in memory, whatever became of the commit.
    """

    ops: tuple[Op, ...]
    answer: Callable[[Committed | None], pb.WriteResponse]
    cause: Cause = field(default_factory=Cause)
    release: Callable[[], None] = _nothing


class Keys(NamedTuple):
    """Store keys of one write: what it writes, and what it only looks at (its namespace)."""

    writes: frozenset[str]
    reads: frozenset[str] = frozenset()


class Write(ABC):
    """One write on its way."""

    @abstractmethod
    def keys(self) -> Keys:
        """What planning depends on, as far as it is known before. Raises ApiError."""

    @abstractmethod
    async def plan(self) -> Plan:
        """Decide on the newest state. Raises ApiError."""

    def stale(self) -> ApiError | None:
        """What the caller is told when the state moved on before the commit; None: plan again."""
        return None


class Engine:
    """Carries writes to the store."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def execute(self, write: Write) -> pb.WriteResponse:
        """Carry out one write. Raises ApiError."""
        (outcome,) = await self.execute_all((write,))
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome

    async def execute_all(self, writes: Sequence[Write]) -> list[Outcome]:
        """Carry out independent writes, in as few trips through the log as their keys allow; outcomes in their order."""
        run = _Run(self._context, writes)
        while run.waiting:
            await run.round()
        return run.outcomes


class _Run:
    """The rounds of one `execute_all`."""

    def __init__(self, context: ApiContext, writes: Sequence[Write]) -> None:
        self._context = context
        self._writes = writes
        self._found: dict[int, Outcome] = {}
        self._plans = [0] * len(writes)
        self._confirmed: set[int] = set()  # planned, or to be planned, on a state that a barrier confirmed
        self.waiting = list(range(len(writes)))

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._found[number] for number in range(len(self._writes))]

    async def round(self) -> None:
        """Plan every waiting write that no earlier one stands in the way of, and commit the plans together."""
        leadership = self._context.leadership
        if not leadership.is_self:
            for number in self.waiting:
                self._found[number] = no_leader(leadership.leader)
            self.waiting = []
            return
        touched: set[str] = set()
        later: list[int] = []
        plans: list[tuple[int, Plan]] = []
        doubtful: list[tuple[int, Outcome]] = []
        seen = self._context.store.revision
        try:
            for number in self.waiting:
                write = self._writes[number]
                try:
                    keys = write.keys()
                    waits = not touched.isdisjoint(keys.writes) or not touched.isdisjoint(keys.reads)
                    touched |= keys.writes
                    if waits:
                        later.append(number)
                        continue
                    self._plans[number] += 1
                    plan = await write.plan()
                except ApiError as error:
                    if error.reason in FINAL_REASONS or number in self._confirmed:
                        self._found[number] = error
                    else:
                        doubtful.append((number, error))
                    continue
                except StoreError as error:
                    self._found[number] = from_store(error)
                    continue
                if plan.ops:
                    plans.append((number, plan))
                    touched.update(op.key for op in plan.ops if not isinstance(op, Check))
                elif number in self._confirmed:
                    self._found[number] = plan.answer(None)
                else:
                    doubtful.append((number, plan.answer(None)))
            if doubtful:
                later += await self._confirm(doubtful, seen)
            if plans:
                later += await self._commit(plans)
        finally:
            for _, plan in plans:
                plan.release()
        self.waiting = sorted(later)

    async def _confirm(self, doubtful: list[tuple[int, Outcome]], seen: int) -> list[int]:
        """Settle the outcomes that wrote nothing if the state at `seen` was the newest; else answer who plans again."""
        try:
            newest = await self._context.barrier.wait()
        except StoreError as error:
            for number, _ in doubtful:
                self._found[number] = from_store(error)
            return []
        self._confirmed.update(number for number, _ in doubtful)
        if newest > seen:
            return [number for number, _ in doubtful]
        self._found.update(doubtful)
        return []

    async def _commit(self, plans: list[tuple[int, Plan]]) -> list[int]:
        """Commit the plans; answer who plans again."""
        results: Sequence[TxnResult | ApiError]
        try:
            results = await self._context.store.commit([Txn(plan.ops, plan.cause) for _, plan in plans])
        except NoLeaderError as error:
            if error.uncertain:
                results = await self._find_out([plan for _, plan in plans], error)
            else:
                results = [from_store(error)] * len(plans)
        except StoreError as error:
            results = [from_store(error)] * len(plans)
        again: list[int] = []
        for (number, plan), result in zip(plans, results, strict=True):
            if isinstance(result, Committed):
                self._found[number] = plan.answer(result)
            elif isinstance(result, ApiError):
                self._found[number] = result
            elif (problem := self._writes[number].stale()) is not None:
                self._found[number] = problem
            elif self._plans[number] >= MAX_PLANS:
                self._found[number] = ApiError(
                    "Conflict",
                    f"{result.key} changed under {MAX_PLANS} tries of this write: try again when it is quiet",
                    retry_after=1,
                )
            else:
                again.append(number)
        return again

    async def _find_out(self, plans: list[Plan], error: NoLeaderError) -> list[TxnResult | ApiError]:
        """Learn from the next leader's log whether plans were applied: after its barrier, nothing of this term can follow."""
        try:
            await self._context.barrier.wait()
        except StoreError:
            return [from_store(error)] * len(plans)
        return [await self._became_of(plan, error) for plan in plans]

    async def _became_of(self, plan: Plan, error: NoLeaderError) -> TxnResult | ApiError:
        store = self._context.store
        first = plan.ops[0]
        current = await store.get(first.key)
        at = current.mod_revision if current is not None else 0
        if at == first.expect:
            return no_leader(self._context.leadership.leader)  # it was not applied and never will be
        if isinstance(first, Put) and current is not None and current.value == _applied(first, at):
            values = []
            for op in plan.ops:
                if isinstance(op, Put):
                    kv = await store.get(op.key)
                    values.append(kv.value if kv is not None else op.value)
            return Committed(at, tuple(values))
        if isinstance(first, Delete) and current is None:
            return Committed(store.revision, ())
        return from_store(error)


def _applied(op: Put, revision: int) -> bytes:
    """The stored bytes of a put that was applied at `revision`."""
    if op.splice < 0:
        return op.value
    return b"%b%d%b" % (op.value[: op.splice], revision, op.value[op.splice :])
