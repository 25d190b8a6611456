"""Who waits for which container's end: the runtime's one stream of exits, handed to the life cycles by container id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from node.runtime.interface import Container, Exit, Exited, Runtime, RuntimeEvent, RuntimeFailure

log = logging.getLogger(__name__)


class ExitWatch:
    """Remembers every exit until the container is forgotten, so that nobody has to be waiting when it happens."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ended: dict[str, Exit] = {}
        self._waiting: dict[str, asyncio.Future[Exit]] = {}
        self.connected = True
        self.on_connection: Callable[[bool], None] = lambda _connected: None

    async def start(self) -> AsyncIterator[RuntimeEvent]:
        """Subscribe, then take in what has ended already; answers the stream for `follow`."""
        stream = self._runtime.events()
        for container in await self._runtime.containers():
            if container.exit is not None:
                self._note(container)
        return stream

    async def follow(self, stream: AsyncIterator[RuntimeEvent]) -> None:
        """Take in the runtime's events until cancelled."""
        async for event in stream:
            if isinstance(event, Exited):
                self._note(event.container)
            else:
                self.connected = event.connected
                log.log(
                    logging.INFO if event.connected else logging.WARNING,
                    "the container runtime %s",
                    "answers" if event.connected else "does not answer",
                )
                self.on_connection(event.connected)

    def _note(self, container: Container) -> None:
        if container.exit is None or container.id in self._ended:
            return
        self._ended[container.id] = container.exit
        waiter = self._waiting.pop(container.id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(container.exit)

    async def wait(self, container_id: str) -> Exit:
        """How a container ended, once it has."""
        ended = self._ended.get(container_id)
        if ended is not None:
            return ended
        waiter = self._waiting.get(container_id)
        if waiter is None:
            waiter = self._waiting[container_id] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(waiter)

    def forget(self, container_id: str) -> None:
        """The container was removed: its exit was taken note of."""
        self._ended.pop(container_id, None)
        self._waiting.pop(container_id, None)

    async def remove(self, container_id: str) -> None:
        """Remove a container from the runtime and forget its exit; a runtime that is away is asked again by the sweep."""
        try:
            await self._runtime.remove(container_id)
        except RuntimeFailure as error:
            log.warning("container %s could not be removed: %s", container_id[:12], error)
            return
        self.forget(container_id)
