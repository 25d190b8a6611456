"""An event loop on a world's time: asyncio code runs in it as in any other, and the same seed runs the same way.

Every callback is an event of the world. A loop is the life of one process: when the process is killed the loop is dead,
and nothing that waits in it ever runs again. Threads are played: what an executor is asked to do happens in one go,
some simulated milliseconds later, and one job of an executor after the other.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Times(Protocol):
    """What a loop needs of a world."""

    now_ms: float
    broken: Exception | None  # what went wrong where nobody sees it

    def after(self, delay_ms: float, action: Callable[[], None]) -> None: ...


class SimLoop(asyncio.AbstractEventLoop):
    """One process's event loop.

    Args:
        rate: how fast this process's clock goes; 1.1 is ten per cent too fast.
        latency_ms: how long the next job of an executor takes.
    """

    def __init__(self, world: Times, rate: float = 1.0, latency_ms: Callable[[], float] = lambda: 1.0) -> None:
        self._world = world
        self._rate = rate
        self._latency_ms = latency_ms
        self._free_at: dict[Any, float] = {}  # executor -> when it has done everything it was asked to, ms
        self._tasks: list[asyncio.Task[Any]] = []
        self.jobs: list[Callable[[], Any]] = []  # asked of executors and not done yet
        self.on_kill: dict[int, Callable[[], None]] = {}  # connections to this process, by a number of their own
        self._connections = 0
        self._ready: dict[asyncio.Handle, None] = {}  # due now, and not run yet
        self.dead = False

    # --- time

    def time(self) -> float:
        return self._world.now_ms / 1000 * self._rate

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self._ready[handle] = None
            self._world.after(0.0, lambda: self.run(handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._world.after(max(0.0, when - self.time()) * 1000 / self._rate, lambda: self.run(handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def run(self, handle: asyncio.Handle) -> None:
        if self.dead:
            return
        self._ready.pop(handle, None)
        if handle._cancelled:
            return
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(before)

    def do(self, action: Callable[..., object], *args: Any) -> None:
        """Run something in this loop now."""
        self.run(asyncio.Handle(action, args, self))

    # --- tasks and threads

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        if len(self._tasks) > 200:
            self._tasks = [known for known in self._tasks if not known.done()]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()

        def job() -> Any:
            return func(*args)

        def work() -> None:
            if self.dead:
                return
            self.jobs.remove(job)
            try:
                result = job()
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        if not self.dead:
            self.jobs.append(job)
            begin = max(self._world.now_ms, self._free_at.get(executor, 0.0))
            self._free_at[executor] = end = begin + self._latency_ms()
            self._world.after(end - self._world.now_ms, work)
        return future

    def kill(self) -> None:
        """Nothing here runs any more. What tasks would do on their way out is no business of the world."""
        self.dead = True
        self.jobs.clear()
        broken, self.on_kill = self.on_kill, {}
        for action in broken.values():
            action()

    def bury(self) -> None:
        """When its world is over: let the tasks of a killed process end, so that nothing is left half-way for the collector."""
        grave = _Grave(self._world.now_ms)
        self._world, self.dead = grave, False
        for handle in list(self._ready):
            grave.after(0.0, functools.partial(self.run, handle))
        for task in self._tasks:
            task.cancel()
        grave.drain()
        self.dead = True

    def connect(self, broken: Callable[[], None]) -> Callable[[], None]:
        """Have `broken` called when this process is killed; answers how to take that back."""
        self._connections += 1
        number = self._connections
        self.on_kill[number] = broken
        return lambda: self.on_kill.pop(number, None) and None

    # --- what asyncio asks of any loop

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.dead and isinstance(error, Exception):
            self._world.broken = self._world.broken or error


class _Grave:
    """A world that only ends: time stands still, and what is due later never comes."""

    def __init__(self, now_ms: float) -> None:
        self.now_ms = now_ms
        self.broken: Exception | None = None
        self._due: deque[Callable[[], None]] = deque()

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        if delay_ms <= 0:
            self._due.append(action)

    def drain(self) -> None:
        for _ in range(10_000):
            if not self._due:
                return
            self._due.popleft()()
