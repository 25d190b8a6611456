"""What the agent asks of a container runtime: a dozen verbs, all idempotent where a crash could repeat them.

The life of a container
-----------------------
    pull ──► create_sandbox ──► start_container ──► (Exited event) ──► remove ──► remove_sandbox

A **sandbox** is a pod's namespaces, kept by bind mounts, with nothing running in it. A **container** is one attempt at
running one container of a pod: it runs once, exits once, and a restart is a new one with the next attempt number. Its
id is a function of (pod uid, name, attempt), so repeating a start after a crash finds the first one's container.

Promises
--------
- Neither the end of the agent nor that of containerd ends a container, and no line of its output is lost meanwhile.
- Every exit is reported, by exactly one `Exited` event to each subscriber that was there, and by `containers()` to all
  others until `remove`: also one that happened while nobody watched.
- When an exit is reported the container's output is complete in its log file, and its processes are gone.
- Every failure is a `RuntimeFailure` whose `reason` is the one that Kubernetes shows ("ErrImagePull", …) and whose
  message holds the words of whoever refused (the registry's, runc's).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias


class RuntimeFailure(Exception):  # noqa: N818 - a failure, of the runtime
    """The runtime could not do what was asked.

    `reason` is one CamelCase word for a container's `state.waiting.reason` or an event's reason; `retryable` is False
    when the same call can only fail again (a name that does not parse, a user that the image does not know).
    """

    def __init__(self, reason: str, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


class NotFound(RuntimeFailure):
    """No such container (it was removed, or never was)."""

    def __init__(self, message: str) -> None:
        super().__init__("NotFound", message, retryable=False)


# Reasons of RuntimeFailure.
ERR_IMAGE_PULL = "ErrImagePull"
INVALID_IMAGE_NAME = "InvalidImageName"
ERR_IMAGE_NEVER_PULL = "ErrImageNeverPull"  # for the agent: imagePullPolicy Never and image() is None
CREATE_SANDBOX_ERROR = "CreatePodSandboxError"
CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"  # the spec and the image contradict each other
CREATE_CONTAINER_ERROR = "CreateContainerError"
RUN_CONTAINER_ERROR = "RunContainerError"  # runc refused: no such file, permission denied, …
RUNTIME_UNAVAILABLE = "RuntimeUnavailable"  # containerd does not answer


# --- images -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Credentials for one registry, from an imagePullSecret; a token is sent as it is, a name and password as Basic."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is unpacked and ready to start containers from."""

    name: str  # normalised reference: "docker.io/library/busybox:latest"
    id: str  # the config's digest, "sha256:…": Kubernetes' image id
    digest: str  # the manifest's or index's digest, as the registry named it
    size_bytes: int  # compressed, as stored
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # "NAME=value"
    working_dir: str = ""
    user: str = ""  # "", "1000", "www-data", "1000:1000"
    stop_signal: str = ""
    chain_id: str = ""  # the snapshot that holds the unpacked layers

    @property
    def repo_digest(self) -> str:
        """`repository@digest`, for `status.containerStatuses[].imageID`."""
        name = self.name.partition("@")[0]
        head, _, tail = name.rpartition("/")
        repository = f"{head}/{tail.partition(':')[0]}" if head else tail.partition(":")[0]
        return f"{repository}@{self.digest}"


# --- sandboxes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The namespaces that a pod's containers share."""

    pod_uid: str
    hostname: str
    host_network: bool = False  # the agent's own network namespace, and its UTS namespace
    host_ipc: bool = False
    host_pid: bool = False
    shm_bytes: int = 64 << 20  # size of /dev/shm, Docker's default


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the namespaces are; an empty path means the host's."""

    pod_uid: str
    netns: str  # bind mount of the network namespace, for PodNetwork.attach
    ipcns: str
    utsns: str
    shm: str  # the directory behind the pod's /dev/shm
    host_pid: bool = False


