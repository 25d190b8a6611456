"""The life of one container of a pod, over all its instances.

    ┌─► wait for the back-off ─► image ─► configuration ─► start ─► postStart ─► probes … exit ─┐
    └──────────────────────────── restart, if the policy says so ◄──────────────────────────────┘

`ContainerLife.run` goes round this loop until the container ended for good, or the pod is stopping and the instance
that ran is gone. Every step may be repeated after a crash of the agent: an instance is named by its attempt number,
which is on disk before the instance is started, and the runtime answers a repeated start with the first one's
container. An instance that ended is recorded before it is removed from the runtime, so no exit is lost.

What stops an instance is always an exit: a failed liveness probe, a failed hook and a stopping pod ask the runtime to
stop the container, and the loop goes on when its exit is reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol, TypeVar

from node import probes
from node.environment import ConfigError
from node.pods import backoff, termination
from node.pods.credentials import pull_auths
from node.pods.host import PodHost
from node.pods.probing import Probing
from node.pods.spec import container_spec as build_spec
from node.pods.spec import key_of
from node.pods.state import ContainerLocal, PodLocal, Running, Terminated, Waiting
from node.runtime import interface as rt
from node.status import sidecar
from node.volumes import VolumeError
from steersman.clock import parse_time, rfc3339
from steersman.types.core import Container, LifecycleHandler, Pod

log = logging.getLogger(__name__)
T = TypeVar("T")

EPOCH = "1970-01-01T00:00:00Z"  # what the kubelet gives as start of an instance that never started
PULL_ERROR_SHOWN_S = 2.0  # how long ErrImagePull stands before it becomes ImagePullBackOff


class Stopping(Exception):  # noqa: N818 - not an error: the pod is being stopped
    """Whatever was awaited is no longer worth waiting for."""


class PodContext(Protocol):
    """What a container's life asks of its pod's."""

    pod: Pod
    local: PodLocal
    host: PodHost
    sandbox: rt.Sandbox | None

    @property
    def stopping(self) -> bool: ...
    @property
    def grace(self) -> float:
        """Seconds that the containers of a stopping pod have left."""
        ...

    async def unless_stopping(self, work: Awaitable[T]) -> T:
        """Await `work`; Stopping as soon as the pod is to stop (`work` is cancelled)."""
        ...

    async def pause(self, seconds: float) -> None:
        """Sleep; Stopping as soon as the pod is to stop; returns early when the pod's surroundings changed."""
        ...

    def changed(self, *, urgent: bool = False) -> None:
        """The local state changed: keep it, and report it."""
        ...


