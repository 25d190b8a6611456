"""Reads that wait for a leader to confirm that it still leads (dissertation §6.4).

A read may use the leader's commit index once the leader has heard from a majority *after* the read arrived: nobody else
can have led, and so committed anything newer, before that. Reads share these confirmations. One round is under way at a
time; what arrives meanwhile waits for the next one. Heartbeats carry the number of the round, so a round whose messages
were lost is completed by the next regular heartbeat.
"""

from __future__ import annotations


class ReadQueue:
    """The leader's reads; thrown away with its term."""

    def __init__(self) -> None:
        self.round = 0
        self.waiting: list[tuple[str, int]] = []  # (who asks, its number for the read), not yet part of a round
        self._confirming: list[tuple[str, int]] = []
        self._index = 0
        self._acknowledged: set[str] = set()

    @property
    def confirming(self) -> bool:
        """Whether a round is under way."""
        return bool(self._confirming)

    def add(self, asker: str, context: int) -> None:
        """A read arrived."""
        self.waiting.append((asker, context))

    def begin(self, commit: int) -> None:
        """Start a round for all that wait; they may read at `commit`."""
        self.round += 1
        self._index = commit
        self._confirming, self.waiting = self.waiting, []
        self._acknowledged.clear()

    def acknowledge(self, name: str, number: int) -> None:
        """A member followed this leader when round `number` reached it."""
        if number == self.round:
            self._acknowledged.add(name)

    def acknowledged(self, name: str) -> bool:
        """Whether the member has confirmed the round under way."""
        return name in self._acknowledged

    def finish(self) -> tuple[int, list[tuple[str, int]]]:
        """End the round: the index to read at, and who may."""
        reads, self._confirming = self._confirming, []
        return self._index, reads
