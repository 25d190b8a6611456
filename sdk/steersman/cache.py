"""A watch cache: one kind's objects kept current in memory, with indexes, as client-go's informers.

The cache lists and watches in one stream (a watch from revision 0 begins with what there is), resumes where a stream
broke, and starts over when the place to resume was compacted: then subscribers are told the difference, never a gap.
All reads are from memory and show one revision; `revision` says which. Objects are immutable views and may be kept.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from steersman.client import RESUME_BACKOFF_S, AsyncClient
from steersman.clock import Entropy, SystemEntropy
from steersman.errors import ApiError
from steersman.selectors import EVERYTHING, Selector
from steersman.types import KubeObject
from steersman.v1 import objects_pb2 as pb

K = TypeVar("K", bound=KubeObject)
Index = Callable[[K], Iterable[str]]
Subscriber = Callable[[K | None, K | None], None]


class Cache(Generic[K]):
    """The objects of one kind that match the selectors.

    Args:
        client: where from.
        kind: a view class; with `resource`, the kind that it views (for PartialObject).
        indexes: name -> function from an object to the values that it is found under.

    `run` must be running for the cache to follow; `synced` waits for the first complete state.
    """

    def __init__(
        self,
        client: AsyncClient,
        kind: type[K],
        *,
        resource: str = "",
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        indexes: Mapping[str, Index[K]] | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.kind = kind
        self.revision = 0
        self._client = client
        self._target: type[KubeObject] | str = resource or kind
        self._selection = {"namespace": namespace, "labels": labels, "fields": fields}
        self._objects: dict[str, K] = {}
        self._functions = dict(indexes or {})
        self._indexes: dict[str, dict[str, dict[str, K]]] = {name: {} for name in self._functions}
        self._namespaces: dict[str, dict[str, K]] = {}
        self._subscribers: builtins.list[Subscriber[K]] = []
        self._progress: builtins.list[tuple[int, asyncio.Future[None]]] = []
        self._synced = asyncio.Event()
        self._entropy = entropy or SystemEntropy()

    # --- reading ---

    def get(self, namespace: str, name: str) -> K | None:
        """The object, or None; namespace is "" for cluster-scoped kinds."""
        return self._objects.get(f"{namespace}/{name}" if namespace else name)

    def list(self, namespace: str = "", selector: Selector = EVERYTHING) -> list[K]:
        """Objects of a namespace, or of all, that the selector matches; in no promised order."""
        found: Iterable[K] = self._namespaces.get(namespace, {}).values() if namespace else self._objects.values()
        return [obj for obj in found if selector.matches(obj.metadata.labels)] if selector else list(found)

    def by_index(self, index: str, value: str) -> builtins.list[K]:
        """Objects that the index function names with `value`."""
        return list(self._indexes[index].get(value, {}).values())

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def is_synced(self) -> bool:
        return self._synced.is_set()

    async def synced(self) -> None:
        """Wait until the first complete state is here."""
        await self._synced.wait()

    async def reached(self, revision: int) -> None:
        """Wait until the cache shows everything up to `revision`: what a writer waits for before it decides again.

        A cache of a quiet kind learns of a revision from the server's bookmarks.
        """
        if self.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._progress.append((revision, waiter))
        await waiter

    # --- following ---

    def subscribe(self, subscriber: Subscriber[K]) -> None:
        """Call `subscriber(old, new)` on every change, and at once with (None, object) for what is here already.

        `old` is None for a new object, `new` is None for one that is gone (or matches no longer). Called between
        changes, after the whole revision is in the cache; it must not block.
        """
        self._subscribers.append(subscriber)
        for obj in list(self._objects.values()):
            subscriber(None, obj)

    async def run(self) -> None:
        """Follow until cancelled. Raises ApiError only for what no retry can mend (Forbidden, NotFound kind)."""
        failures = 0
        while True:
            fresh: dict[str, K] | None = {} if self.revision == 0 else None
            try:
                async for response in self._client.watch_batches(
                    self._target, **self._selection, revision=self.revision
                ):
                    failures = 0
                    if fresh is None:
                        self._apply(response)
                        continue
                    for event in response.events:
                        if event.kind != pb.WatchEvent.BOOKMARK:
                            obj = self.kind.decode(event.object.json)
                            fresh[obj.key] = obj
                    if response.synced:
                        self._replace(fresh, response.revision)
                        fresh = None
            except ApiError as error:
                if error.reason == "Expired":
                    self.revision = 0
                elif error.reason not in ("ServiceUnavailable", "Timeout", "InternalError"):
                    raise
            pause = RESUME_BACKOFF_S[min(failures, len(RESUME_BACKOFF_S) - 1)]
            failures += 1
            await asyncio.sleep(pause * (0.5 + self._entropy.jitter() / 2))

    def _replace(self, fresh: dict[str, K], revision: int) -> None:
        changes: builtins.list[tuple[K | None, K | None]] = []
        for key in [key for key in self._objects if key not in fresh]:
            changes.append((self._remove(key), None))
        for key, obj in fresh.items():
            old = self._objects.get(key)
            if old is None or old.metadata.resource_version != obj.metadata.resource_version:
                self._put(key, old, obj)
                changes.append((old, obj))
        self._advance(revision)
        self._synced.set()
        self._tell(changes)

    def _apply(self, response: pb.WatchResponse) -> None:
        changes: builtins.list[tuple[K | None, K | None]] = []
        for event in response.events:
            if event.kind == pb.WatchEvent.BOOKMARK:
                continue
            obj = self.kind.decode(event.object.json)
            old = self._objects.get(obj.key)
            if event.kind == pb.WatchEvent.DELETED:
                if old is not None:
                    self._remove(obj.key)
                    changes.append((old, None))
            else:
                self._put(obj.key, old, obj)
                changes.append((old, obj))
        self._advance(response.revision)
        self._tell(changes)

    def _put(self, key: str, old: K | None, obj: K) -> None:
        if old is not None:
            self._unindex(key, old)
        self._objects[key] = obj
        self._namespaces.setdefault(obj.namespace, {})[key] = obj
        for name, function in self._functions.items():
            for value in function(obj):
                self._indexes[name].setdefault(value, {})[key] = obj

    def _remove(self, key: str) -> K:
        obj = self._objects.pop(key)
        self._unindex(key, obj)
        return obj

    def _unindex(self, key: str, obj: K) -> None:
        _discard(self._namespaces, obj.namespace, key)
        for name, function in self._functions.items():
            for value in function(obj):
                _discard(self._indexes[name], value, key)

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if self._progress:
            waiting, self._progress = self._progress, []
            for wanted, waiter in waiting:
                if wanted <= self.revision:
                    if not waiter.done():
                        waiter.set_result(None)
                else:
                    self._progress.append((wanted, waiter))

    def _tell(self, changes: builtins.list[tuple[K | None, K | None]]) -> None:
        for old, new in changes:
            for subscriber in self._subscribers:
                subscriber(old, new)


def _discard(groups: dict[str, dict[str, K]], name: str, key: str) -> None:
    group = groups.get(name)
    if group is not None:
        group.pop(key, None)
        if not group:
            del groups[name]
