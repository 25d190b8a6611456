"""Watch: the store's events as a selector sees them.

A watch from revision 0 begins with the present state as ADDED events and says `synced` when that is complete; then, or from
the revision asked for, every change follows in order, all changes of one revision in one response. An object that
begins to match a selector is ADDED, one that ceases to match is DELETED, whatever happened to it in the store.

Nothing is buffered here: the store's watcher holds what a slow client has not taken, up to its bound, and then reads history
again; only when that is forgotten too the watch ends with Expired.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from control.api.context import ApiContext
from control.api.errors import from_store
from control.api.messages import object_of, object_of_kv, restamped
from control.api.reads import Reads
from control.api.selection import Selection
from control.identity import Caller
from control.registry import Resource
from control.store.interface import Event, EventBatch, FutureRevisionError, StoreError
from steersman.errors import bad_request
from steersman.v1 import objects_pb2 as pb

ADDED, MODIFIED, DELETED, BOOKMARK = (
    pb.WatchEvent.ADDED,
    pb.WatchEvent.MODIFIED,
    pb.WatchEvent.DELETED,
    pb.WatchEvent.BOOKMARK,
)


class Watching:
    """The watch method of `Objects`."""

    def __init__(self, context: ApiContext, reads: Reads) -> None:
        self._context = context
        self._reads = reads

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.WatchResponse, None]:
        """Follow the objects that match."""
        context = self._context
        resource = context.resource(request.type)
        selection = Selection(resource, request.label_selector, request.field_selector)
        if request.revision < 0:
            raise bad_request(f"revision must not be negative: {request.revision}")
        context.require(caller, "watch", resource, request.namespace, selection.name)
        prefix = resource.namespace_prefix(request.namespace)
        try:
            revision = await self._start(request.revision)
            view = _View(resource, selection, self._reads if request.as_table else None)
            # The store's watch begins before the state is read, so that nothing in between can be forgotten.
            changes: Any = context.store.watch(prefix, revision)
            async with aclosing(changes):
                if not request.revision:
                    async for response in self._initial(resource, prefix, selection, revision, view):
                        yield response
                async for batch in changes:
                    following = view.response(batch, bookmarks=request.bookmarks)
                    if following is not None:
                        yield following
        except StoreError as error:
            raise from_store(error) from None

    async def _start(self, revision: int) -> int:
        """The revision after which events follow; a member that lags catches up with its client first."""
        store = self._context.store
        if not revision or revision > store.revision:
            await self._context.barrier.wait()
            if revision > store.revision:
                raise FutureRevisionError(f"{revision}, current: {store.revision}")
        return revision or store.revision

    async def _initial(
        self, resource: Resource, prefix: str, selection: Selection, revision: int, view: _View
    ) -> AsyncIterator[pb.WatchResponse]:
        held: pb.WatchResponse | None = None
        async for kvs in self._reads.pages(resource, prefix, selection, revision):
            if held is not None:
                yield held
            events = [pb.WatchEvent(kind=ADDED, object=view.shown(object_of_kv(resource, kv), kv.value)) for kv in kvs]
            held = pb.WatchResponse(events=events, revision=revision)
        held = held or pb.WatchResponse(revision=revision)
        held.synced = True
        yield held


class _View:
    """How one watch sees changes."""

    def __init__(self, resource: Resource, selection: Selection, tables: Reads | None) -> None:
        self._resource = resource
        self._selection = selection
        self._tables = tables

    def response(self, batch: EventBatch, *, bookmarks: bool) -> pb.WatchResponse | None:
        """What is sent for a batch; None: nothing."""
        events = [seen for event in batch.events if (seen := self.seen(event)) is not None]
        if not events:
            if not bookmarks:
                return None
            events = [pb.WatchEvent(kind=BOOKMARK, object=pb.Object(revision=batch.revision))]
        return pb.WatchResponse(events=events, revision=batch.revision, synced=True)

    def seen(self, event: Event) -> pb.WatchEvent | None:
        """The event as the selector sees it, or None."""
        previous = event.previous
        if event.deleted and previous is None:
            return None  # it came and went within what this watch was told at once
        kind: pb.WatchEvent.Kind.ValueType
        value: bytes | None = event.value
        if not self._selection:
            kind = DELETED if event.deleted else MODIFIED if previous is not None else ADDED
        else:
            matched = previous is not None and self._selection.matches(event.key, previous.value)
            matches = not event.deleted and value is not None and self._selection.matches(event.key, value)
            if not matched and not matches:
                return None
            kind = DELETED if not matches else MODIFIED if matched else ADDED
            if kind == DELETED and not event.deleted:
                value = None  # the last state that matched is what the watch knows of it
        if value is None:
            assert previous is not None
            value = restamped(previous.value, event.revision)
        message = object_of(self._resource, event.key, value, event.revision, event.cause)
        return pb.WatchEvent(kind=kind, object=self.shown(message, value))

    def shown(self, message: pb.Object, value: bytes) -> pb.Object:
        """The object, or its table where tables were asked for."""
        if self._tables is not None:
            message.json = self._tables.table(self._resource, (value,), revision=message.revision)
        return message
