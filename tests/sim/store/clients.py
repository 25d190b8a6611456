"""Who uses a simulated cluster: writers that record what they were told, and watchers that check what they are told.

Each is a real SDK client with a transport of its own over the simulated wire, so retries, fail-over and the resumption of
watches are the SDK's own. `StoreTail` follows one member's store without the API, as the parts inside a member do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import msgspec

from control.store.interface import CompactedError, Put, StoreError, TooSlowError, Txn
from steersman.client import AsyncClient, type_of
from steersman.clock import SeededEntropy
from steersman.errors import ApiError
from steersman.transport import GrpcTransport
from steersman.v1 import objects_pb2 as pb
from tests.sim.linearizability import Call, Kind, Outcome, State
from tests.sim.store.wire import Credentials

if TYPE_CHECKING:
    from tests.sim.store.world import StoreMember, StoreWorld

NAMESPACE = "default"
CALL_S = 2.0  # how long a caller waits: longer than an election, shorter than many faults
OUTCOMES: dict[str, Outcome] = {"AlreadyExists": "exists", "NotFound": "missing", "Conflict": "conflict"}
Document = dict[str, Any]


class LoopClock:
    """A client's clock."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def now(self) -> Any:
        raise AssertionError("clients need no calendar")

    def monotonic(self) -> float:
        return self._loop.time()  # type: ignore[no-any-return]


def make_client(world: StoreWorld, name: str) -> AsyncClient:
    members = [member for member in world.members if member not in world.spare]
    world.random.shuffle(members)
    credentials: Any = Credentials(world, world.loop, name)
    entropy = SeededEntropy(world.random.getrandbits(32))
    return AsyncClient(
        GrpcTransport(members, credentials, clock=LoopClock(world.loop), entropy=entropy),
        namespace=NAMESPACE,
        entropy=entropy,
    )


def state_of(document: Document | None) -> State:
    return None if document is None else (document["data"]["born"], document["data"]["value"])


