"""What admission is to the handlers: a chain that may change a document or refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from control.identity import Caller
from control.registry import Resource

Document = dict[str, Any]
Operation = Literal["CREATE", "UPDATE", "DELETE"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """One write as admission sees it.

    Attributes:
        document: the new state, which admission may change in place; None of a deletion.
        old: the stored state; None of a creation.
    """

    operation: Operation
    resource: Resource
    document: Document | None
    old: Document | None
    caller: Caller
    subresource: str = ""
    dry_run: bool = False


class Admission(Protocol):
    """The chain."""

    async def admit(self, attributes: Attributes) -> list[str]:
        """Answer warnings. Raises ApiError to refuse."""
        ...


class AdmitAll:
    """No chain at all: for tests of what comes before and after it."""

    async def admit(self, attributes: Attributes) -> list[str]:  # noqa: ARG002 - the protocol's shape
        return []
