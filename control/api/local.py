"""The SDK's transport without a wire: straight to the handlers of the same member.

Controllers, scheduler and gateway use the ordinary client over this, so they could run in another process with no change.
Writes fail with ServiceUnavailable when this member does not lead: they are never forwarded, because who decides on
the leader's behalf must be the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from google.protobuf.message import Message

from control.api.handlers import Handlers
from control.identity import Caller
from steersman.errors import ApiError
from steersman.transport import DEFAULT_TIMEOUT_S, Duplex


class LocalTransport:
    """`steersman.transport.Transport` over the handlers."""

    def __init__(self, handlers: Handlers, caller: Caller) -> None:
        self._caller = caller
        self._unary = {
            "Get": handlers.get,
            "List": handlers.list,
            "Create": handlers.create,
            "Update": handlers.update,
            "Apply": handlers.apply,
            "Patch": handlers.patch,
            "Delete": handlers.delete,
            "DeleteCollection": handlers.delete_collection,
            "Batch": handlers.batch,
            "Kinds": handlers.kinds,
            "History": handlers.history,
            "Moment": handlers.moment,
        }
        self._watch = handlers.watch

    async def unary(
        self,
        service: str,
        method: str,
        request: Message,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        idempotent: bool = True,  # noqa: ARG002 - nothing is repeated here
    ) -> Any:
        """Call a method of the object service."""
        function: Any = self._unary.get(method)
        if service != "Objects" or function is None:
            _not_here(service, method)
        try:
            async with asyncio.timeout(timeout):
                return await function(request, self._caller)
        except TimeoutError:
            raise ApiError("Timeout", f"{method} was not answered within {timeout:g} s") from None

    def stream(self, service: str, method: str, request: Message) -> AsyncIterator[Any]:
        """Watch."""
        if (service, method) != ("Objects", "Watch"):
            _not_here(service, method)
        return self._watch(request, self._caller)  # type: ignore[arg-type]

    def duplex(self, service: str, method: str) -> Duplex:
        """No method of the object service is one."""
        _not_here(service, method)

    async def close(self) -> None:
        """Nothing is held."""


def _not_here(service: str, method: str) -> NoReturn:
    raise ApiError("MethodNotAllowed", f"{service}.{method} is not served inside a member")
