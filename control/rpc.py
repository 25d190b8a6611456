"""What every gRPC service of a member does with a call: who calls, how it is refused, what is counted.

An `ApiError` becomes the status code with its Status in the details. Anything else that is raised is logged with its
traceback here and told as an internal error: nobody outside ever sees a traceback. A peer that goes away in the middle of
a call is nothing to report.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NoReturn

import grpc.aio

from control import metrics
from control.identity import Caller, SubjectCache, from_auth_context, speaking_for
from steersman.clock import Clock
from steersman.errors import DETAILS_KEY, ApiError

log = logging.getLogger("control.rpc")

LEADER_KEY: Final = "steersman-leader"  # trailing metadata: the gRPC address of the member that leads
# Trailing metadata is limited to 8 KiB; the sentence travels three times, percent-encoded once.
MESSAGE_LIMIT: Final = 1_000  # bytes, percent-encoded
NAME_LIMIT: Final = 300  # likewise; an object's name has 253
TRAILER_LIMIT: Final = 4_000  # bytes


class Gatekeeper:
    """Tells who is calling."""

    def __init__(self, subjects: SubjectCache | None = None) -> None:
        self._subjects = subjects or SubjectCache()

    def caller(self, context: Any) -> Caller:
        """The peer, or whom it speaks for. Raises ApiError for a call that claims to be forwarded and is not."""
        peer = from_auth_context(context.auth_context(), self._subjects)
        try:
            return speaking_for(peer, tuple(context.invocation_metadata() or ()))
        except (PermissionError, ValueError) as error:
            raise ApiError("Forbidden", str(error)) from None


async def refuse(context: Any, error: ApiError, leader: str = "") -> NoReturn:
    """End a call with an error; `leader` is where to go instead."""
    error = shortened(error)
    trailer: list[tuple[str, str | bytes]] = [(DETAILS_KEY, error.trailer())]
    if leader:
        trailer.append((LEADER_KEY, leader))
    await context.abort(error.grpc_code, error.message, tuple(trailer))
    raise AssertionError("abort raises")


def shortened(error: ApiError) -> ApiError:
    """The error as it fits into trailing metadata."""
    message, causes = _cut(error.message, MESSAGE_LIMIT), error.causes
    while True:
        short = ApiError(
            error.reason,
            message,
            code=error.code,
            group=_cut(error.group, NAME_LIMIT),
            kind=_cut(error.kind, NAME_LIMIT),
            name=_cut(error.name, NAME_LIMIT),
            causes=causes,
            retry_after=error.retry_after,
        )
        if not causes or len(short.trailer()) <= TRAILER_LIMIT:
            return short
        causes = causes[: len(causes) // 2]


def _cut(text: str, limit: int) -> str:
    """As much of a text as takes `limit` bytes when it is percent-encoded, with a sign that there was more."""
    left = limit
    for index, character in enumerate(text):
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode(errors="replace"))
        if left < 0:
            return text[:index] + "…"
    return text


def internal_error(verb: str, failure: Exception) -> ApiError:
    """What is told of a failure of ours, which is logged here."""
    log.error("%s failed", verb, exc_info=failure)
    return ApiError("InternalError", f"internal error in {verb}: this member's log has the details")


async def unary(verb: str, context: Any, clock: Clock, answer: Callable[[], Awaitable[Any]]) -> Any:
    """A call with one answer."""
    started = clock.monotonic()
    code = "OK"
    try:
        return await answer()
    except ApiError as error:
        code, problem = error.reason, error
    except asyncio.CancelledError:
        code = "Cancelled"
        raise
    except Exception as failure:
        code, problem = "InternalError", internal_error(verb, failure)
    finally:
        metrics.observe("grpc", verb, code, clock.monotonic() - started)
    return await refuse(context, problem)


@asynccontextmanager
async def stream(verb: str, context: Any, leader: Callable[[], str] = str) -> AsyncIterator[None]:
    """A call that reads and writes messages itself: refused and counted like any other.

    `leader` answers where to go when this member is the wrong one.
    """
    code = "OK"
    problem: ApiError | None = None
    metrics.STREAMS.labels(verb).inc()
    try:
        yield
    except ApiError as error:
        code, problem = error.reason, error
    except asyncio.CancelledError:
        code = "Cancelled"
        raise
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        code = "Cancelled"
        log.debug("the peer of %s went away: %s", verb, error)
    except Exception as failure:
        code, problem = "InternalError", internal_error(verb, failure)
    finally:
        metrics.STREAMS.labels(verb).dec()
        metrics.REQUESTS.labels("grpc", verb, code).inc()
    if problem is not None:
        await refuse(context, problem, leader() if problem.reason == "ServiceUnavailable" else "")


class Pen:
    """Writes the messages of a call from a task that may be cancelled.

    gRPC cannot end a call while a message of it is being sent: its status is lost, and the peer waits forever. So a
    cancelled `write` goes on in the background, and whoever ends the call waits for it with `settled`. It ends when the
    peer takes the message or is gone, which keepalive notices.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._under_way: asyncio.Future[None] | None = None

    async def write(self, message: Any) -> None:
        self._under_way = asyncio.ensure_future(self._context.write(message))
        await asyncio.shield(self._under_way)

    async def settled(self) -> None:
        """Wait until nothing is being sent."""
        if self._under_way is not None:
            with suppress(Exception):
                await self._under_way
