"""A pod's volumes: made before its containers, kept true while it runs, gone after it.

What a volume holds is decided by the pure `payload` (names to bytes and modes); putting it on the disk is the rest.
Files of ConfigMaps, Secrets and the downward API are replaced all at once, as the kubelet's atomic writer does: a
new directory beside the old, then the symbolic link `..data` is renamed over, so a reader sees one whole version.
Secrets lie in a memory file system and leave no trace on the disk. Every volume lies below the pod's own directory
but hostPath, so that cleaning up after a crash is unmounting and deleting that directory.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node import mounts
from node.environment import ConfigError, Surroundings, field_value, resource_value
from node.runtime.interface import Mount
from steersman import quantity
from steersman.types.core import (
    ConfigMapVolumeSource,
    Container,
    DownwardAPIVolumeSource,
    HostPathVolumeSource,
    KeyToPath,
    Pod,
    SecretVolumeSource,
    Volume,
    VolumeMount,
)

DATA, DATA_NEW = "..data", "..data_tmp"


class VolumeError(Exception):
    """A volume cannot be set up; `volume` names it. Says what is missing, as the kubelet words it."""

    def __init__(self, volume: str, message: str) -> None:
        super().__init__(message)
        self.volume = volume


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int


Payload = dict[str, File]  # relative path -> file


# --- what a volume holds (pure) -----------------------------------------------------------------------------------


def _selected(
    data: Mapping[str, bytes], items: tuple[KeyToPath, ...], default_mode: int, *, what: str, optional: bool
) -> Payload:
    if not items:
        return {key: File(value, default_mode) for key, value in data.items()}
    files: Payload = {}
    for item in items:
        if item.key in data:
            files[item.path] = File(data[item.key], item.mode if item.mode is not None else default_mode)
        elif not optional:
            raise ConfigError(f"{what} references non-existent config key: {item.key}")
    return files


def _config_map(pod: Pod, source: ConfigMapVolumeSource, around: Surroundings) -> Payload:
    held = around.config_maps.get(f"{pod.namespace}/{source.name}")
    if held is None:
        if source.optional:
            return {}
        raise ConfigError(f'configmap "{source.name}" not found')
    data = {key: value.encode() for key, value in held.data.items()}
    data |= {key: base64.b64decode(value) for key, value in held.binary_data.items()}
    return _selected(data, source.items, source.default_mode, what="configmap", optional=source.optional)


def _secret(pod: Pod, source: SecretVolumeSource, around: Surroundings) -> Payload:
    held = around.secrets.get(f"{pod.namespace}/{source.secret_name}")
    if held is None:
        if source.optional:
            return {}
        raise ConfigError(f'secret "{source.secret_name}" not found')
    data = {key: base64.b64decode(value) for key, value in held.data.items()}
    return _selected(data, source.items, source.default_mode, what="secret", optional=source.optional)


def _downward(pod: Pod, source: DownwardAPIVolumeSource, around: Surroundings) -> Payload:
    files: Payload = {}
    for item in source.items:
        if item.field_ref is not None:
            text = field_value(pod, item.field_ref.field_path, around)
        elif item.resource_field_ref is not None:
            text = resource_value(pod, pod.spec.containers[0], item.resource_field_ref, around.allocatable)
        else:
            raise ConfigError(f"downwardAPI file {item.path} has neither fieldRef nor resourceFieldRef")
        files[item.path] = File(text.encode(), item.mode if item.mode is not None else source.default_mode)
    return files


def _projected(pod: Pod, source: dict[str, Any], around: Surroundings) -> Payload:
    mode = source.get("defaultMode", 0o644)
    files: Payload = {}
    for part in source.get("sources") or ():
        if "configMap" in part:
            files |= _config_map(
                pod, ConfigMapVolumeSource.from_dict({"defaultMode": mode, **part["configMap"]}), around
            )
        elif "secret" in part:
            named = {**part["secret"], "secretName": part["secret"].get("name", "")}
            files |= _secret(pod, SecretVolumeSource.from_dict({"defaultMode": mode, **named}), around)
        elif "downwardAPI" in part:
            files |= _downward(
                pod, DownwardAPIVolumeSource.from_dict({"defaultMode": mode, **part["downwardAPI"]}), around
            )
        else:
            raise ConfigError(f"projected source {next(iter(part), 'of no kind')} is not served by this agent")
    return files


def payload(pod: Pod, volume: Volume, around: Surroundings) -> Payload | None:
    """The files of a volume whose content comes from the API; None for other volumes.

    Raises:
        ConfigError: an object or a key that it names and that is not optional is not there.
    """
    if volume.config_map is not None:
        return _config_map(pod, volume.config_map, around)
    if volume.secret is not None:
        return _secret(pod, volume.secret, around)
    if volume.downward_api is not None:
        return _downward(pod, volume.downward_api, around)
    if volume.projected is not None:
        return _projected(pod, volume.projected, around)
    return None


# --- on the disk --------------------------------------------------------------------------------------------------


def write_payload(directory: Path, files: Payload, version: str, group: int | None = None) -> bool:
    """Make a directory show exactly `files`, atomically; `version` names the new data. False: it did already."""
    if _shown(directory) == {path: (file.content, _mode(file, group)) for path, file in files.items()}:
        return False
    data = directory / f"..{version}"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o755)
    for relative, file in files.items():
        path = data / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(_mode(file, group))
        if group is not None:
            os.chown(path, -1, group)
    old = str((directory / DATA).readlink()) if (directory / DATA).is_symlink() else ""
    with suppress(FileNotFoundError):
        (directory / DATA_NEW).unlink()
    (directory / DATA_NEW).symlink_to(data.name)
    (directory / DATA_NEW).rename(directory / DATA)
    top = {relative.split("/", 1)[0] for relative in files}
    for name in top:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in top:
            entry.unlink()
    if old and old != data.name:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _mode(file: File, group: int | None) -> int:
    return file.mode | 0o440 if group is not None else file.mode


def _shown(directory: Path) -> dict[str, tuple[bytes, int]] | None:
    data = directory / DATA
    if not data.is_symlink():
        return None
    root = data.resolve()
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


class Volumes:
    """The volumes of all pods on this node, below `pods/<uid>/volumes/<name>`."""

    def __init__(self, pods_root: Path) -> None:
        self._root = pods_root

    def path(self, pod: Pod, volume: Volume) -> Path:
        """Where a volume lies on the host."""
        return Path(volume.host_path.path) if volume.host_path else self._root / pod.uid / "volumes" / volume.name

    def set_up(self, pod: Pod, around: Surroundings) -> None:
        """Make every volume of a pod, or repair it. Idempotent.

        Raises:
            VolumeError: the first that cannot be made.
        """
        mounted: set[Path] | None = None
        for volume in pod.spec.volumes:
            try:
                if volume.host_path is not None:
                    _host_path(volume.host_path)
                    continue
                path = self.path(pod, volume)
                path.mkdir(parents=True, exist_ok=True)
                if _in_memory(volume):
                    if mounted is None:
                        mounted = set(mounts.mounts_below(self._root / pod.uid))
                    if path not in mounted:
                        mounts.mount_tmpfs(path, _tmpfs_options(volume))
                if volume.empty_dir is not None:
                    _open_to_all(path, _group(pod))
                else:
                    self._fill(pod, volume, around)
            except ConfigError as error:
                raise VolumeError(
                    volume.name, f'MountVolume.SetUp failed for volume "{volume.name}" : {error}'
                ) from error
            except OSError as error:
                raise VolumeError(
                    volume.name, f'MountVolume.SetUp failed for volume "{volume.name}" : {error}'
                ) from error

    def _fill(self, pod: Pod, volume: Volume, around: Surroundings) -> bool:
        files = payload(pod, volume, around)
        if files is None:
            raise ConfigError(
                "its source is not served by this agent (emptyDir, configMap, secret, downwardAPI, projected and hostPath are)"
            )
        directory = self.path(pod, volume)
        current = str((directory / DATA).readlink()) if (directory / DATA).is_symlink() else ""
        version = str(int(current.removeprefix("..data-") or 0) + 1) if current.startswith("..data-") else "1"
        return write_payload(directory, files, f"data-{version}", _group(pod))

    def refresh(self, pod: Pod, around: Surroundings) -> list[str]:
        """Bring the files of a running pod up to date; answers the volumes that changed.

        A ConfigMap or Secret that is gone leaves the files as they are, as Kubernetes does.
        """
        changed = []
        for volume in pod.spec.volumes:
            if volume.empty_dir is not None or volume.host_path is not None:
                continue
            with suppress(ConfigError, FileNotFoundError):
                if self._fill(pod, volume, around):
                    changed.append(volume.name)
        return changed

    def mounts(self, pod: Pod, container: Container) -> list[Mount]:
        """What a container sees of its pod's volumes.

        Raises:
            VolumeError: it mounts a volume that the pod has not, or a sub-path that leads out of it.
        """
        volumes = {volume.name: volume for volume in pod.spec.volumes}
        found = []
        for wanted in container.volume_mounts:
            volume = volumes.get(wanted.name)
            if volume is None:
                raise VolumeError(
                    wanted.name,
                    f'container "{container.name}" mounts volume "{wanted.name}", which the pod does not have',
                )
            source = _sub_path(self.path(pod, volume), wanted, volume)
            api_backed = volume.empty_dir is None and volume.host_path is None
            found.append(Mount(str(source), wanted.mount_path, read_only=wanted.read_only or api_backed))
        return found

    def excess(self, pod: Pod) -> str:
        """Which emptyDir on the disk has outgrown its sizeLimit, as the kubelet words it; "" when none has.

        Reads every directory of the limited volumes: call it in a thread. (One in memory is bounded by its file system.)
        """
        for volume in pod.spec.volumes:
            if not limited_on_disk(volume):
                continue
            assert volume.empty_dir is not None
            limit = volume.empty_dir.size_limit or "0"
            if disk_usage(self.path(pod, volume)) > quantity.units(limit):
                return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{limit}".'
        return ""

    def tear_down(self, uid: str) -> None:
        """Unmount and delete all volumes of a pod."""
        directory = self._root / uid / "volumes"
        if not directory.exists():
            return
        for point in mounts.mounts_below(directory):
            with suppress(OSError):
                mounts.unmount(point)
        shutil.rmtree(directory, ignore_errors=True)


def limited_on_disk(volume: Volume) -> bool:
    """Whether somebody has to watch how much a volume holds."""
    empty = volume.empty_dir
    return empty is not None and empty.medium != "Memory" and quantity.units(empty.size_limit or 0) > 0


def disk_usage(directory: Path) -> int:
    """Bytes of disk that a tree takes; what vanishes meanwhile counts no more. Hard links count once."""
    total, seen, waiting = 0, set(), [directory]
    while waiting:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if (found.st_dev, found.st_ino) not in seen:
                        if found.st_nlink > 1:
                            seen.add((found.st_dev, found.st_ino))
                        total += found.st_blocks * 512  # st_blocks counts these, whatever the file system's own size
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
    return total


def _in_memory(volume: Volume) -> bool:
    projected = volume.projected is not None and any("secret" in part for part in volume.projected.get("sources") or ())
    return (
        volume.secret is not None or projected or (volume.empty_dir is not None and volume.empty_dir.medium == "Memory")
    )


def _tmpfs_options(volume: Volume) -> str:
    if volume.empty_dir is not None:
        limit = volume.empty_dir.size_limit
        return f"mode=0777,size={quantity.units(limit)}" if limit else "mode=0777"
    return "mode=0755"


def _group(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group if pod.spec.security_context else None


def _open_to_all(path: Path, group: int | None) -> None:
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(0o777 if group is None else 0o2777)


def _host_path(source: HostPathVolumeSource) -> None:
    """Hold a hostPath to its type, making what may be made (Kubernetes' HostPathType)."""
    path = Path(source.path)
    checks = {
        "Directory": path.is_dir,
        "File": path.is_file,
        "Socket": path.is_socket,
        "CharDevice": path.is_char_device,
        "BlockDevice": path.is_block_device,
    }
    match source.type:
        case "DirectoryOrCreate" | "":
            if not path.exists():
                path.mkdir(parents=True, mode=0o755)
        case "FileOrCreate":
            path.touch(mode=0o644, exist_ok=True)
        case kind if kind in checks:
            if not checks[kind]():
                raise ConfigError(f"hostPath type check failed: {source.path} is not a {kind.lower()}")
        case other:
            raise ConfigError(f"hostPath type {other!r} is unknown")


def _sub_path(root: Path, wanted: VolumeMount, volume: Volume) -> Path:
    """The part of a volume that a mount shows, resolved, and never outside the volume."""
    if not wanted.sub_path:
        return root
    top = root.resolve()
    path = (root / wanted.sub_path).resolve()
    if not path.is_relative_to(top):
        raise VolumeError(volume.name, f"subPath {wanted.sub_path!r} leads out of volume {volume.name!r}")
    if not path.exists():
        path.mkdir(parents=True)
    return path
