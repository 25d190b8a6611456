"""One form of log line for every process: time, level, component, message, key=value pairs."""

from __future__ import annotations

import logging
import sys
from typing import Any


class LineFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO control.raft became leader term=7`, one line per record unless it has a traceback."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self.converter = _gmtime


def _gmtime(seconds: float | None = None) -> Any:
    import time  # noqa: PLC0415 - formatting a record's own time, not reading the clock

    return time.gmtime(seconds)


def setup(level: str = "INFO") -> None:
    """Send every logger's records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def fields(**pairs: object) -> str:
    """Write pairs as `key=value`, quoting values with spaces."""
    return " ".join(
        f"{key}={value!r}" if isinstance(value, str) and " " in value else f"{key}={value}"
        for key, value in pairs.items()
    )
