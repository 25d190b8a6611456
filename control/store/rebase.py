"""A state carried over into a new cluster: restored from a snapshot, or recovered from what a lost majority left.

The new cluster goes on at a much higher revision than the old one can have reached. Whoever watched the old one may have seen
revisions that the state at hand does not have: if the new cluster gave those numbers again, a watcher that comes back would wait for
its next revision and miss, in silence, what happened under the numbers it knows. As it is, its revision is forgotten here, it is
told so, and lists everything again. For the same reason no history is carried over: the revisions between do not exist.

The one change that the new cluster begins with, at `ORIGIN`, says where it comes from. Everything is a function of what goes in, so
members that restore the same snapshot begin with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from control.store import snapshot

ORIGIN: Final = "/cluster/origin"
MEMBERS: Final = "/cluster/members/"  # addresses of the old members: the new ones announce themselves
GAP: Final = 1_000_000_000  # revisions: more than a cluster writes in a year at 30 a second, nothing of 63 bits
ACTOR: Final = "system:recovery"


class Origin(msgspec.Struct, frozen=True):
    """Where a cluster's state comes from."""

    cluster: str  # the id of the cluster that wrote it
    revision: int  # there
    how: str  # "snapshot" or "recovery"


def rebase(chunks: Iterable[bytes], cluster: str, how: str) -> Iterator[bytes]:
    """The newest state in a snapshot of `cluster`, as the snapshot that a new cluster begins with.

    Raises:
        SnapshotDamagedError: before the first chunk is given.
    """
    header, records = snapshot.read(chunks)
    living: dict[str, snapshot.Record] = {}
    for record in records:
        key, deleted = record[0], record[4]
        if deleted:
            living.pop(key, None)
        elif key != ORIGIN and not key.startswith(MEMBERS):
            living[key] = record
    revision = header.revision + GAP
    value = msgspec.json.encode(Origin(cluster, header.revision, how))
    origin = (ORIGIN, value, revision, revision, False, ACTOR, header.revision, header.time)
    fresh = snapshot.Header(revision, revision - 1, header.time, len(living), 1)
    return snapshot.write(fresh, (*living.values(), origin))
