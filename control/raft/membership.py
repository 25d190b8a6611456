"""Changes of membership, one member at a time (dissertation §4.1-4.3).

A membership is in force on a member as soon as it is in that member's log, committed or not. Any majority of the old
voters then overlaps any majority of the new ones, because at most one voter differs. Two conditions keep that true, and
`core.Core.change_membership` holds them: the previous change is committed, and the leader has committed an entry of its
own term. Without the second, two leaders could each append a change to the same old membership and both find majorities
that do not overlap (the mistake in the dissertation's first description of the algorithm).

New members start as learners, so that a member with an empty log never counts in a majority that it cannot help.
"""

from __future__ import annotations

import msgspec

from control.raft.interface import MembershipError
from control.raft.messages import Entry, EntryKind, Membership


def add_learner(current: Membership, name: str, address: str) -> Membership:
    """Let a new member receive the log. Raises MembershipError when the name or the address is taken."""
    if not name or not address:
        raise MembershipError("a new member needs a name and an address (host:port)")
    if name in current:
        raise MembershipError(f"{name} is a member already (at {current.addresses.get(name)}): remove it first")
    for other, taken in current.addresses.items():
        if taken == address:
            raise MembershipError(f"address {address} belongs to {other}")
    return msgspec.structs.replace(
        current, learners=current.learners | {name}, addresses={**current.addresses, name: address}
    )


def promote(current: Membership, name: str) -> Membership:
    """Make a learner a voter. Raises MembershipError when it is none."""
    if name in current.voters:
        raise MembershipError(f"{name} votes already")
    if name not in current.learners:
        raise MembershipError(f"{name} is not a member: add it first; members are {', '.join(current.names)}")
    return msgspec.structs.replace(current, voters=current.voters | {name}, learners=current.learners - {name})


def remove(current: Membership, name: str) -> Membership:
    """Take a member out. Raises MembershipError when it is none, or the last voter."""
    if name not in current:
        raise MembershipError(f"{name} is not a member; members are {', '.join(current.names)}")
    if current.voters == {name}:
        raise MembershipError(f"{name} is the last voter: a cluster without voters can never decide anything again")
    return msgspec.structs.replace(
        current,
        voters=current.voters - {name},
        learners=current.learners - {name},
        addresses={other: address for other, address in current.addresses.items() if other != name},
    )


class MembershipHistory:
    """The memberships of the log from its snapshot on, so that cutting the log's end goes back to an older one."""

    def __init__(self, base_index: int, base: Membership) -> None:
        self._history: list[tuple[int, Membership]] = [(base_index, base)]

    @property
    def current(self) -> Membership:
        """The one in force: the last in the log."""
        return self._history[-1][1]

    @property
    def index(self) -> int:
        """Where the log says so."""
        return self._history[-1][0]

    def at(self, index: int) -> Membership:
        """The one in force when the log ended at `index` (not before the base)."""
        return next(membership for since, membership in reversed(self._history) if since <= index)

    def append(self, entry: Entry) -> None:
        """Take note of an entry that was added to the log."""
        if entry.kind is EntryKind.MEMBERSHIP and entry.index > self.index:
            self._history.append((entry.index, Membership.decode(entry.data)))

    def truncate(self, index: int) -> bool:
        """Forget what entries from `index` on said; answer whether the membership in force changed."""
        length = len(self._history)
        while len(self._history) > 1 and self._history[-1][0] >= index:
            self._history.pop()
        return len(self._history) != length

    def compact(self, index: int) -> None:
        """A snapshot now stands for everything up to `index`: changes before it can no longer be cut."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            self._history.pop(0)
