"""Majorities: three pure functions over the voters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum


class VoteResult(Enum):
    """Where an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def has_majority(voters: Collection[str], agrees: Callable[[str], bool]) -> bool:
    """Whether more than half of the voters agree. Nobody voting is no majority."""
    return 2 * sum(1 for name in voters if agrees(name)) > len(voters)


def vote_result(voters: Collection[str], votes: Mapping[str, bool]) -> VoteResult:
    """Count the answers of voters; who has not answered may still go either way."""
    granted = sum(1 for name in voters if votes.get(name) is True)
    refused = sum(1 for name in voters if votes.get(name) is False)
    if 2 * granted > len(voters):
        return VoteResult.WON
    if 2 * (len(voters) - refused) <= len(voters):
        return VoteResult.LOST
    return VoteResult.PENDING


def committed_index(voters: Collection[str], match: Callable[[str], int]) -> int:
    """Find the highest index that a majority of the voters holds durably (paper §5.3, §5.4).

    Sorted downwards, the entry at position n // 2 is held by n // 2 + 1 members.
    """
    if not voters:
        return 0
    return sorted(map(match, voters), reverse=True)[len(voters) // 2]