# --- containers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerKey:
    """Which attempt of which container of which pod."""

    pod_uid: str
    namespace: str
    pod: str
    container: str
    attempt: int = 0

    @property
    def id(self) -> str:
        """The runtime's id: 64 hexadecimal digits, the same for the same attempt."""
        return hashlib.sha256(f"{self.pod_uid}/{self.container}/{self.attempt}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host inside a container. Propagation as in Kubernetes: None, HostToContainer, Bidirectional."""

    source: str
    destination: str
    read_only: bool = False
    propagation: Literal["None", "HostToContainer", "Bidirectional"] = "None"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a container may use. CPU in thousandths of a core, memory in bytes; None = not set."""

    cpu_request: int | None = None
    cpu_limit: int | None = None
    memory_limit: int | None = None
    oom_score_adj: int = 0  # −997 … 1000; the runtime raises it to what the agent itself may set


@dataclass(frozen=True, slots=True)
class Security:
    """The securityContext of pod and container, merged. Users and groups None = the image's."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    supplemental_groups: tuple[int, ...] = ()  # fsGroup included
    privileged: bool = False
    allow_privilege_escalation: bool = True
    read_only_root: bool = False
    add_capabilities: tuple[str, ...] = ()  # "NET_ADMIN", "ALL"
    drop_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container to start. `command` and `args` None = the image's, joined as Kubernetes does."""

    key: ContainerKey
    image: Image
    sandbox: Sandbox
    hostname: str
    log_path: str  # the file to write, its directory is made: ".../0.log"; rotated ones are 0.log.1 … 0.log.4
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()  # over the image's; a later one of the same name wins
    working_dir: str = ""
    mounts: tuple[Mount, ...] = ()  # volumes, /etc/hosts, /etc/resolv.conf, /etc/hostname, the termination log
    resources: Resources = Resources()
    security: Security = Security()
    stdin: bool = False
    tty: bool = False
    labels: tuple[tuple[str, str], ...] = ()  # kept with the container, handed back by containers()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. `reason` is Completed, Error, OOMKilled or ContainerStatusUnknown (nobody saw it end)."""

    code: int  # the exit code; 128 + signal number when a signal ended it
    reason: str
    finished_at: dt.datetime
    message: str = ""

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0."""
        return self.code - 128 if 128 < self.code <= 128 + 64 else 0


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was started and not yet removed."""

    id: str
    key: ContainerKey
    image: str  # Image.name
    image_id: str  # Image.repo_digest
    log_path: str
    pid: int  # 0 when it has exited
    started_at: dt.datetime
    exit: Exit | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def running(self) -> bool:
        return self.exit is None


@dataclass(frozen=True, slots=True)
class Exited:
    """A container has ended; `container.exit` is set."""

    container: Container


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """The runtime answers again (True) or no longer (False). Exits in between follow as `Exited`."""

    connected: bool


RuntimeEvent: TypeAlias = Exited | ConnectionChanged


@dataclass(frozen=True, slots=True)
class Stats:
    """One reading of a container's cgroup."""

    cpu_seconds: float  # since its start
    memory_bytes: int  # usage
    memory_working_set_bytes: int  # usage less inactive file pages: what Kubernetes reports and evicts by


# --- exec and logs ------------------------------------------------------------------------------------------------

Stream: TypeAlias = Literal["stdout", "stderr"]


class ExecProcess(Protocol):
    """A process started in a running container. Close it, or leave its `async with`: that also kills it."""

    def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """What it writes, as it comes; ends when both streams are closed. With a tty everything is stdout."""
        ...

    async def write(self, data: bytes) -> None:
        """Write to its standard input; waits while the pipe is full. Nothing happens once it is closed."""
        ...

    async def close_stdin(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def wait(self) -> int:
        """Its exit code; 128 + signal number when a signal ended it."""
        ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> ExecProcess: ...

    async def __aexit__(self, *error: object) -> None: ...


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which lines. Times are compared with each line's own."""

    follow: bool = False  # go on until the container has ended
    tail_lines: int | None = None
    since: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line; `text` has its newline, unless the output ended without one or the line is longer than a mebibyte."""

    time: str  # RFC 3339, nanoseconds, UTC
    stream: Stream
    text: bytes


# --- the runtime --------------------------------------------------------------------------------------------------


class Runtime(Protocol):
    """The verbs. Every one may raise RuntimeFailure with RUNTIME_UNAVAILABLE when the runtime does not answer in time."""

    async def start(self) -> None:
        """Connect, adopt what runs, collect exits that nobody saw. Waits until the runtime answers."""
        ...

    async def close(self) -> None:
        """Let go. Containers go on, their output waits in pipes for the next agent."""
        ...

    async def version(self) -> str:
        """For nodeInfo.containerRuntimeVersion: "containerd://1.6.20"."""
        ...

    async def pull(self, reference: str, auths: Sequence[RegistryAuth] = ()) -> Image:
        """Fetch and unpack an image; several callers for one reference share one pull. Each credential is tried, then none.

        Raises:
            RuntimeFailure: ErrImagePull with the registry's words, or InvalidImageName.
        """
        ...

    async def image(self, reference: str) -> Image | None:
        """The image if it is here, whole and unpacked."""
        ...

    async def images(self) -> list[Image]: ...

    async def remove_image(self, reference: str) -> None: ...

    async def create_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Make a pod's namespaces with their hostname and a loopback that is up, or return those that are there."""
        ...

    async def remove_sandbox(self, pod_uid: str) -> None:
        """Let the namespaces and the pod's cgroup go. Its containers must be removed before."""
        ...

    async def sandboxes(self) -> list[str]:
        """The pod uids that have a sandbox, whole or in pieces."""
        ...

    async def start_container(self, spec: ContainerSpec) -> Container:
        """Create and start. Returns the container that is there already if this attempt was started before.

        Raises:
            RuntimeFailure: CreateContainerConfigError, CreateContainerError or RunContainerError; nothing is left behind.
        """
        ...

    async def stop(self, container_id: str, grace_seconds: float, signal: int | None = None) -> Exit:
        """Send the signal (default: the image's, else SIGTERM), after the grace SIGKILL; returns how it ended.

        A call while another is under way may only shorten the grace. Raises NotFound.
        """
        ...

    async def remove(self, container_id: str) -> None:
        """Forget a container and its root file system; kills it if it still runs. Its log file stays. Idempotent."""
        ...

    async def containers(self) -> list[Container]:
        """Every container of this node, running or exited, from memory that the runtime's events keep true."""
        ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens from this call on (the subscription exists when the call returns)."""
        ...

    async def exec(
        self, container_id: str, argv: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> ExecProcess:
        """Run one more process in a running container, with its user, environment and directory."""
        ...

    def logs(self, log_path: str, options: LogOptions = LogOptions()) -> AsyncIterator[LogLine]:
        """Read a container's log, rotated files included; works for exited and removed containers too."""
        ...

    async def stats(self, container_id: str) -> Stats: ...


def log_directory(root: Path, key: ContainerKey) -> Path:
    """Where a container's logs belong, as Kubernetes lays them out: NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log."""
    return root / f"{key.namespace}_{key.pod}_{key.pod_uid}" / key.container
