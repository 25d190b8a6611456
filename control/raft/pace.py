"""How patient elections must be with this member's disk.

A vote counts only when it is on a disk: the candidate's own, then the voter's, and the leader's first entry after them. Where a
sync takes as long as an election time-out, members would stand again before the votes for them are written, and leaders step
down before anybody could have answered them. So a member measures its syncs and stretches its time-outs to fit.

A stretched time-out costs availability only: a lost leader is noticed later. Safety never depends on time.
"""

from __future__ import annotations

import math

WRITES_IN_TURN = 3  # candidate's vote, voter's vote, first entry
FORGET = 0.9  # per sync: after some twenty quick ones a slow one is forgotten
LONGEST = 10  # times the configured time-out: beyond, a disk is down rather than slow, and must not hold the others up


class DiskPace:
    """The slowest sync of late."""

    def __init__(self) -> None:
        self.slowest_s = 0.0

    def observe(self, seconds: float) -> None:
        """A sync took so long."""
        self.slowest_s = max(seconds, self.slowest_s * FORGET)

    def election_ticks(self, configured: int, tick_s: float) -> int:
        """The least election time-out to use instead of the configured one; never less than that."""
        needed = math.ceil(WRITES_IN_TURN * self.slowest_s / tick_s)
        return min(max(configured, needed), LONGEST * configured)
