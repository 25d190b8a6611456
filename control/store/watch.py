"""Watches: who is told of which change.

Mechanism. A watcher is a cursor on the history. While it is behind, it reads the history itself, some revisions at a
step. When it has caught up it goes *live*: it is entered in a dictionary under the folder of its prefix, and each
change is handed to the watchers found under the folders of the changed key (`/core/pods/default/web` has `/`,
`/core/`, `/core/pods/`, `/core/pods/default/`). Watchers of other folders cost nothing, a thousand as little as one.
Events are made once per change and shared.

Invariants: a watcher gets each event under its prefix after its start once, in order, revisions never split between
batches; when it is given a batch of revision N it has got everything up to N.

Failure. A live watcher's buffer is bounded; when it overflows, the watcher drops it and reads history again, so a slow
reader costs no memory. Only when that history is forgotten does it end, with TooSlowError. A restored snapshot
(`reset`) sends every watcher back to history in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from control.store.interface import CompactedError, Event, EventBatch, StoreError, TooSlowError
from control.store.mvcc import Mvcc, Version

BUFFER_EVENTS = 4096  # per live watcher; a reader that lags more reads history instead, which holds the same values
STEP_REVISIONS = 2000  # of history examined at a step while catching up: about 2 ms of the event loop


class Watcher:
    """One watch: iterate it. Made by `WatchHub.watch`."""

    def __init__(self, hub: WatchHub, prefix: str, after: int) -> None:
        self._hub = hub
        self._prefix = prefix
        self._folder = prefix[: prefix.rfind("/") + 1]
        self._exact = self._folder == prefix  # every key of the folder matches
        self._started = False
        self._live = False
        self._position = after  # where reading history goes on; while live: where it stopped
        self._delivered = after  # the newest revision that the reader was told of
        self._buffer: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._wants_progress = False
        self._error: StoreError | None = None
        self._closed = False

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> EventBatch:
        while True:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            batch = self._take() if self._live else self._catch_up()
            self._started = True
            if batch is not None:
                if self._hub.check is not None:
                    self._hub.check(batch.events)
                self._delivered = batch.revision
                return batch
            if self._live:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            else:
                await asyncio.sleep(0)  # more history without a match: let others run between the steps

    async def aclose(self) -> None:
        """End the watch; whoever waits for its next batch sees the end."""
        self._end(None)

    def _take(self) -> EventBatch | None:
        revision = self._hub.state.revision
        if self._buffer:
            events, self._buffer = tuple(self._buffer), []
        elif self._wants_progress and revision > self._delivered:
            events = ()
        else:
            return None
        self._wants_progress = False
        return EventBatch(events, max(revision, self._delivered))

    def _catch_up(self) -> EventBatch | None:
        """Read a step of history; go live when there is no more."""
        state = self._hub.state
        events: list[Event] = []
        if self._position < state.revision or self._position < state.compacted:
            try:
                changes = state.changes(self._position, STEP_REVISIONS)
            except CompactedError as error:
                if not self._started:
                    raise
                message = f"the watch of {self._prefix!r} stopped at revision {self._position}, {error}: list again"
                raise TooSlowError(message) from error
            for changed in changes:
                for version in changed:
                    if version.kv.key.startswith(self._prefix):
                        events.append(event(version))
            self._position += len(changes)
        if self._position >= state.revision:
            self._hub.enter(self)
            self._live = True
        return EventBatch(tuple(events), self._position) if events else None

    def offer(self, found: Event) -> None:
        """Take an event of the folder, if it matches."""
        if found.revision <= self._position or not (self._exact or found.key.startswith(self._prefix)):
            return
        self._buffer.append(found)
        self.wake()

    def settle(self) -> None:
        """After whole revisions were offered: go back to history when the buffer is too long."""
        if len(self._buffer) > BUFFER_EVENTS:
            self.retreat()

    def retreat(self) -> None:
        """Drop what was not delivered and read it from history when the reader comes."""
        if self._live:
            self._hub.leave(self)
            self._live = False
            if self._buffer:
                self._position = self._buffer[0].revision - 1
                self._buffer = []
            else:
                self._position = max(self._position, self._hub.published)
            self.wake()

    def progress(self) -> None:
        """Have the reader told the newest revision, when it waits and that is news."""
        self._wants_progress = True
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, error: StoreError | None) -> None:
        if self._live:
            self._hub.leave(self)
            self._live = False
        self._buffer = []
        self._error = self._error or error
        self._closed = True
        self.wake()

    fail = _end

    @property
    def folder(self) -> str:
        """Under which it is entered while live."""
        return self._folder


class WatchHub:
    """The watchers of one state."""

    def __init__(self, state: Mvcc) -> None:
        self.state = state
        self.published = state.revision  # live watchers were offered everything up to it
        self._folders: dict[str, dict[Watcher, None]] = {}  # live watchers, in the order they came
        self._count = 0
        self._closed: StoreError | None = None
        self.check: Callable[[Sequence[Event]], None] | None = None  # may refuse what is to be delivered, by StoreError

    def __len__(self) -> int:
        """How many watchers are live."""
        return self._count

    def watch(self, prefix: str, after: int) -> Watcher:
        """Follow `prefix` from the revision after `after`; see `Store.watch`."""
        watcher = Watcher(self, prefix, after)
        if self._closed is not None:
            watcher.fail(self._closed)
        return watcher

    def publish(self, after: int) -> None:
        """Tell the live watchers what changed since revision `after`; call it after every apply."""
        self.published = self.state.revision
        if not self._count:
            return
        folders = self._folders
        touched: dict[Watcher, None] = {}
        for changed in self.state.changes(after):
            for version in changed:
                made: Event | None = None
                for folder in _folders(version.kv.key):
                    watchers = folders.get(folder)
                    if watchers:
                        made = made or event(version)
                        for watcher in watchers:
                            watcher.offer(made)
                        touched.update(watchers)
        for watcher in touched:
            watcher.settle()

    def progress(self) -> None:
        """Tell every live watcher that waits how far it is: an empty batch, if the revision is news to it."""
        for watcher in self._live():
            watcher.progress()

    def reset(self) -> None:
        """The state was replaced: everyone reads history again."""
        for watcher in self._live():
            watcher.retreat()
        self.published = self.state.revision

    def close(self, error: StoreError) -> None:
        """End every live watch, and every later one, with `error`."""
        self._closed = error
        for watcher in self._live():
            watcher.fail(error)

    def _live(self) -> list[Watcher]:
        return [watcher for watchers in self._folders.values() for watcher in watchers]

    def enter(self, watcher: Watcher) -> None:
        """Hand changes to `watcher` from now on."""
        self._folders.setdefault(watcher.folder, {})[watcher] = None
        self._count += 1

    def leave(self, watcher: Watcher) -> None:
        """Stop handing changes to `watcher`."""
        watchers = self._folders[watcher.folder]
        del watchers[watcher]
        self._count -= 1
        if not watchers:
            del self._folders[watcher.folder]


def event(version: Version) -> Event:
    """A version as watchers are told of it."""
    kv, old = version.kv, version.previous
    return Event(
        kv.key,
        (kv.value or None) if version.deleted else kv.value,
        None if old is None or old.deleted else old.kv,
        kv.mod_revision,
        kv.create_revision,
        version.cause,
        version.deleted,
    )


def _folders(key: str) -> list[str]:
    """The folders that hold `key`: "" for watchers of everything, then one per slash."""
    found = [""]
    at = key.find("/")
    while at >= 0:
        found.append(key[: at + 1])
        at = key.find("/", at + 1)
    return found
