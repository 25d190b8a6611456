"""What an instance of a container leaves behind when it ends: its message, and old logs to be forgotten."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from node.pods.host import PodHost
from node.pods.spec import log_file, message_file
from node.runtime import interface as rt
from steersman.types.core import Container

MAX_MESSAGE = 4_096  # bytes, as the kubelet's
MAX_LOG_MESSAGE = 2_048  # bytes, when the message is taken from the log
MAX_LOG_LINES = 80
KEPT_LOGS = 2  # instances whose logs are kept: the present one and the one before


def message(host: PodHost, container: Container, key: rt.ContainerKey, ended: rt.Exit) -> str:
    """What the container wrote to its termination file, or the end of its log when it asks for that."""
    text = b""
    with suppress(OSError):
        text = message_file(host, key).read_bytes()[:MAX_MESSAGE]
    if not text and ended.code != 0 and container.termination_message_policy == "FallbackToLogsOnError":
        text = _log_tail(log_file(host, key))
    return text.decode("utf-8", "replace") or ended.message


def forget_old_logs(host: PodHost, key: rt.ContainerKey) -> None:
    """Delete the log of the instance that is no longer kept once `key` has ended."""
    attempt = key.attempt - KEPT_LOGS
    if attempt < 0:
        return
    for path in log_file(host, key).parent.glob(f"{attempt}.log*"):
        path.unlink(missing_ok=True)
    message_file(host, key).with_name(f"{attempt}-termination-log").unlink(missing_ok=True)


def _log_tail(path: Path) -> bytes:
    """The last lines of a log file in the CRI's form, without their times."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4 * MAX_LOG_MESSAGE))
            lines = file.read().splitlines()[-MAX_LOG_LINES:]
    except OSError:
        return b""
    texts = [
        parts[3] + (b"\n" if parts[2] == b"F" else b"") for line in lines if len(parts := line.split(b" ", 3)) == 4
    ]
    return b"".join(texts)[-MAX_LOG_MESSAGE:]
