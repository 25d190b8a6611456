"""How long a lab takes to raise, and what a raised one costs at rest."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from bench.harness import CLOCK, Figure, at_most, raised
from lab import hosts
from lab.topology import Topology

ROUNDS = 3
SETTLE_S, WATCH_S = 10.0, 20.0  # after the last change; how long use of CPU is counted


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _tree(int(child))
    return found


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_rest(topology: Topology) -> list[Figure]:
    """Memory and CPU of every control member and agent with nothing to do; the worst of each is the figure."""
    roles = {"control": "control", "node": "node"}
    pids = {
        role: [hosts.services(topology, host)[service] for host in topology.hosts if host.role == role]
        for role, service in roles.items()
    }
    time.sleep(SETTLE_S)
    before = {pid: sum(map(_cpu_s, _tree(pid))) for each in pids.values() for pid in each}
    begin = CLOCK.monotonic()
    time.sleep(WATCH_S)
    passed = CLOCK.monotonic() - begin
    figures = []
    for role, label, memory in (("control", "control member", 150.0), ("node", "node agent", 100.0)):
        figures.append(
            at_most(
                f"idle memory (RSS), {label}, largest",
                max(sum(map(_rss_mb, _tree(p))) for p in pids[role]),
                "MB",
                memory,
            )
        )
        used = max((sum(map(_cpu_s, _tree(p))) - before[p]) / passed * 100 for p in pids[role])
        figures.append(at_most(f"idle CPU, {label}, largest", used, "% core", 2.0))
    return figures


def run() -> list[Figure]:
    figures = []
    for control, nodes, limit in ((1, 1, 3.0), (3, 3, 8.0)):
        times = []
        for round_ in range(ROUNDS):
            begin = CLOCK.monotonic()
            with raised(control, nodes) as topology:
                times.append(CLOCK.monotonic() - begin)
                if (control, round_) == (3, ROUNDS - 1):
                    figures += at_rest(topology)
        figures.append(
            at_most(f"steer lab up, {control} control and {nodes} nodes, to all Ready", median(times), "s", limit)
        )
    return figures
