"""What is kept of a container, so that the next agent knows it again: labels on containerd's record, and small files.

The labels say whose container it is and never change; the files beside its pipes say when it started and how it ended.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from node.runtime.containerd import containers_pb2
from node.runtime.interface import Container, ContainerKey, ContainerSpec
from steersman.clock import Clock

LABEL = "steersman/"  # of our labels on containers and snapshots
USER_LABEL = LABEL + "label."


def labels(spec: ContainerSpec) -> dict[str, str]:
    """The labels of a container's record; `container` reads them."""
    key = spec.key
    return {
        LABEL + "pod-uid": key.pod_uid,
        LABEL + "namespace": key.namespace,
        LABEL + "pod": key.pod,
        LABEL + "container": key.container,
        LABEL + "attempt": str(key.attempt),
        LABEL + "log-path": spec.log_path,
        LABEL + "image-id": spec.image.repo_digest,
        LABEL + "stop-signal": spec.image.stop_signal,
        **{USER_LABEL + name: value for name, value in spec.labels},
    }


def container(record: containers_pb2.Container, started: dict[str, Any] | None, pid: int, clock: Clock) -> Container:
    """A container as its record and its `started` file tell of it; `pid` is 0 when it does not run."""
    held = record.labels
    return Container(
        id=record.id,
        key=ContainerKey(
            pod_uid=held[LABEL + "pod-uid"],
            namespace=held[LABEL + "namespace"],
            pod=held[LABEL + "pod"],
            container=held[LABEL + "container"],
            attempt=int(held[LABEL + "attempt"]),
        ),
        image=record.image,
        image_id=held[LABEL + "image-id"],
        log_path=held[LABEL + "log-path"],
        pid=pid,
        started_at=dt.datetime.fromisoformat(started["at"]) if started else moment(record.created_at, clock),
        labels=tuple(
            (name.removeprefix(USER_LABEL), value) for name, value in held.items() if name.startswith(USER_LABEL)
        ),
    )


def signal_number(name: str) -> int:
    """An image's StopSignal: "SIGTERM", "TERM", "15" or nothing."""
    if name.isdigit():
        return int(name)
    with contextlib.suppress(KeyError):
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    return int(signal.SIGTERM)


def moment(stamp: Timestamp, clock: Clock) -> dt.datetime:
    return stamp.ToDatetime(tzinfo=dt.UTC) if stamp.seconds > 0 else clock.now()


def write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(document))
    new.rename(path)


def read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
