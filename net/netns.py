"""Threads that belong to a network namespace.

A network namespace belongs to a thread, not to a process. All work on the kernel's network goes through a
`NamespaceThread`: one thread that entered the host's namespace when it was born, opens its sockets there (a socket stays
in the namespace it was opened in) and visits a pod's namespace only inside `visiting`. Nothing else in the process
changes namespace, so no code can act on the wrong one by accident.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(fd: int) -> None:
    """Move the calling thread into the network namespace that `fd` is open on.

    Raises:
        OSError: it is no network namespace, or the thread may not.
    """
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"setns: {os.strerror(errno)}")


class NamespaceThread:
    """One thread in the network namespace at `path` ("" is the process's own); jobs run one after the other."""

    def __init__(self, name: str, path: str = "") -> None:
        self._path = path
        self._home = -1
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=self._settle)

    def _settle(self) -> None:
        if self._path:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(fd)
            finally:
                os.close(fd)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `job` in the thread and hand back its result or its exception."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(job, *args, **kwargs))

    @contextmanager
    def visiting(self, fd: int) -> Iterator[None]:
        """Inside the thread: be in the namespace `fd` for the length of the block.

        A thread that cannot come home would set up the host's network inside a pod; the process ends instead.
        """
        enter(fd)
        try:
            yield
        finally:
            try:
                enter(self._home)
            except OSError:
                log.critical("cannot return to the host's network namespace; stopping at once")
                os.abort()

    def close(self) -> None:
        """Let the running job end, drop the others and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._home >= 0:
            os.close(self._home)
            self._home = -1
