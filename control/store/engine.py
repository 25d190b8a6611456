"""State, watches, indexes and history in step: what every backend that keeps the state itself is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from control.store.history import History
from control.store.index import Index
from control.store.interface import KeyValue, Range, Txn, TxnResult
from control.store.mvcc import Budget, Mvcc, Seal, Unseal
from control.store.watch import Watcher, WatchHub


class Engine:
    """The applied state and those who look at it. Everything happens in one event loop; nothing here waits."""

    def __init__(self, budget: Budget | None = None, state: Mvcc | None = None) -> None:
        self.state = Mvcc(budget) if state is None else state
        self.hub = WatchHub(self.state)
        self.index = Index(self.state.get)
        self.history = History(self.state)

    def apply(self, txns: Sequence[Txn], time: int) -> list[TxnResult]:
        """Apply transactions proposed at `time` (ms since the epoch), then tell watchers and indexes."""
        state = self.state
        results: list[TxnResult] = []
        for txn in txns:
            revision = state.revision
            results.append(state.apply(txn, time))
            if state.revision > revision:
                for version in state.changes(revision, 1)[0]:
                    self.index.mark(version.kv.key)
                # Each revision is published while it is sure to be in the history, however small the budget.
                self.hub.publish(revision)
        return results

    def snapshot(self, seal: Seal | None = None) -> Iterator[bytes]:
        """See `Mvcc.snapshot`."""
        return self.state.snapshot(seal)

    def restore(self, chunks: Iterable[bytes], unseal: Unseal | None = None) -> None:
        """See `Mvcc.restore`; watchers go on from where they are, as far as the snapshot's history reaches."""
        self.state.restore(chunks, unseal)
        self.index.mark_all(self.state.keys())
        self.hub.reset()

    def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """See `Store.get`."""
        return self.state.get(key, revision)

    def range(self, prefix: str, *, revision: int = 0, limit: int = 0, after: str = "") -> Range:
        """See `Store.range`."""
        return self.state.range(prefix, revision=revision, limit=limit, after=after)

    def watch(self, prefix: str, after: int) -> Watcher:
        """See `Store.watch`."""
        return self.hub.watch(prefix, after)
