"""A sorted set of keys: blocks of sorted lists.

A sorted list with `bisect.insort` moves half of itself at every insert; at 100,000 keys that is 400 KB. Cut into blocks of
a few hundred keys, an insert moves a few kilobytes, and finding the block is a bisection over each block's last key.
Keys are compared by code point, which is the order of their UTF-8 bytes, so every backend lists in the same order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

BLOCK = 512  # keys; a block is split at twice this. Larger blocks: slower inserts; smaller: more blocks to count over


class SortedKeys:
    """Keys in order, without duplicates."""

    __slots__ = ("_blocks", "_lasts", "_size")

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(set(keys))
        self._blocks = [ordered[i : i + BLOCK] for i in range(0, len(ordered), BLOCK)]
        self._lasts = [block[-1] for block in self._blocks]
        self._size = len(ordered)

    def __len__(self) -> int:
        return self._size

    def add(self, key: str) -> None:
        """Insert a key; one that is there already changes nothing."""
        blocks, lasts = self._blocks, self._lasts
        if not blocks:
            blocks.append([key])
            lasts.append(key)
            self._size = 1
            return
        at = bisect_left(lasts, key)
        if at == len(lasts):
            at -= 1
            block = blocks[at]
            block.append(key)
            lasts[at] = key
        else:
            block = blocks[at]
            place = bisect_left(block, key)
            if block[place] == key:
                return
            block.insert(place, key)
        self._size += 1
        if len(block) > 2 * BLOCK:
            blocks.insert(at + 1, block[BLOCK:])
            del block[BLOCK:]
            lasts.insert(at, block[-1])

    def discard(self, key: str) -> None:
        """Remove a key; one that is not there changes nothing."""
        blocks, lasts = self._blocks, self._lasts
        at = bisect_left(lasts, key)
        if at == len(lasts):
            return
        block = blocks[at]
        place = bisect_left(block, key)
        if block[place] != key:
            return
        del block[place]
        self._size -= 1
        if block:
            lasts[at] = block[-1]
        else:
            del blocks[at], lasts[at]

    def under(self, prefix: str, after: str = "") -> Iterator[str]:
        """Walk the keys that begin with `prefix`, those after `after` only. Not to be mixed with changes."""
        blocks = self._blocks
        beyond = after >= prefix and after != ""
        start = after if beyond else prefix
        search = bisect_right if beyond else bisect_left
        for at in range(bisect_left(self._lasts, start), len(blocks)):
            block = blocks[at]
            first = search(block, start) if block[0] <= start else 0
            if block[-1].startswith(prefix):
                yield from block[first:] if first else block
                continue
            for place in range(first, len(block)):
                if not block[place].startswith(prefix):
                    return
                yield block[place]

    def count(self, prefix: str) -> int:
        """How many keys begin with `prefix`."""
        if not prefix:
            return self._size
        return self._rank(_end(prefix)) - self._rank(prefix)

    def _rank(self, key: str) -> int:
        """How many keys come before `key`."""
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            return self._size
        return sum(map(len, self._blocks[:at])) + bisect_left(self._blocks[at], key)


def _end(prefix: str) -> str:
    """A string that comes after every key with the prefix (keys do not hold the last code point)."""
    return prefix + chr(0x10FFFF)


__all__ = ["SortedKeys"]
