"""The probes of one running instance: when to ask, and what an established verdict changes.

The startup probe goes first and alone; once it succeeded (or without one, at once) liveness and readiness begin.
Readiness begins as not ready, or true at once when there is no such probe; liveness begins as well. An agent that was
restarted goes on with what was established before.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from node import probes
from node.pods.host import PodHost
from node.pods.state import ContainerLocal
from steersman.types.core import Container, Probe

STARTUP, READINESS, LIVENESS = "Startup", "Readiness", "Liveness"


class Outcomes(Protocol):
    """Who acts on verdicts."""

    def changed(self) -> None:
        """`ready` or `started` changed."""
        ...

    def unhealthy(self, kind: str, message: str) -> None:
        """One probe failed."""
        ...

    async def kill(self, kind: str, grace: float | None) -> None:
        """The container must be stopped: its probe failed often enough."""
        ...


class Probing:
    """Runs the probes of one instance until closed. `age` is how many seconds ago the instance started."""

    def __init__(
        self,
        spec: Container,
        local: ContainerLocal,
        target: probes.Target,
        host: PodHost,
        outcomes: Outcomes,
        age: float,
    ) -> None:
        self._spec = spec
        self._local = local
        self._target = target
        self._host = host
        self._outcomes = outcomes
        self._age = age
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; with no probes at all, the container is started and ready at once."""
        startup = self._spec.startup_probe
        if startup is not None and not self._local.started:
            self._spawn(STARTUP, startup)
        else:
            self._begin()

    def _begin(self) -> None:
        """The container has started: readiness and liveness count from here."""
        self._local.started = True
        if self._spec.readiness_probe is None:
            self._local.ready = True
        else:
            self._spawn(READINESS, self._spec.readiness_probe)
        if self._spec.liveness_probe is not None:
            self._spawn(LIVENESS, self._spec.liveness_probe)

    def _spawn(self, kind: str, probe: Probe) -> None:
        self._tasks.append(asyncio.create_task(self._loop(kind, probe), name=f"{kind} probe of {self._spec.name}"))

    async def _loop(self, kind: str, probe: Probe) -> None:
        threshold = probes.Threshold(probe)
        if probe.initial_delay_seconds > self._age:
            await self._host.sleep(probe.initial_delay_seconds - self._age)
        while True:
            outcome = await probes.check(probe, self._target)
            self._host.metrics.probes.labels(kind.lower(), "success" if outcome.ok else "failure").inc()
            if not outcome.ok:
                self._outcomes.unhealthy(kind, outcome.message)
            verdict = threshold.count(ok=outcome.ok)
            if verdict is not None and await self._act(kind, probe, verdict=verdict):
                return
            await self._host.sleep(max(1, probe.period_seconds))

    async def _act(self, kind: str, probe: Probe, *, verdict: bool) -> bool:
        """Do what a verdict leads to; True when this probe has nothing more to ask."""
        if kind == READINESS:
            if verdict != self._local.ready:
                self._local.ready = verdict
                self._outcomes.changed()
            return False
        if not verdict:
            grace = probe.termination_grace_period_seconds
            await self._outcomes.kill(kind, None if grace is None else float(grace))
            return True
        if kind == STARTUP:
            self._begin()
            self._outcomes.changed()
            return True
        return False

    async def close(self) -> None:
        """Ask no more."""
        tasks, self._tasks = self._tasks, []
        current = asyncio.current_task()
        for task in tasks:
            task.cancel()
        for task in tasks:
            if task is not current:
                with suppress(asyncio.CancelledError):
                    await task
