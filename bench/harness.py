"""What every benchmark shares: a lab to measure, rows of figure beside peer, and a gauge of the machine's mood.

A figure alone says little on a shared machine: each row holds what was measured, the floor or peer measured in the same
run, their ratio, and what is to be reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import cluster, hosts
from lab.topology import Topology
from steersman.clock import SystemClock

CLOCK = SystemClock()
STEER = str(Path(sys.executable).with_name("steer"))
BENCH_LAB = "bench"
GRPC_PORT, REST_PORT = 7643, 6643  # beside a lab on the usual ports


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `reach` is the text of the goal; `good` whether it was reached (None: only printed)."""

    what: str
    value: float
    unit: str
    beside: str = ""
    beside_value: float | None = None
    reach: str = ""
    good: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside_value if self.beside_value else None

    def line(self) -> str:
        parts = [f"{self.what:<58} {self.value:>9.2f} {self.unit:<9}"]
        if self.beside_value is not None:
            parts.append(f"{self.beside} {self.beside_value:.2f}  ratio {self.ratio:.2f}")
        if self.reach:
            mark = "" if self.good is None else ("reached" if self.good else "MISSED")
            parts.append(f"[{self.reach}] {mark}")
        return "  ".join(parts)


def show(figures: list[Figure], *, as_json: bool) -> None:
    """Print the rows, or one JSON document."""
    if as_json:
        print(json.dumps([{**asdict(f), "ratio": f.ratio} for f in figures], indent=1))
        return
    for figure in figures:
        print(figure.line(), flush=True)


def at_most(
    what: str, value: float, unit: str, limit: float, *, beside: str = "", beside_value: float | None = None
) -> Figure:
    """A row whose value, or whose ratio when something stands beside it, must not exceed `limit`."""
    measured = value / beside_value if beside_value else value
    reach = f"≤ {limit:g} ×" if beside_value else f"≤ {limit:g} {unit}"
    return Figure(what, value, unit, beside, beside_value, reach, measured <= limit)


@contextmanager
def raised(control: int, nodes: int, *, images: bool = True, control_flags: tuple[str, ...] = ()) -> Iterator[Topology]:
    """A lab for one benchmark, gone afterwards."""
    topology = Topology(BENCH_LAB, control, nodes, GRPC_PORT, REST_PORT, control_flags)
    cluster.down(BENCH_LAB, lambda _: None)
    arguments = [
        "--control",
        str(control),
        "--nodes",
        str(nodes),
        "--grpc-port",
        str(GRPC_PORT),
        "--rest-port",
        str(REST_PORT),
    ]
    arguments += [f"--control-flag={flag}" for flag in control_flags]
    if not images:
        arguments.append("--no-images")
    try:
        subprocess.run(
            [STEER, "lab", "up", "--name", BENCH_LAB, *arguments], check=True, capture_output=True, text=True
        )
        yield topology
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        raise
    finally:
        cluster.down(BENCH_LAB, lambda _: None)


def on_host(topology: Topology, host: str, script: str) -> str:
    """Run a shell script on a lab host; answers what it printed."""
    argv = hosts.enter_argv(topology, topology.host(host), ["sh", "-c", script])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"on {host}: {script[:80]!r} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def timed(work: object) -> float:
    """Seconds that `work()` takes."""
    begin = CLOCK.monotonic()
    work()  # type: ignore[operator]
    return CLOCK.monotonic() - begin


def _spin(_: int) -> float:
    clock = SystemClock()
    begin = clock.monotonic()
    total = 0
    for i in range(5_000_000):
        total += i
    return clock.monotonic() - begin


def mood() -> Figure:
    """A fixed spin of both cores: how fast the machine is right now."""
    with ProcessPoolExecutor(2) as pool:
        return Figure("noise gauge: 5 million additions on both cores at once", max(pool.map(_spin, range(2))), "s")
