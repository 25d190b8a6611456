"""Which images may go when the disk fills.

An image is in use while a container here was made from it or a pod assigned here names it. The one that has been out of
use for longest goes first, and none that came a moment ago: the pod that it was pulled for may not be known yet. Who
removes looks at the disk again after each: what an image frees cannot be told beforehand, since images share layers.
What was used when is remembered only as long as the agent runs; after a restart all images begin anew, and stay a while.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

# The kubelet's defaults, as shares of the disk: low enough to act well before pods are evicted for want of disk.
FULL, ENOUGH = 0.85, 0.80
MIN_AGE_S = 120.0


class ImageUse:
    """When each image was last in use, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def observe(self, present: Iterable[str], in_use: Collection[str], now: float) -> None:
        """Note which of the images that are here are in use; one seen for the first time counts as used now."""
        self._last = {name: now if name in in_use else self._last.get(name, now) for name in present}

    def removable(self, now: float) -> list[str]:
        """Images that may go, the longest unused first."""
        old = [(last, name) for name, last in self._last.items() if now - last >= MIN_AGE_S]
        return [name for _, name in sorted(old)]


def too_full(free: int, size: int, share: float) -> bool:
    """Whether more than `share` of a disk of `size` bytes is taken."""
    return size - free > share * size
