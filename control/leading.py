"""What the leader runs beside the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control.member import Member, Part


def leader_parts(member: Member) -> dict[str, Part]:  # noqa: ARG001
    return {}
