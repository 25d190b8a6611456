"""Reading log files that are being written and rotated.

Files are read from the oldest on. A reader that follows keeps its file open: when the path leads to another file, the
one it holds was renamed, so it reads that to its end, then those between, found by their place in the rotation, and
goes on with the new one. It waits for the log keeper's word and never polls.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from node.runtime.interface import LogLine, LogOptions, NotFound, Stream
from node.runtime.logs import MAX_FILES, LogKeeper, rotated, timestamp

READ_BYTES = 256 << 10
MAX_JOINED_PARTS = 64  # of 16 KiB: what a reader holds in memory of a line without an end


def parse(line: bytes) -> LogLine | None:
    """Read one line of a log file, without its newline; None if it is not one (a torn write). A part's text has no newline."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr") or parts[2] not in (b"F", b"P"):
        return None
    text = parts[3] + b"\n" if parts[2] == b"F" else parts[3]
    return LogLine(parts[0].decode("ascii", "replace"), "stdout" if parts[1] == b"stdout" else "stderr", text)


class Joiner:
    """Makes lines of parts, for each stream on its own; a line has the time of its first part."""

    def __init__(self) -> None:
        self._parts: dict[Stream, list[LogLine]] = {}

    def feed(self, part: LogLine) -> LogLine | None:
        """The line that a part completes, if it does. A very long one is given away unfinished."""
        waiting = self._parts.get(part.stream)
        if waiting is None:
            if part.text.endswith(b"\n"):
                return part
            self._parts[part.stream] = [part]
            return None
        waiting.append(part)
        if part.text.endswith(b"\n") or len(waiting) >= MAX_JOINED_PARTS:
            return self._join(part.stream)
        return None

    @property
    def unfinished(self) -> int:
        """How many streams are in the middle of a line."""
        return len(self._parts)

    def flush(self) -> list[LogLine]:
        """What the output ended in the middle of."""
        return [self._join(stream) for stream in list(self._parts)]

    def _join(self, stream: Stream) -> LogLine:
        parts = self._parts.pop(stream)
        return LogLine(parts[0].time, stream, b"".join(part.text for part in parts))


def last_parts(path: Path, count: int, end: int) -> list[LogLine]:
    """Enough parts to make the last `count` lines of, those before the offset `end` of the current file; rotated files included."""
    found: list[LogLine] = []
    # One more for each stream, whose first line here may lack its beginning.
    missing = count + 2
    for number in range(MAX_FILES):
        try:
            data = rotated(path, number).read_bytes()
        except FileNotFoundError:
            break
        for raw in reversed((data[:end] if number == 0 else data).splitlines()):
            part = parse(raw)
            if part is None:
                continue
            found.append(part)
            missing -= part.text.endswith(b"\n")
            if missing == 0:
                return found[::-1]
    return found[::-1]


async def read(path: Path, options: LogOptions, keeper: LogKeeper) -> AsyncIterator[LogLine]:
    """See Runtime.logs. Raises NotFound: there is no such file and nobody writes it."""
    since = timestamp(options.since) if options.since is not None else ""
    changed = keeper.subscribe(str(path)) if options.follow else None
    try:
        if changed is None and not path.exists():  # noqa: ASYNC240 - a stat
            raise NotFound(f"there is no log at {path}")
        follower = _Follower(path)
        try:
            if options.tail_lines is not None:
                for line in follower.skip_to_last(options.tail_lines):
                    if line.time >= since:
                        yield line
            while True:
                writing = changed is not None and keeper.writing(str(path))
                if changed is not None:
                    changed.clear()
                for line in follower.lines():
                    if line.time >= since:
                        yield line
                if not writing or changed is None:
                    for line in follower.rest():
                        if line.time >= since:
                            yield line
                    return
                await changed.wait()
        finally:
            follower.close()
    finally:
        if changed is not None:
            keeper.unsubscribe(str(path), changed)


class _Follower:
    """A place in a sequence of rotated files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._joiner = Joiner()
        oldest = max((n for n in range(MAX_FILES) if rotated(path, n).exists()), default=0)
        self._open(oldest)

    def _open(self, number: int) -> None:
        self.close()
        self._rest = b""
        try:
            self._file = rotated(self._path, number).open("rb")
        except FileNotFoundError:
            self._file = None

    def skip_to_last(self, count: int) -> list[LogLine]:
        """The last lines; reading goes on after them."""
        self._open(0)
        if self._file is None:
            return []
        end = os.fstat(self._file.fileno()).st_size
        parts = last_parts(self._path, count, end) if count > 0 else []
        self._file.seek(end)
        lines = [line for part in parts if (line := self._joiner.feed(part)) is not None]
        count -= self._joiner.unfinished  # they come at the end, as lines of their own
        return lines[-count:] if count > 0 else []

    def rest(self) -> list[LogLine]:
        """An unfinished line at the end."""
        return self._joiner.flush()

    def lines(self) -> Iterator[LogLine]:
        """All lines from here to the present end."""
        while True:
            if self._file is None:
                self._open(0)
                if self._file is None:
                    return
            data = self._file.read(READ_BYTES)
            if data:
                *whole, self._rest = (self._rest + data).split(b"\n")
                for raw in whole:
                    part = parse(raw)
                    if part is not None and (line := self._joiner.feed(part)) is not None:
                        yield line
            elif not self._next_file():
                return

    def _next_file(self) -> bool:
        """At the end of one file: go on with the next younger one, if there is one."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno()).st_ino
        for number in range(MAX_FILES):
            try:
                if rotated(self._path, number).stat().st_ino != mine:
                    continue
            except FileNotFoundError:
                continue
            if number == 0:
                return False
            # Something may have been written between our last read and the rename.
            if os.fstat(self._file.fileno()).st_size > self._file.tell():
                return True
            self._open(number - 1)
            return True
        # It has been rotated away altogether: the oldest there is comes next.
        oldest = max((n for n in range(MAX_FILES) if rotated(self._path, n).exists()), default=-1)
        if oldest < 0:
            return False
        self._open(oldest)
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
