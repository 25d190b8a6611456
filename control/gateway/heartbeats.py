"""When each node was last heard from: in the leader's memory only, never in the log.

An acknowledged heartbeat renews the node's lease, so it must not be given by a member that no longer leads: the new
leader would not know of it. Sessions end when a member stops leading, and a member that lost its majority stops within
an election time-out (about a second); a new leader counts a node's silence from the start of its own term at the
earliest and grants a margin on top of the lease that is longer than that. So whatever the old leader acknowledged last
is over before the new one calls a node lost.

Nothing is ever forgotten here. What was heard in an earlier term is older than the start of the present one, which counts
instead; and what was heard in this one must outlive a gateway that fails and is started again, or nodes that hold a
good lease would be called lost.
"""

from __future__ import annotations

from steersman.clock import Clock


class Heartbeats:
    """Times are monotonic seconds of this member's clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def beat(self, node: str) -> float:
        """The node was heard from just now; answers how many seconds it had been silent (0.0 the first time)."""
        now = self._clock.monotonic()
        before = self._last.get(node, now)
        self._last[node] = now
        return now - before

    def last(self, node_name: str) -> float | None:
        """When this leader last heard from the node; None: never."""
        return self._last.get(node_name)
