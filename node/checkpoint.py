"""What a restarted agent must find again: one small record per pod, on disk before it matters.

A record holds the pod document that the agent acts on and its local state: the address, the network namespace, the
restart counts. It is written before an address is used and before a container is started, so whatever the agent left
in the runtime or the kernel belongs to a record, or to nobody and is cleaned up. Writes replace the file by renaming
and are not synced to the disk: a record has to survive the agent, not the host, for a host that lost power lost its
containers too. A record that cannot be read (a torn disk) counts as absent.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from node.pods.state import PodLocal

log = logging.getLogger(__name__)


class PodRecord(Struct):
    """`document` is the pod's JSON document as the agent last saw it."""

    document: msgspec.Raw
    local: PodLocal


class LeaseRecord(Struct):
    """When the last acknowledged heartbeat was sent, on the monotonic clock of the boot named `boot_id`."""

    boot_id: str
    acknowledged: float
    lease_s: float


class NetworkRecord(Struct, frozen=True):
    """What the control plane told of the network: enough to start it again without the control plane."""

    pod_cidr: str
    cluster_cidr: str
    service_cidr: str
    dns_ip: str
    cluster_domain: str


class Checkpoint:
    """The records below one directory: `pods/<uid>/record.json`, beside which a pod's volumes and files lie."""

    def __init__(self, root: Path) -> None:
        self._root = root / "pods"
        self._lease = root / "lease.json"
        self._network = root / "network.json"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o750)

    def directory(self, uid: str) -> Path:
        """Where everything of one pod lies."""
        return self._root / uid

    def directories(self) -> list[str]:
        """The uids that have a directory, with a readable record or without."""
        return sorted(entry.name for entry in self._root.iterdir() if entry.is_dir())

    def load(self) -> dict[str, PodRecord]:
        """All readable records by uid."""
        found: dict[str, PodRecord] = {}
        decoder = msgspec.json.Decoder(PodRecord)
        for uid in self.directories():
            path = self._root / uid / "record.json"
            try:
                found[uid] = decoder.decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("the record of pod %s cannot be read and is ignored: %s", uid, error)
        return found

    def save(self, document: bytes, local: PodLocal) -> None:
        """Write a pod's record."""
        directory = self._root / local.uid
        directory.mkdir(exist_ok=True, mode=0o750)
        _replace(directory / "record.json", msgspec.json.encode(PodRecord(msgspec.Raw(document), local)))

    def remove(self, uid: str) -> None:
        """Forget a pod and delete what is left of its directory. Mounts below it must be gone."""
        directory = self._root / uid
        with suppress(FileNotFoundError):
            (directory / "record.json").unlink()
        shutil.rmtree(directory, ignore_errors=True)

    def save_lease(self, lease: LeaseRecord) -> None:
        _replace(self._lease, msgspec.json.encode(lease))

    def load_lease(self, boot_id: str) -> LeaseRecord | None:
        """The lease that the agent held when it ended; None when it is of another boot, whose pods are gone."""
        try:
            lease = msgspec.json.decode(self._lease.read_bytes(), type=LeaseRecord)
        except (OSError, msgspec.MsgspecError):
            return None
        return lease if lease.boot_id == boot_id else None

    def save_network(self, facts: NetworkRecord) -> None:
        _replace(self._network, msgspec.json.encode(facts))

    def load_network(self) -> NetworkRecord | None:
        try:
            return msgspec.json.decode(self._network.read_bytes(), type=NetworkRecord)
        except (OSError, msgspec.MsgspecError):
            return None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    temporary.replace(path)
