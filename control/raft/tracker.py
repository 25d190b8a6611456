"""What a leader knows of one other member, and how it sends to it.

A peer is in one of three states:

- PROBE: the leader does not know where the logs agree. One Append at a time, then wait for the answer (or for the next
  heartbeat's, should the Append be lost).
- REPLICATE: the logs agree. Appends are pipelined: `next` moves on as they are sent, without waiting, as long as the
  bytes under way stay under a limit.
- SNAPSHOT: the peer needs entries that are gone; nothing is sent until its snapshot has arrived or failed.

Invariant: match < next. `match` only grows within a term: what a peer said is durable stays so.
"""

from __future__ import annotations

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How the leader sends to a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One peer, seen by the leader. Belongs to one term of one leader and is thrown away with it."""

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "active",
        "commit_sent",
        "match",
        "max_inflight_bytes",
        "next",
        "paused",
        "poked",
        "snapshot_index",
        "state",
    )

    def __init__(self, next_index: int, max_inflight_bytes: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = ProgressState.PROBE
        self.paused = False  # PROBE: an Append is under way
        self.poked = True  # send an Append even when there is nothing new: the answer tells whether something was lost
        self.active = True  # heard from since the last check of the quorum; new peers get the benefit of the doubt
        self.commit_sent = 0  # the newest commit index it was told
        self.snapshot_index = 0  # SNAPSHOT: what is being sent
        self.max_inflight_bytes = max_inflight_bytes
        self._inflight: deque[tuple[int, int]] = deque()  # (last index, bytes) of Appends without an answer yet
        self._inflight_bytes = 0

    @property
    def full(self) -> bool:
        """Whether no more entries may be sent before an answer comes."""
        return self._inflight_bytes >= self.max_inflight_bytes

    def sent(self, last_index: int, size_bytes: int) -> None:
        """Entries up to `last_index` have gone out."""
        if self.state is ProgressState.REPLICATE:
            self.next = last_index + 1
            self._inflight.append((last_index, size_bytes))
            self._inflight_bytes += size_bytes
        else:
            self.paused = True

    def accepted(self, index: int) -> bool:
        """Take note that everything up to `index` is durable there; answer whether that is news."""
        while self._inflight and self._inflight[0][0] <= index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        self.paused = False
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        return True

    def rejected(self, index: int, retry_at: int) -> bool:
        """Handle a refusal of an Append that followed `index`: probe at `retry_at` or before; answer whether it was news.

        Answers that come late or twice are recognised: something at or below `match` cannot be missing, and a probe
        has exactly one Append under way.
        """
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.probe(self.match + 1)
            return True
        if self.state is ProgressState.SNAPSHOT or index != self.next - 1:
            return False
        self.next = max(min(index, retry_at), self.match + 1)
        self.paused = False
        return True

    def probe(self, next_index: int) -> None:
        """Find out again where the logs agree, beginning at `next_index`."""
        self._become(ProgressState.PROBE, next_index)

    def replicate(self) -> None:
        """Agreement up to `match` is known: pipeline from there."""
        self._become(ProgressState.REPLICATE, self.match + 1)

    def install(self, snapshot_index: int) -> None:
        """A snapshot is on its way."""
        self._become(ProgressState.SNAPSHOT, self.next)
        self.snapshot_index = snapshot_index

    def _become(self, state: ProgressState, next_index: int) -> None:
        self.state = state
        self.next = next_index
        self.paused = False
        self.poked = state is ProgressState.PROBE
        self.snapshot_index = 0
        self._inflight.clear()
        self._inflight_bytes = 0