class Writer:
    """One client, one call at a time."""

    def __init__(self, world: StoreWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.client = make_client(world, name)
        self.stopping = False
        self.done = False
        self.answered = 0
        self._seen: dict[str, Document] = {}
        self._count = 0
        self._closing_calls = 2  # after healing, calls must get through

    async def run(self) -> None:
        dice = self.world.random
        await self._make_namespace()
        while not self.stopping or self._closing_calls:
            if self.stopping:
                self._closing_calls -= 1
            await asyncio.sleep(dice.uniform(0.002, 0.12))
            name = dice.choice(self.world.objects)
            seen = self._seen.get(name)
            actions = [self._create, self._read, self._patch, self._list]
            if seen is not None:
                actions += [self._update, self._update, self._delete]
            await dice.choice(actions)(name)
        self.done = True

    async def _make_namespace(self) -> None:
        while True:
            try:
                await self.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
                return
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    return
                self.world.check(error.reason != "InternalError", str(error))
                self.world.trace(f"{self.name} namespace: {error.reason}: {error}")
            await asyncio.sleep(0.1)

    # --- calls

    async def _read(self, name: str) -> None:
        document: Document | None = None
        with self._call(name, "read") as call:
            try:
                document = await self.client.get("configmaps", name, timeout=CALL_S)
            except ApiError as error:
                if error.reason != "NotFound":
                    raise
            call.ok(found=state_of(document))
        if call.answered:
            self._note(name, document)

    async def _list(self, _: str) -> None:
        begun = self.world.now_ms
        try:
            found = await self.client.list("configmaps", NAMESPACE, timeout=CALL_S)
        except ApiError as error:
            self.world.trace(f"{self.name} list: {error.reason}")
            return
        shown = {document["metadata"]["name"]: document for document in found.items}
        truth = self.world.objects_at(found.revision)
        self.world.check(shown == truth, f"a list at revision {found.revision} showed {shown} instead of {truth}")
        for name in self.world.objects:  # at one moment, all of them
            self._record(
                Call(name, "read", "ok", begun, self.world.now_ms, found=state_of(shown.get(name)), process=self.name)
            )

    async def _create(self, name: str) -> None:
        with self._call(name, "create") as call:
            document = self._document(name, call.value, call.value)
            answer = await self.client.acting_as(call.value).create(document, timeout=CALL_S)
            call.ok()
            self._acknowledged(name, answer)

    async def _update(self, name: str) -> None:
        seen = self._seen[name]
        with self._call(name, "update", expect=state_of(seen)) as call:
            document = {**seen, "data": {"born": seen["data"]["born"], "value": call.value}}
            request = pb.UpdateRequest(
                object=pb.Object(json=msgspec.json.encode(document)),
                options=self.client.acting_as(call.value).options(),
            )
            answer = await self.client.transport.unary("Objects", "Update", request, timeout=CALL_S, idempotent=False)
            call.ok()
            self._acknowledged(name, msgspec.json.decode(answer.object.json))

    async def _patch(self, name: str) -> None:
        with self._call(name, "patch") as call:
            patch = {"data": {"value": call.value}}
            answer = await self.client.acting_as(call.value).patch("configmaps", name, patch, timeout=CALL_S)
            call.ok()
            self._acknowledged(name, answer)

    async def _delete(self, name: str) -> None:
        seen = self._seen.pop(name)
        with self._call(name, "delete", expect=state_of(seen)) as call:
            uid = seen["metadata"]["uid"]
            await self.client.acting_as(call.value).delete("configmaps", name, uid=uid, timeout=CALL_S)
            call.ok()

    # --- what is recorded

    def _document(self, name: str, born: str, value: str) -> Document:
        metadata = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"born": born, "value": value}}

    def _call(self, name: str, kind: Kind, expect: State = None) -> Recording:
        self._count += 1
        return Recording(self, name, kind, f"{self.name}.{self._count}", expect)

    def _acknowledged(self, name: str, document: Document) -> None:
        self._note(name, document)
        self.world.check_acknowledged(name, document)
        self.world.acknowledged += 1

    def _note(self, name: str, document: Document | None) -> None:
        if document is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = document

    def _record(self, call: Call) -> None:
        self.world.history.calls.append(call)
        if call.kind == "read" and call.outcome == "ok":
            self.world.reads += 1


class Recording:
    """One call from its beginning to its entry in the history."""

    def __init__(self, writer: Writer, name: str, kind: Kind, value: str, expect: State) -> None:
        self._writer = writer
        self._call = Call(name, kind, "unknown", writer.world.now_ms, value=value, expect=expect, process=writer.name)
        self.value = value
        self.answered = False

    def ok(self, found: State = None) -> None:
        self._end("ok", found)

    def _end(self, outcome: Outcome, found: State = None) -> None:
        self.answered = outcome == "ok"
        self._call = dataclasses.replace(self._call, outcome=outcome, end=self._writer.world.now_ms, found=found)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        refused = isinstance(error, ApiError)
        if refused and self._call.end == math.inf:
            assert isinstance(error, ApiError)
            self._writer.world.check(
                error.reason in (*OUTCOMES, "ServiceUnavailable", "Timeout", "TooManyRequests"),
                f"{error.reason}: {error}",
            )
            outcome = OUTCOMES.get(error.reason, "unknown")
            if outcome != "unknown":
                self._end(outcome)
            self._writer.world.trace(f"{self._writer.name} {self._call.kind} {self._call.key}: {error.reason}: {error}")
        self._writer._record(self._call)
        return refused


