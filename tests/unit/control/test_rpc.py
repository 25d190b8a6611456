"""What every service does with a call: refusals that fit, failures that stay inside, calls that end in order."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from typing import Any

import grpc
import grpc.aio
import pytest

from control import rpc
from steersman.clock import ManualClock
from steersman.errors import DETAILS_KEY, ApiError, Cause, unavailable


class EndedError(Exception):
    """What gRPC's abort raises."""


class Context:
    def __init__(self) -> None:
        self.told: tuple[grpc.StatusCode, str, dict[str, Any]] | None = None
        self.taken = asyncio.Event()
        self.written: list[str] = []

    async def abort(self, code: grpc.StatusCode, message: str, trailer: Any) -> None:
        self.told = code, message, dict(trailer)
        raise EndedError

    async def write(self, message: str) -> None:
        await self.taken.wait()
        self.written.append(message)


async def ended(error: Exception, **options: Any) -> Context:
    context = Context()
    with pytest.raises(EndedError):
        async with rpc.stream("Logs", context, **options):
            raise error
    return context


async def test_a_refusal_says_where_to_go_instead() -> None:
    context = await ended(unavailable("not here"), leader=lambda: "10.0.0.2:7443")
    assert context.told is not None
    assert context.told[:2] == (grpc.StatusCode.UNAVAILABLE, "not here")
    assert context.told[2][rpc.LEADER_KEY] == "10.0.0.2:7443"


@pytest.mark.parametrize("letter", ["x", "%", "é", "語", "😀"])
async def test_a_refusal_fits_into_the_trailer(letter: str) -> None:
    causes = [Cause("FieldValueInvalid", "x" * 100, f"spec.f{n}") for n in range(1_000)]
    context = await ended(ApiError("Invalid", letter * 100_000, name=letter * 5_000, causes=causes))
    assert context.told is not None
    assert len(context.told[2][DETAILS_KEY]) <= rpc.TRAILER_LIMIT
    assert len(urllib.parse.quote(context.told[1])) <= rpc.MESSAGE_LIMIT + 500
    assert context.told[1].endswith("…")


async def test_a_failure_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        context = await ended(KeyError("inner secret"))
    assert context.told is not None
    assert context.told[0] is grpc.StatusCode.INTERNAL
    assert "secret" not in context.told[1]
    assert "inner secret" in caplog.text


async def test_a_peer_that_goes_away_is_nothing_to_report(caplog: pytest.LogCaptureFixture) -> None:
    async with rpc.stream("Logs", Context()):
        raise grpc.aio.BaseError("gone")
    assert not caplog.records


async def test_a_call_ends_after_the_message_that_is_being_sent() -> None:
    """Else its status is lost, and the peer waits forever."""
    context = Context()
    pen = rpc.Pen(context)
    writing = asyncio.ensure_future(pen.write("last"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    settling = asyncio.ensure_future(pen.settled())
    await asyncio.sleep(0)
    assert not settling.done()
    context.taken.set()
    await settling
    assert context.written == ["last"]


async def test_a_failure_of_a_unary_call_stays_inside() -> None:
    async def fail() -> None:
        raise KeyError("inner secret")

    context = Context()
    with pytest.raises(EndedError):
        await rpc.unary("Join", context, ManualClock(), fail)
    assert context.told is not None
    assert "secret" not in context.told[1]