class ContainerLife:
    """One container. `name` and `local` stay, `spec` follows the pod's document (its image may be changed in place)."""

    def __init__(self, pod: PodContext, spec: Container, local: ContainerLocal, *, init: bool) -> None:
        self.pod = pod
        self.spec = spec
        self.local = local
        self.init = init
        self.running = asyncio.Event()  # set when an instance runs (and, of a sidecar, has passed its startup probe)
        self._host = pod.host
        self._probing: Probing | None = None
        self._failures = 0  # attempts in a row to bring up the next instance
        self._stop_asked = False

    # --- the loop ---

    @property
    def _policy(self) -> str:
        if not self.init:
            return self.pod.pod.spec.restart_policy
        if sidecar(self.spec):
            return "Always"
        return "Never" if self.pod.pod.spec.restart_policy == "Never" else "OnFailure"

    async def run(self) -> None:
        """Run instances until the container ended for good or the pod stops."""
        try:
            while not self.local.done:
                container = await self._instance()
                if container is None:
                    continue  # it did not start, which counted as an instance
                ended = await self._live(container)
                self._ended(container.id, ended, rfc3339(container.started_at), self._ran_seconds(container, ended))
                await self._host.exits.remove(container.id)
                if self.pod.stopping:
                    raise Stopping
        except Stopping:
            if isinstance(self.local.state, Waiting) and self.local.last is not None:
                self.local.state = self.local.last  # it was between two instances: what it was stays true

    async def _instance(self) -> rt.Container | None:
        """A running instance: the one that a former agent started, or a new one. None: it failed to start."""
        while True:
            try:
                adopted = await self._adopt()
                if adopted is not None:
                    return adopted
                delay = self._remaining_backoff()
                if delay > 0:
                    await self._back_off(delay)
                return await self._start()
            except rt.RuntimeFailure as error:
                if error.reason == rt.RUN_CONTAINER_ERROR:
                    self._failed_to_start(error)
                    return None
                await self._wait_to_retry(error.reason, error.message)
            except (ConfigError, VolumeError) as error:
                await self._wait_to_retry(rt.CREATE_CONTAINER_CONFIG_ERROR, str(error))
            except OSError as error:
                await self._wait_to_retry(rt.CREATE_CONTAINER_ERROR, str(error))

    @property
    def _consumed(self) -> bool:
        """Whether the instance `local.attempt` has ended, so that the next one needs a number of its own."""
        return self.local.container_id == self._key().id and not isinstance(self.local.state, Running)

    async def _adopt(self) -> rt.Container | None:
        """The instance that is in the runtime already, or an account of how one was lost."""
        key = self._key()
        mine = [
            container
            for container in await self._host.runtime.containers()
            if container.key.pod_uid == key.pod_uid and container.key.container == key.container
        ]
        for container in mine:
            if container.key.attempt == key.attempt and not self._consumed:
                return container
            await self._host.exits.remove(container.id)
        if isinstance(self.local.state, Running):
            now = rfc3339(self._host.clock.now())
            lost = rt.Exit(
                137,
                "ContainerStatusUnknown",
                self._host.clock.now(),
                "The container could not be located when the pod was checked: the runtime or the host lost it",
            )
            self._ended(self.local.container_id, lost, self.local.state.started_at or now, 0.0)
            if self.local.done:
                raise Stopping
        return None

    # --- bringing an instance up ---

    def _remaining_backoff(self) -> float:
        ended = self.local.state if isinstance(self.local.state, Terminated) else self.local.last
        if ended is None or self.local.crashes == 0:
            return 0.0
        since = self._host.clock.now().timestamp() - _seconds(ended.finished_at)
        return max(0.0, backoff.restart_delay(self.local.crashes) - max(0.0, since))

    async def _back_off(self, delay: float) -> None:
        pod = self.pod.pod
        whole = backoff.restart_delay(self.local.crashes)
        where = f"container={self.spec.name} pod={pod.name}_{pod.namespace}({pod.uid})"
        self._waiting("CrashLoopBackOff", f"back-off {_duration(whole)} restarting failed {where}", urgent=True)
        self._event(
            "BackOff",
            f"Back-off restarting failed container {self.spec.name} in pod {pod.name}_{pod.namespace}({pod.uid})",
            warning=True,
        )
        ends_at = self._host.clock.monotonic() + delay
        while (left := ends_at - self._host.clock.monotonic()) > 0:
            await self.pod.pause(left)

    async def _wait_to_retry(self, reason: str, message: str) -> None:
        """Show why no instance can be started, and wait before the next try."""
        self._failures += 1
        if reason in (rt.ERR_IMAGE_PULL, rt.INVALID_IMAGE_NAME, rt.ERR_IMAGE_NEVER_PULL):
            image = self.spec.image
            if reason == rt.ERR_IMAGE_PULL:
                self._event("Failed", f'Failed to pull image "{image}": {message}', warning=True)
            self._event("Failed", f"Error: {reason}", warning=True)
            self._waiting(reason, message, urgent=True)
            delay = backoff.retry_delay(self._failures)
            await self.pod.pause(min(delay, PULL_ERROR_SHOWN_S))
            if reason == rt.ERR_IMAGE_PULL:
                self._event("BackOff", f'Back-off pulling image "{image}"')
                self._event("Failed", "Error: ImagePullBackOff", warning=True)
                self._waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {reason}: {message}')
            await self.pod.pause(delay - min(delay, PULL_ERROR_SHOWN_S))
        else:
            self._event("Failed", f"Error: {message}", warning=True)
            self._waiting(reason, message, urgent=True)
            await self.pod.pause(backoff.setup_delay(self._failures))

    async def _start(self) -> rt.Container:
        """Start the instance `local.attempt`."""
        host, local, spec = self._host, self.local, self.spec
        image = await self._image()
        again = self._consumed
        if again:
            local.attempt += 1
        try:
            assert self.pod.sandbox is not None
            container_spec = build_spec(
                host, self.pod.pod, self.pod.local, self.pod.sandbox, spec, local.attempt, image
            )
        except BaseException:
            local.attempt -= again
            raise
        if again:
            local.restart_count += 1
        if isinstance(local.state, Terminated):
            local.last = local.state
        local.state = Waiting("ContainerCreating")
        self.pod.changed()  # the attempt is on disk before the instance exists
        async with host.starts:
            if self.pod.stopping:
                raise Stopping
            began = host.clock.monotonic()
            container = await host.runtime.start_container(container_spec)
        host.metrics.phase.labels("start").observe(host.clock.monotonic() - began)
        if again:
            host.metrics.restarts.inc()
        self._event("Created", f"Created container: {spec.name}")
        self._event("Started", f"Started container {spec.name}")
        return container

    async def _image(self) -> rt.Image:
        """The container's image, by its pull policy."""
        host, name, policy = self._host, self.spec.image, self.spec.image_pull_policy or "IfNotPresent"
        present = None if policy == "Always" else await host.runtime.image(name)
        if present is not None:
            self._event("Pulled", f'Container image "{name}" already present on machine')
            return present
        if policy == "Never":
            raise rt.RuntimeFailure(
                rt.ERR_IMAGE_NEVER_PULL, f'Container image "{name}" is not present with pull policy of Never'
            )
        self._event("Pulling", f'Pulling image "{name}"')
        auths = pull_auths(self.pod.pod, name, host.assignments.secrets)
        asked = host.clock.monotonic()
        try:
            async with host.pulls:
                began = host.clock.monotonic()
                image = await self.pod.unless_stopping(host.runtime.pull(name, auths))
        except rt.RuntimeFailure:
            host.metrics.pulls.labels("failed").inc()
            raise
        now = host.clock.monotonic()
        host.metrics.pulls.labels("pulled").inc()
        host.metrics.phase.labels("pull").observe(now - began)
        self._event(
            "Pulled",
            f'Successfully pulled image "{name}" in {_duration(now - began)} ({_duration(now - asked)} including waiting).'
            f" Image size: {image.size_bytes} bytes.",
        )
        return image

    def _key(self) -> rt.ContainerKey:
        return key_of(self.pod.pod, self.spec.name, self.local.attempt)

    # --- while it runs ---

    async def _live(self, container: rt.Container) -> rt.Exit:
        """See an instance through to its end."""
        local, spec = self.local, self.spec
        again = local.container_id == container.id and isinstance(local.state, Running)  # adopted
        local.container_id = container.id
        local.image, local.image_id = container.image, container.image_id
        local.state = Running(rfc3339(container.started_at))
        self._failures = 0
        if not again:
            local.ready = False
            local.started = spec.startup_probe is None and not (spec.lifecycle and spec.lifecycle.post_start)
        ending = asyncio.ensure_future(self._host.exits.wait(container.id))
        target = probes.Target(self._host.runtime, spec, container.id, self._probe_address())
        hook = asyncio.ensure_future(self._after_start(container, target, hooked=again))
        try:
            if self.pod.stopping:
                await self.stop(self.pod.grace)
            return await ending
        finally:
            hook.cancel()
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await hook
            if self._probing is not None:
                await self._probing.close()
                self._probing = None

    def _probe_address(self) -> str:
        return "127.0.0.1" if self.pod.pod.spec.host_network else self.pod.local.ip

    async def _after_start(self, container: rt.Container, target: probes.Target, *, hooked: bool) -> None:
        """The hook after the start, then the probes."""
        lifecycle = self.spec.lifecycle
        if (
            lifecycle is not None
            and lifecycle.post_start is not None
            and not (hooked and self.local.started is not None)
        ):
            self.pod.changed()
            outcome = await _hook(lifecycle.post_start, target, self._host)
            if not outcome.ok:
                self._event("FailedPostStartHook", f"PostStartHook failed: {outcome.message}", warning=True)
                self._event("Killing", f"FailedPostStartHook: Stopping container {self.spec.name}")
                await self._stop_container(container.id, self._grace())
                return
            if self.spec.startup_probe is None:
                self.local.started = True
        age = (self._host.clock.now() - container.started_at).total_seconds()
        self._probing = Probing(self.spec, self.local, target, self._host, _ProbeOutcomes(self, container.id), age)
        self._probing.start()
        if self.local.started:
            self.running.set()
        self.pod.changed(urgent=True)

    def _grace(self) -> float:
        return float(self.pod.pod.spec.termination_grace_period_seconds)

    async def _stop_container(self, container_id: str, grace: float) -> None:
        with suppress(rt.NotFound):
            try:
                await self._host.runtime.stop(container_id, grace)
            except rt.RuntimeFailure as error:
                if isinstance(error, rt.NotFound):
                    raise
                log.warning("container %s could not be stopped, trying again: %s", container_id[:12], error)
                await self._host.sleep(1.0)
                await self._host.runtime.stop(container_id, grace)

    async def stop(self, grace: float, reason: str = "") -> None:
        """Stop the instance that runs, if one does: its preStop hook, then the signal, after the grace SIGKILL.

        Called again it may only shorten the grace. The loop ends by the exit.
        """
        if not isinstance(self.local.state, Running) or not self.local.container_id:
            return
        container_id, first, self._stop_asked = self.local.container_id, not self._stop_asked, True
        if self._probing is not None:
            await self._probing.close()
        if first and grace > 0:
            self._event("Killing", reason or f"Stopping container {self.spec.name}")
            lifecycle = self.spec.lifecycle
            if lifecycle is not None and lifecycle.pre_stop is not None:
                grace = await self._pre_stop(lifecycle.pre_stop, container_id, grace)
        await self._stop_container(container_id, grace)

    async def _pre_stop(self, handler: LifecycleHandler, container_id: str, grace: float) -> float:
        """Run the hook within the grace; answers what is left of it, at least 2 s as the kubelet grants."""
        began = self._host.clock.monotonic()
        target = probes.Target(self._host.runtime, self.spec, container_id, self._probe_address())
        hook = asyncio.ensure_future(_hook(handler, target, self._host))
        timer = asyncio.ensure_future(self._host.sleep(grace))
        ended = asyncio.ensure_future(self._host.exits.wait(container_id))
        await asyncio.wait({hook, timer, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (hook, timer, ended):
            if not task.done():
                task.cancel()
        if hook.done() and not hook.cancelled() and not hook.result().ok:
            self._event("FailedPreStopHook", f"PreStopHook failed: {hook.result().message}", warning=True)
        return max(2.0, grace - (self._host.clock.monotonic() - began))

    def replace(self, spec: Container) -> bool:
        """Follow a changed document; True when the instance must be replaced because its image changed."""
        other = spec.image != self.spec.image
        self.spec = spec
        return other and isinstance(self.local.state, Running)

    async def restart(self, why: str) -> None:
        """End the present instance so that the loop starts another."""
        self._event("Killing", why)
        if self.local.container_id:
            await self._stop_container(self.local.container_id, self._grace())

    # --- the end of an instance ---

    def _ran_seconds(self, container: rt.Container, ended: rt.Exit) -> float:
        return max(0.0, (ended.finished_at - container.started_at).total_seconds())

    def _ended(self, container_id: str, ended: rt.Exit, started_at: str, ran: float) -> None:
        """Record how an instance ended, and whether another will follow."""
        self.running.clear()
        message = termination.message(self._host, self.spec, self._key(), ended)
        terminated = Terminated(
            exit_code=ended.code,
            reason=ended.reason,
            finished_at=rfc3339(ended.finished_at),
            started_at=started_at,
            message=message,
            signal=0,
            container_id=container_id,
        )
        self._settle(terminated, ran)

    def _failed_to_start(self, error: rt.RuntimeFailure) -> None:
        """An instance that the runtime could not start counts as one that ended (the kubelet's StartError)."""
        self._event("Failed", f"Error: {error.message}", warning=True)
        now = rfc3339(self._host.clock.now())
        self.local.container_id = self._key().id
        self._settle(
            Terminated(
                128,
                "StartError",
                finished_at=now,
                started_at=EPOCH,
                message=error.message[: termination.MAX_MESSAGE],
                container_id=self.local.container_id,
            ),
            0.0,
        )

    def _settle(self, terminated: Terminated, ran: float) -> None:
        local = self.local
        local.state = terminated
        local.done = not backoff.restarts(self._policy, terminated.exit_code)
        local.ready = (
            self.init and local.done and terminated.exit_code == 0
        )  # an init container is ready when it succeeded
        local.started = False
        local.crashes = backoff.crashes_after(local.crashes, ran)
        termination.forget_old_logs(self._host, self._key())
        self.pod.changed(urgent=True)

    # --- small things ---

    def _waiting(self, reason: str, message: str = "", *, urgent: bool = False) -> None:
        local = self.local
        if isinstance(local.state, Terminated):
            local.last = local.state
        local.state = Waiting(reason, message)
        self.pod.changed(urgent=urgent)

    def _event(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._host.events.pod(self.pod.pod, reason, message, warning=warning, container=self.spec.name, init=self.init)


class _ProbeOutcomes:
    """What the probes of one instance lead to."""

    def __init__(self, life: ContainerLife, container_id: str) -> None:
        self._life = life
        self._id = container_id

    def changed(self) -> None:
        if self._life.local.started:
            self._life.running.set()
        self._life.pod.changed(urgent=True)

    def unhealthy(self, kind: str, message: str) -> None:
        self._life._event("Unhealthy", f"{kind} probe failed: {message}", warning=True)  # noqa: SLF001 - one thing in two classes

    async def kill(self, kind: str, grace: float | None) -> None:
        life = self._life
        life._event("Killing", f"Container {life.spec.name} failed {kind.lower()} probe, will be restarted")  # noqa: SLF001
        await life._stop_container(self._id, life._grace() if grace is None else grace)  # noqa: SLF001


async def _hook(handler: LifecycleHandler, target: probes.Target, host: PodHost) -> probes.Outcome:
    if handler.sleep is not None:
        await host.sleep(float(handler.sleep.get("seconds", 0)))
        return probes.Outcome(True)
    return await probes.act(handler, target)


def _seconds(time: str) -> float:
    return parse_time(time).timestamp()


def _duration(seconds: float) -> str:
    """A duration as Go prints it: 20ms, 1.5s, 2m40s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{round(rest)}s"
