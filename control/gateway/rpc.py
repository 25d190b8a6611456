"""How the gateway's gRPC handlers refuse."""

from __future__ import annotations

from typing import Any, NoReturn

from steersman.errors import DETAILS_KEY, ApiError

LEADER_KEY = "steersman-leader"  # trailing metadata: the gRPC address of the member that leads


async def refuse(context: Any, error: ApiError, leader: str = "") -> NoReturn:
    """End a call with an error, its details in the standard trailer; `leader` is where to go instead."""
    trailer: list[tuple[str, str | bytes]] = [(DETAILS_KEY, error.trailer())]
    if leader:
        trailer.append((LEADER_KEY, leader))
    await context.abort(error.grpc_code, error.message, tuple(trailer))
    raise AssertionError("abort raises")