class Watching:
    """A client that watches, resuming wherever its watch breaks."""

    def __init__(self, world: StoreWorld, name: str, *, bookmarks: bool) -> None:
        self.world = world
        self.name = name
        self.bookmarks = bookmarks
        self.client = make_client(world, name)
        self.revision = 0  # everything up to it was told
        self.told = 0
        self.began = False  # perhaps at revision 0, before anything was written
        self._shown: dict[str, Document] = {}

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except ApiError as error:
                self.world.trace(f"{self.name}: {error.reason} at {self.revision}")
                if error.reason == "Expired":
                    self.revision = 0
                else:
                    self.world.check(
                        error.reason in ("ServiceUnavailable", "Timeout"), f"a watch ended with {error.reason}: {error}"
                    )
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        request = pb.WatchRequest(
            type=type_of("configmaps"), namespace=NAMESPACE, revision=self.revision, bookmarks=self.bookmarks
        )
        initial: dict[str, Document] | None = {} if self.revision == 0 else None
        async for response in self.client.transport.stream("Objects", "Watch", request):
            if initial is not None:
                self._begin(response, initial)
                if response.synced:
                    initial = None
            else:
                self._changes(response)
            if self.world.random.random() < 0.05:
                await asyncio.sleep(self.world.random.uniform(0.1, 1.0))  # a slow reader

    def _begin(self, response: pb.WatchResponse, initial: dict[str, Document]) -> None:
        for event in response.events:
            if event.kind != pb.WatchEvent.BOOKMARK:
                self.world.check(event.kind == pb.WatchEvent.ADDED, "a watch began with something else than ADDED")
                initial[event.object.name] = msgspec.json.decode(event.object.json)
        if response.synced:
            truth = self.world.objects_at(response.revision)
            self.world.check(initial == truth, f"{self.name} began at {response.revision} with {initial}, not {truth}")
            self._shown, self.revision, self.began = initial, response.revision, True

    def _changes(self, response: pb.WatchResponse) -> None:
        check, upto = self.world.check, response.revision
        check(upto >= self.revision, f"{self.name} was told {upto} after {self.revision}")
        expected = self.world.changes_between(self.revision, upto)
        told = [
            (event.object.revision, event.object.name, event.kind == pb.WatchEvent.DELETED)
            for event in response.events
            if event.kind != pb.WatchEvent.BOOKMARK
        ]
        check(told == expected, f"{self.name} was told {told} from {self.revision} to {upto}; there was {expected}")
        for event in response.events:
            if event.kind == pb.WatchEvent.BOOKMARK:
                continue
            known = event.object.name in self._shown
            check(known == (event.kind != pb.WatchEvent.ADDED), f"{self.name} was told of a wrong kind of change")
            if event.kind == pb.WatchEvent.DELETED:
                del self._shown[event.object.name]
            else:
                self._shown[event.object.name] = msgspec.json.decode(event.object.json)
            self.told += 1
        self.revision = upto

    def caught_up(self) -> bool:
        """Whether everything there was to be told has been told."""
        return self.began and not self.world.changes_between(self.revision, len(self.world.changes))

    def check_complete(self) -> None:
        """What was told adds up to what there is."""
        truth = self.world.objects_at(len(self.world.changes))
        self.world.check(self._shown == truth, f"{self.name} knows {self._shown}; there is {truth}")


class StoreTail:
    """Follows everything in one member's store for as long as the member lives; at its leader, also writes a few keys at once."""

    def __init__(self, member: StoreMember) -> None:
        self.member = member
        self.world = member.world

    async def follow(self) -> None:
        store = self.member.store
        after = store.revision
        while True:
            try:
                async for batch in store.watch("", after):
                    told = tuple((event.revision, event.key, event.deleted) for event in batch.events)
                    expected = tuple(
                        (after + 1 + offset, key, value is None)
                        for offset, changes in enumerate(self.world.changes[after : batch.revision])
                        for key, value in changes
                    )
                    self.world.check(
                        told == expected,
                        f"a watch inside {self.member.name} was told {told} from {after} to {batch.revision}; there was {expected}",
                    )
                    after = batch.revision
            except (CompactedError, TooSlowError):
                after = store.revision
            except StoreError:
                return

    async def write(self) -> None:
        store, dice = self.member.store, self.world.random
        while True:
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            if store.is_leader and not self.world.healed:
                keys = dice.sample(range(6), dice.choice((2, 3)))
                value = b"%d" % dice.getrandbits(30)
                ops = tuple(Put(f"/sim/pairs/{key}", value) for key in keys)
                try:
                    await store.commit([Txn(ops)])
                except StoreError:
                    continue
