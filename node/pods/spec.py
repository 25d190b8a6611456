"""What one instance of a container is started with: everything that the runtime needs to know of it."""

from __future__ import annotations

from pathlib import Path

from node import podfiles
from node.environment import command_line, environment
from node.pods.host import PodHost
from node.pods.state import PodLocal
from node.resources import resources
from node.runtime import interface as rt
from steersman.types.core import Container, Pod


def key_of(pod: Pod, container: str, attempt: int) -> rt.ContainerKey:
    """The name of an instance in the runtime."""
    return rt.ContainerKey(pod.uid, pod.namespace, pod.name, container, attempt)


def log_file(host: PodHost, key: rt.ContainerKey) -> Path:
    """Where an instance's output is kept."""
    return rt.log_directory(host.node.logs_root, key) / f"{key.attempt}.log"


def message_file(host: PodHost, key: rt.ContainerKey) -> Path:
    """The file behind an instance's terminationMessagePath."""
    return host.checkpoint.directory(key.pod_uid) / "containers" / key.container / f"{key.attempt}-termination-log"


def container_spec(
    host: PodHost, pod: Pod, local: PodLocal, sandbox: rt.Sandbox, container: Container, attempt: int, image: rt.Image
) -> rt.ContainerSpec:
    """The instance `attempt` of a container, its files made.

    Raises:
        ConfigError, VolumeError: something that the container names is not there.
    """
    around = host.surroundings(host.node.ip if pod.spec.host_network else local.ip)
    variables = environment(pod, container, around)
    command, args = command_line(container, variables)
    key = key_of(pod, container.name, attempt)
    return rt.ContainerSpec(
        key=key,
        image=image,
        sandbox=sandbox,
        hostname=podfiles.hostname(pod),
        log_path=str(log_file(host, key)),
        command=command or None,
        args=args or None,
        env=(("HOSTNAME", podfiles.hostname(pod)), *variables.items()),
        working_dir=container.working_dir,
        mounts=(*host.volumes.mounts(pod, container), *_own_files(host, container, key)),
        resources=resources(pod, container, host.node.memory_bytes),
        security=security(pod, container),
        stdin=container.stdin,
        tty=container.tty,
    )


def _own_files(host: PodHost, container: Container, key: rt.ContainerKey) -> list[rt.Mount]:
    """/etc/hosts and its like, and the file for the termination message; what the pod mounts itself goes first."""
    directory = host.checkpoint.directory(key.pod_uid)
    taken = {mount.mount_path.rstrip("/") for mount in container.volume_mounts}
    files = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
    found = [
        rt.Mount(str(directory / name), where)
        for name, where in files
        if where not in taken and (directory / name).exists()
    ]
    if container.termination_message_path:
        path = message_file(host, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o666)
        path.chmod(0o666)  # the container's user writes it
        found.append(rt.Mount(str(path), container.termination_message_path))
    return found


def security(pod: Pod, container: Container) -> rt.Security:
    """The container's security context over the pod's."""
    whole, own = pod.spec.security_context, container.security_context
    groups: tuple[int, ...] = ()
    user = group = non_root = None
    if whole is not None:
        user, group, non_root = whole.run_as_user, whole.run_as_group, whole.run_as_non_root
        groups = whole.supplemental_groups + ((whole.fs_group,) if whole.fs_group is not None else ())
    if own is not None:
        user = own.run_as_user if own.run_as_user is not None else user
        group = own.run_as_group if own.run_as_group is not None else group
        non_root = own.run_as_non_root if own.run_as_non_root is not None else non_root
    capabilities = own.capabilities if own else None
    return rt.Security(
        run_as_user=user,
        run_as_group=group,
        run_as_non_root=bool(non_root),
        supplemental_groups=groups,
        privileged=bool(own and own.privileged),
        allow_privilege_escalation=own is None or own.allow_privilege_escalation is not False,
        read_only_root=bool(own and own.read_only_root_filesystem),
        add_capabilities=capabilities.add if capabilities else (),
        drop_capabilities=capabilities.drop if capabilities else (),
    )
