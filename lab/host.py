"""A lab host's first process: what an init system is to a real machine.

It runs as process 1 of the host's process namespace, so that the host dies when it dies: the kernel kills whatever runs
there, containers too, and drops the host's mounts. It lays the host's own folders over the usual paths, starts the host's
services, and starts each again when it ends. Run as a script with the path of a JSON description; imports nothing but
the standard library, to start in a moment.

Description: {"hostname": …, "files": {path: text}, "tmpfs": [path, …], "binds": [[source, target], …],
"services": [{"name": …, "argv": […], "log": path, "env": {…}}, …]}.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from typing import Any

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
FIRST_RESTART_S, LAST_RESTART_S = 0.2, 5.0  # pause before a service is started again; doubles while it keeps dying
STEADY_S = 10.0  # a service that ran this long starts again with the first pause

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system. Raises OSError that names the target."""
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def prepare(description: dict[str, Any]) -> None:
    """Make the namespace look like a machine of its own."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    socket.sethostname(description["hostname"])
    for path in description["tmpfs"]:
        os.makedirs(path, exist_ok=True)
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for source, target in description["binds"]:
        os.makedirs(source, exist_ok=True)
        os.makedirs(target, exist_ok=True)
        mount(source, target, flags=MS_BIND)
    os.makedirs("/run/lab", exist_ok=True)
    for number, (path, text) in enumerate(description["files"].items()):
        own = f"/run/lab/{number}"
        with open(own, "w", encoding="utf-8") as file:
            file.write(text)
        if not os.path.exists(path):  # a bind mount needs something to cover
            with open(path, "w", encoding="utf-8"):
                pass
        mount(own, path, flags=MS_BIND)


class Service:
    """One supervised process."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.pid = 0
        self.started = 0.0
        self.pause = FIRST_RESTART_S
        self.due = 0.0

    def start(self) -> None:
        log = os.open(self.description["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        environment = {**os.environ, **self.description.get("env", {})}
        argv = self.description["argv"]
        null = os.open("/dev/null", os.O_RDONLY)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        try:
            self.pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        finally:
            os.close(log)
            os.close(null)
        self.started = _now()

    def ended(self, status: int) -> None:
        """Note the end and plan the next start."""
        lived = _now() - self.started
        self.pause = FIRST_RESTART_S if lived > STEADY_S else min(self.pause * 2, LAST_RESTART_S)
        self.due = _now() + self.pause
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        with open(self.description["log"], "a", encoding="utf-8") as log:
            log.write(
                f"[host] {self.description['name']} ended with {how} after {lived:.1f} s; next start in {self.pause:.1f} s\n"
            )


def _now() -> float:
    return time.monotonic()


def supervise(services: list[Service]) -> None:
    """Keep the services running; reap every orphan. Never returns; SIGTERM ends the host."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wanted = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    for service in services:
        service.start()
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for service in services:
                if service.pid == pid:
                    service.ended(status)
        now = _now()
        waiting = [service for service in services if not service.pid]
        for service in waiting:
            if service.due <= now:
                service.start()
        pauses = [service.due - now for service in services if not service.pid]
        got = signal.sigtimedwait(wanted, max(0.01, min(pauses))) if pauses else signal.sigwaitinfo(wanted)
        if got is not None and got.si_signo == signal.SIGTERM:
            os._exit(0)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        description = json.load(file)
    prepare(description)
    supervise([Service(service) for service in description["services"]])


if __name__ == "__main__":
    main()
