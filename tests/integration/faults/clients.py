"""Writers that record what they were told, and watchers whose stories must agree.

Every value written is unlike any other, so a read tells which write it saw. What a refusal leaves open is recorded as open: a
creation that finds the name taken may find its own first try, and a deletion that finds nothing its own work.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import msgspec

from steersman.client import AsyncClient, type_of
from steersman.errors import ApiError
from steersman.v1 import objects_pb2 as pb
from tests.sim.linearizability import Call, History, Kind, Outcome, State

CALL_S = 3.0  # longer than an election, shorter than many faults
KEYS = 8
EPOCH_S = 15.0  # then other keys take their turn: the checker's work grows with the square of a key's history
EXPECTED = ("ServiceUnavailable", "Timeout", "TooManyRequests", "NotFound", "AlreadyExists", "Conflict")
Document = dict[str, Any]
Clock = Callable[[], float]


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


def state_of(document: Document | None) -> State:
    return None if document is None else (document["data"]["born"], document["data"]["value"])


class Writer:
    """One client, one call at a time."""

    def __init__(self, name: str, client: AsyncClient, history: History, now: Clock, dice: random.Random) -> None:
        self.name = name
        self.client = client
        self.history = history
        self.now = now
        self.dice = dice
        self.stopping = False
        self.acknowledged: dict[int, tuple[str, str]] = {}  # revision -> name, value
        self.outcomes: dict[str, int] = {}
        self._seen: dict[str, Document] = {}
        self._count = 0

    async def run(self) -> None:
        while not self.stopping:
            await asyncio.sleep(self.dice.uniform(0.0, 0.03))
            name = f"k{int(self.now() // EPOCH_S)}-{self.dice.randrange(KEYS)}"
            actions = [self.create, self.read]
            if name in self._seen:
                actions += [self.update, self.update, self.update, self.delete]
            await self.dice.choice(actions)(name)

    async def read(self, name: str) -> None:
        call = self._begin(name, "read")
        document: Document | None = None
        try:
            document = await self.client.get("configmaps", name, timeout=CALL_S)
        except ApiError as error:
            if error.reason != "NotFound":
                self._end(call, error)
                return
        self._end(call, found=state_of(document))
        self._note(name, document)

    async def create(self, name: str) -> None:
        call = self._begin(name, "create")
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"born": call.value, "value": call.value, "filler": "x" * 2_000},
        }
        try:
            answer = await self.client.create(body, timeout=CALL_S)
        except ApiError as error:
            self._end(call, error)
        else:
            self._end(call)
            self._written(name, answer)

    async def update(self, name: str) -> None:
        seen = self._seen[name]
        call = self._begin(name, "update", state_of(seen))
        document = {**seen, "data": {**seen["data"], "value": call.value}}
        request = pb.UpdateRequest(object=pb.Object(json=msgspec.json.encode(document)))
        try:
            answer = await self.client.transport.unary("Objects", "Update", request, timeout=CALL_S, idempotent=False)
        except ApiError as error:
            if error.reason in ("Conflict", "NotFound"):
                del self._seen[name]
            self._end(call, error)
        else:
            self._end(call)
            self._written(name, msgspec.json.decode(answer.object.json))

    async def delete(self, name: str) -> None:
        seen = self._seen.pop(name)
        call = self._begin(name, "delete", state_of(seen))
        try:
            await self.client.delete("configmaps", name, uid=seen["metadata"]["uid"], timeout=CALL_S)
        except ApiError as error:
            if error.reason == "NotFound":
                self._end(call)  # gone is gone, whoever did it
            else:
                self._end(call, error)
        else:
            self._end(call)

    def _begin(self, name: str, kind: Kind, expect: State = None) -> Call:
        self._count += 1
        return Call(
            name, kind, "unknown", self.now(), math.inf, f"{self.name}.{self._count}", expect, process=self.name
        )

    def _end(self, call: Call, error: ApiError | None = None, found: State = None) -> None:
        outcome: Outcome = "ok"
        if error is not None:
            if error.reason not in EXPECTED:
                raise BrokenPromiseError(f"{call}: {error.reason}: {error}")
            refused = {"Conflict": "conflict", "NotFound": "missing"}
            outcome = refused.get(error.reason, "unknown") if call.kind == "update" else "unknown"  # type: ignore[assignment]
        told = error.reason if error is not None else "OK"
        self.outcomes[told] = self.outcomes.get(told, 0) + 1
        end = math.inf if outcome == "unknown" else self.now()
        self.history.calls.append(dataclasses.replace(call, outcome=outcome, end=end, found=found))

    def _written(self, name: str, document: Document) -> None:
        self._note(name, document)
        self.acknowledged[int(document["metadata"]["resourceVersion"])] = (name, document["data"]["value"])

    def _note(self, name: str, document: Document | None) -> None:
        if document is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = document


Told = tuple[str, str, bool]  # name, value, deleted


class Watcher:
    """One client that watches, and resumes where its watch broke."""

    def __init__(self, name: str, client: AsyncClient, story: dict[int, Told]) -> None:
        self.name = name
        self.client = client
        self.story = story  # shared: what any watcher was told of a revision
        self.revision = 0
        self.told: set[int] = set()
        self.began_at = 0
        self.resumed = 0
        self.relisted = 0
        self.shown: dict[str, str] = {}

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except ApiError as error:
                if error.reason == "Expired":
                    self.revision, self.told, self.relisted = 0, set(), self.relisted + 1
                elif error.reason not in ("ServiceUnavailable", "Timeout"):
                    raise BrokenPromiseError(f"the watch of {self.name} ended with {error.reason}: {error}") from None
            self.resumed += 1
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        request = pb.WatchRequest(
            type=type_of("configmaps"), namespace="default", revision=self.revision, bookmarks=True
        )
        initial: dict[str, str] | None = {} if self.revision == 0 else None
        async for response in self.client.transport.stream("Objects", "Watch", request):
            events = [event for event in response.events if event.kind != pb.WatchEvent.BOOKMARK]
            if initial is not None:
                initial |= {event.object.name: _value(event) for event in events}
                if response.synced:
                    self.shown, self.revision, self.began_at, initial = (
                        initial,
                        response.revision,
                        response.revision,
                        None,
                    )
                continue
            if response.revision < self.revision:
                raise BrokenPromiseError(f"{self.name} was told revision {response.revision} after {self.revision}")
            for event in events:
                self._take(event)
            self.revision = response.revision

    def _take(self, event: pb.WatchEvent) -> None:
        name, revision, value = event.object.name, event.object.revision, _value(event)
        deleted = event.kind == pb.WatchEvent.DELETED
        if revision <= self.revision or revision in self.told:
            raise BrokenPromiseError(
                f"{self.name} was told of revision {revision} twice, or late (it is at {self.revision})"
            )
        if (name in self.shown) != (event.kind != pb.WatchEvent.ADDED):
            raise BrokenPromiseError(
                f"{self.name} was told {event.kind} of {name} at {revision}, which it {'knew' if name in self.shown else 'did not know'}"
            )
        others = self.story.setdefault(revision, (name, value, deleted))
        if others != (name, value, deleted):
            raise BrokenPromiseError(
                f"{self.name} was told {(name, value, deleted)} at revision {revision}, others {others}"
            )
        self.told.add(revision)
        if deleted:
            del self.shown[name]
        else:
            self.shown[name] = value

    def missed(self) -> list[int]:
        """Revisions that others were told of and this one was not, though it went past them."""
        return [
            revision
            for revision in self.story
            if self.began_at < revision <= self.revision and revision not in self.told
        ]


def _value(event: pb.WatchEvent) -> str:
    document = msgspec.json.decode(event.object.json)
    value: str = document.get("data", {}).get("value", "")
    return value
