"""What each node must know, kept current: shared caches, and per node the difference to what it was sent.

One set of caches serves all sessions. A change marks, in the feeds of the nodes that it concerns, the object that
changed: a pod in its node's, a ConfigMap or Secret in those of the nodes with pods that name it, everything else in all.
When a session can send, its feed turns the marks into events by comparing the caches *then* with what was sent; so a
slow node gets the newest state once instead of every step, and a mark too many costs nothing.

Within one message an agent takes in everything before it acts. Between messages, what pods need travels before the
pods: initial states go kind by kind, pods last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from control.gateway.documents import (
    ConfigMapDocument,
    Document,
    EndpointSliceDocument,
    NamespaceDocument,
    NodeDocument,
    PodDocument,
    SecretDocument,
    ServiceDocument,
)
from steersman.cache import Cache
from steersman.client import AsyncClient
from steersman.v1 import node_pb2
from steersman.v1 import objects_pb2 as pb

MESSAGE_BYTES = 1 << 20  # of documents in one message: large enough to be cheap, small enough to let heartbeats through
KINDS: tuple[type[Document], ...] = (  # in the order in which they are sent
    NamespaceDocument,
    NodeDocument,
    ServiceDocument,
    EndpointSliceDocument,
    ConfigMapDocument,
    SecretDocument,
    PodDocument,
)
RANK = {kind.KIND: rank for rank, kind in enumerate(KINDS)}
SHARED = ("Namespace", "Node", "Service", "EndpointSlice")
Mark = tuple[str, str]  # kind, key


class Feeds:
    """The caches, and the feeds of the nodes that have a session. Lives as long as this member leads."""

    def __init__(self, client: AsyncClient) -> None:
        self.pods: Cache[PodDocument] = Cache(
            client,
            PodDocument,
            indexes={
                "node": lambda pod: (pod.node_name,) if pod.node_name else (),
                "ConfigMap": lambda pod: pod.config_maps,
                "Secret": lambda pod: pod.secrets,
            },
        )
        self.nodes: Cache[NodeDocument] = Cache(client, NodeDocument)
        self._caches: dict[str, Cache[Any]] = {"Pod": self.pods, "Node": self.nodes}
        for kind in KINDS:
            if kind.KIND not in self._caches:
                self._caches[kind.KIND] = Cache(client, kind)
        self._feeds: dict[str, set[Feed]] = {}
        for name, cache in self._caches.items():
            cache.subscribe(self._subscriber(name))

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for cache in self._caches.values():
                group.create_task(cache.run())

    async def synced(self) -> None:
        """Wait until every cache shows a complete state."""
        await asyncio.gather(*(cache.synced() for cache in self._caches.values()))

    @property
    def revision(self) -> int:
        """The newest revision that any cache has seen."""
        return max(cache.revision for cache in self._caches.values())

    def get(self, kind: str, key: str) -> Document | None:
        namespace, slash, name = key.rpartition("/")
        return self._caches[kind].get(namespace if slash else "", name)

    def open(self, node: str) -> Feed:
        """A feed for a new session of a node, with everything marked."""
        feed = Feed(self, node)
        self._feeds.setdefault(node, set()).add(feed)
        for kind in SHARED:
            feed.mark((kind, obj.key) for obj in self._caches[kind].list())
        for pod in self.pods.by_index("node", node):
            feed.mark(_with_references(pod))
        return feed

    def close(self, feed: Feed) -> None:
        held = self._feeds.get(feed.node)
        if held is not None:
            held.discard(feed)
            if not held:
                del self._feeds[feed.node]

    def needed(self, kind: str, key: str, node: str) -> bool:
        """Whether a pod of the node names this ConfigMap or Secret."""
        return any(pod.node_name == node for pod in self.pods.by_index(kind, key))

    def _subscriber(self, kind: str) -> Any:
        if kind == "Pod":
            return self._pod_changed
        if kind in SHARED:

            def shared(old: Document | None, new: Document | None) -> None:
                if old is not None and new is not None and old.essence == new.essence:
                    return
                mark = (kind, (new or old).key)  # type: ignore[union-attr]
                for feeds in self._feeds.values():
                    for feed in feeds:
                        feed.mark((mark,))

            return shared

        def named(old: Document | None, new: Document | None) -> None:
            key = (new or old).key  # type: ignore[union-attr]
            for node in {pod.node_name for pod in self.pods.by_index(kind, key)}:
                for feed in self._feeds.get(node, ()):
                    feed.mark(((kind, key),))

        return named

    def _pod_changed(self, old: PodDocument | None, new: PodDocument | None) -> None:
        if old is not None and new is not None and old.essence == new.essence and old.node_name == new.node_name:
            return
        for pod in (old, new):
            if pod is not None and pod.node_name:
                for feed in self._feeds.get(pod.node_name, ()):
                    feed.mark(_with_references(pod))


def _with_references(pod: PodDocument) -> list[Mark]:
    return [
        ("Pod", pod.key),
        *(("ConfigMap", key) for key in pod.config_maps),
        *(("Secret", key) for key in pod.secrets),
    ]


class Feed:
    """One session's view: what was sent, and what must be looked at again."""

    def __init__(self, feeds: Feeds, node: str) -> None:
        self.node = node
        self.pending = asyncio.Event()
        self._feeds = feeds
        self._marks: dict[Mark, None] = {}
        self._sent: dict[Mark, tuple[str, int]] = {}  # uid and essence
        self._synced = False

    def mark(self, marks: Iterable[Mark]) -> None:
        """These objects may have changed for this node."""
        before = len(self._marks)
        self._marks.update(dict.fromkeys(marks))
        if len(self._marks) != before:
            self.pending.set()

    def take(self) -> node_pb2.Changes | None:
        """The next message, or None when the node knows everything (and was told so)."""
        self.pending.clear()
        changes = node_pb2.Changes(revision=self._feeds.revision)
        size = 0
        for mark in sorted(self._marks, key=lambda mark: RANK[mark[0]]):
            if size >= MESSAGE_BYTES:
                break
            del self._marks[mark]
            event = self._event(mark)
            if event is not None:
                changes.events.append(event)
                size += len(event.object.json) + 64
        if self._marks:
            self.pending.set()
        elif not self._synced:
            self._synced = changes.synced = True
        return changes if changes.events or changes.synced else None

    def _event(self, mark: Mark) -> pb.WatchEvent | None:
        kind, key = mark
        held = self._sent.get(mark)
        current = self._feeds.get(kind, key)
        if current is not None and not self._concerns(kind, key, current):
            current = None
        if current is None:
            if held is None:
                return None
            del self._sent[mark]
            namespace, _, name = key.rpartition("/")
            return pb.WatchEvent(
                kind=pb.WatchEvent.DELETED, object=pb.Object(kind=kind, namespace=namespace, name=name, uid=held[0])
            )
        told = (current.uid, current.essence)
        if held == told:
            return None
        self._sent[mark] = told
        return pb.WatchEvent(
            kind=pb.WatchEvent.ADDED if held is None else pb.WatchEvent.MODIFIED,
            object=pb.Object(
                api_version=current.API_VERSION,
                kind=kind,
                namespace=current.namespace,
                name=current.name,
                uid=current.uid,
                revision=current.metadata.revision,
                json=current.raw,
            ),
        )

    def _concerns(self, kind: str, key: str, current: Document) -> bool:
        if isinstance(current, PodDocument):
            return current.node_name == self.node
        return kind in SHARED or self._feeds.needed(kind, key, self.node)
