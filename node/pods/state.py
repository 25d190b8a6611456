"""What the agent knows of a pod that it runs: plain, small, and exactly what its checkpoint holds.

The life cycle (`worker`, `container`) writes it, `node.status` turns it into the PodStatus that the API shows,
`node.checkpoint` keeps it over a restart of the agent. Times are RFC 3339 strings, as they are reported.
"""

from __future__ import annotations

from msgspec import Struct, field


class Waiting(Struct, tag="waiting"):
    """Not started; `reason` is Kubernetes' word (ContainerCreating, ErrImagePull, CrashLoopBackOff, …)."""

    reason: str
    message: str = ""


class Running(Struct, tag="running"):
    started_at: str


class Terminated(Struct, tag="terminated"):
    """The end of one instance of a container. `signal` is 0 when the process ended by itself."""

    exit_code: int
    reason: str
    finished_at: str
    started_at: str | None = None
    message: str = ""
    signal: int = 0
    container_id: str = ""


class ContainerLocal(Struct):
    """One container of a pod, over all its instances.

    `attempt` counts instances from 0 and names the instance in the runtime; `restart_count` is what the API shows.
    `last` is how the instance before the present one ended. `started` is None until a first instance ran.
    `crashes` counts exits in a row for the back-off.
    """

    name: str
    image: str = ""
    image_id: str = ""
    container_id: str = ""
    state: Waiting | Running | Terminated = field(default_factory=lambda: Waiting("ContainerCreating"))
    last: Terminated | None = None
    restart_count: int = 0
    attempt: int = 0
    crashes: int = 0
    ready: bool = False
    started: bool | None = None
    done: bool = False  # ended for good: no further instance will be started

    @property
    def succeeded(self) -> bool:
        return isinstance(self.state, Terminated) and self.state.exit_code == 0


class ConditionLocal(Struct):
    """When a condition last changed, and to what."""

    status: str
    since: str


class PodLocal(Struct):
    """A pod on this node.

    `ended` is set once the pod's fate is sealed by the agent and not by its containers (a deadline, a fence): then
    the phase is Failed with this reason and message.
    """

    uid: str
    namespace: str
    name: str
    start_time: str
    ip: str = ""
    netns: str = ""
    sandbox_ready: bool = False
    ended: tuple[str, str] | None = None
    init: dict[str, ContainerLocal] = field(default_factory=dict)
    containers: dict[str, ContainerLocal] = field(default_factory=dict)
    conditions: dict[str, ConditionLocal] = field(default_factory=dict)

    def every(self) -> list[ContainerLocal]:
        """All containers, init containers first."""
        return [*self.init.values(), *self.containers.values()]
