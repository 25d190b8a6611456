"""Who leads, as the API sees it: writes are decided by the leader only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol


class LeaderView(Protocol):
    """One observation of leadership (`control.raft`'s LeaderState has this form)."""

    @property
    def leader(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def is_self(self) -> bool: ...


class Leadership:
    """The newest observation, and a way to wait for the next.

    Args:
        name: this member.
        alone: there is nobody else, so this member leads from the start (a store without Raft).
    """

    def __init__(self, name: str, *, alone: bool = False) -> None:
        self.name = name
        self.leader = name if alone else ""
        self.term = 1 if alone else 0
        self.is_self = alone
        self._changed: asyncio.Event = asyncio.Event()

    def update(self, view: LeaderView) -> None:
        """Take over an observation and wake everyone who waits."""
        self.leader, self.term, self.is_self = view.leader, view.term, view.is_self
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, views: AsyncIterator[LeaderView]) -> None:
        """Keep current from Raft's observations until cancelled."""
        async for view in views:
            self.update(view)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next observation: take it, look at the present one, then wait, and nothing is missed."""
        return self._changed
