"""The store through the gRPC API, beside etcd: three members each, mutual TLS, 1 KB values, fsync on, the same time-outs.

Both clusters run as plain processes on the loopback, one after the other, driven by one client process with the same code
(`clusters`). The machine's two cores are shared by the three members and the client: a rate here is, above all, the
processor time that everybody together spends on one operation.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio

from bench.clusters import NODES, Cluster, Etcd, Ours, fresh
from bench.harness import CLOCK, Figure

SECONDS = 4.0  # of each load
PUT_CLIENTS = (1, 64, 256)
CLIENTS = 64  # of the other loads
BATCH = 50  # writes in one call: enough that the call itself no longer counts
LISTED, PAGE = 10_000, 500
LIST_ROUNDS = 5
WATCHERS, WATCHED_WRITES = 1_000, 10
FAILOVERS = 5
STORED, STORED_BATCH = 100_000, 500
TRY_S = 0.3  # of a write while there is no leader: both servers would keep it waiting for longer

Results = dict[str, float]


async def _rate(clients: int, work: Callable[[int], Awaitable[Any]]) -> float:
    """Calls per second of so many clients, each one call after the other."""
    done = 0
    begin = CLOCK.monotonic()

    async def client(number: int) -> None:
        nonlocal done
        while CLOCK.monotonic() < begin + SECONDS:
            await work(number)
            done += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / (CLOCK.monotonic() - begin)


async def _loads(cluster: Cluster, channels: list[grpc.aio.Channel], found: Results) -> None:
    puts = [cluster.method(channel, "put") for channel in channels]
    gets = [cluster.method(channel, "get") for channel in channels]
    await puts[0](cluster.put("seed"))
    for clients in PUT_CLIENTS:
        found[f"puts {clients}"] = await _rate(clients, lambda n: puts[n % NODES](cluster.put(fresh("put"))))
    wanted = cluster.get("seed")
    found["gets"] = await _rate(CLIENTS, lambda n: gets[n % NODES](wanted))
    if isinstance(cluster, Ours):
        batches = [cluster.method(channel, "batch") for channel in channels]

        async def batched(number: int) -> None:
            await batches[number % NODES](cluster.batch([fresh("batch") for _ in range(BATCH)]))

        found["batched"] = BATCH * await _rate(CLIENTS, batched)


async def _list(cluster: Cluster, channels: list[grpc.aio.Channel], found: Results) -> None:
    """Of the objects that the loads have left, in ms: the first page, and the first `LISTED` whole."""
    listing = cluster.method(channels[0], "list")
    for name, limit in (("page", PAGE), ("list", LISTED)):
        times = []
        for _ in range(LIST_ROUNDS):
            begin = CLOCK.monotonic()
            await listing(cluster.list(limit))
            times.append((CLOCK.monotonic() - begin) * 1000)
        found[name] = median(times)


async def _watch(cluster: Cluster, channels: list[grpc.aio.Channel], found: Results) -> None:
    """99th percentile of ms from a write's start until each of many watchers has it."""
    latencies: list[float] = []
    written = 0.0
    standing = 0
    seen = 0
    progress = asyncio.Event()

    async def watcher(number: int) -> None:
        nonlocal standing, seen
        first = True
        async for _ in cluster.watch(channels[number % NODES]):
            if first:
                standing, first = standing + 1, False
            else:
                latencies.append((CLOCK.monotonic() - written) * 1000)
                seen += 1
            progress.set()

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            progress.clear()
            await progress.wait()

    watchers = [asyncio.ensure_future(watcher(number)) for number in range(WATCHERS)]
    try:
        async with asyncio.timeout(120):
            await until(lambda: standing == WATCHERS)
            put = cluster.method(channels[0], "put")
            for number in range(-1, WATCHED_WRITES):
                seen, written = 0, CLOCK.monotonic()
                await put(cluster.put(fresh("watched")))
                await until(lambda: seen >= WATCHERS)  # noqa: B023 - it is waited for at once
                if number < 0:
                    latencies.clear()  # the first write only shows that every watch stands
    finally:
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
    found["watch"] = statistics.quantiles(latencies, n=100)[98]


async def _failover(cluster: Cluster, found: Results) -> None:
    """Seconds from kill -9 of the leader to the next acknowledged write, asked for at a member that lives."""
    times = []
    for _ in range(FAILOVERS):
        leader = await cluster.leader()
        survivor = (leader + 1) % NODES
        async with cluster.channel(survivor) as channel:
            put = cluster.method(channel, "put")
            await put(cluster.put(fresh("before")))
            cluster.kill(leader)
            begin = CLOCK.monotonic()
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await put(cluster.put(fresh("after")), timeout=TRY_S)
                    break
                await asyncio.sleep(0.01)
            times.append(CLOCK.monotonic() - begin)
        cluster.start(leader)
        await cluster.serving(leader)
    found["failover"] = median(times)


async def _fill_and_restart(cluster: Ours, found: Results) -> None:
    """Memory with many objects, and how long a member and all members take to serve them again after kill -9."""
    async with cluster.channel(await cluster.leader()) as channel:
        batch = cluster.method(channel, "batch")
        for _ in range(STORED // STORED_BATCH // 4):
            await asyncio.gather(
                *(batch(cluster.batch([fresh("stored") for _ in range(STORED_BATCH)])) for _ in range(4))
            )
    found["memory"] = max(cluster.memory_mb(member) for member in cluster.processes)
    follower = (await cluster.leader() + 1) % NODES
    cluster.kill(follower)
    begin = CLOCK.monotonic()
    cluster.start(follower)
    await cluster.serving(follower)
    found["restart"] = CLOCK.monotonic() - begin
    cluster.stop()
    begin = CLOCK.monotonic()
    for member in range(NODES):
        cluster.start(member)
    for member in range(NODES):
        await cluster.serving(member)
    found["restart all"] = CLOCK.monotonic() - begin
    found["memory again"] = max(cluster.memory_mb(member) for member in cluster.processes)


async def _started(cluster: Cluster) -> None:
    for member in range(NODES):
        cluster.start(member)
    for member in range(NODES):
        await cluster.serving(member)
    await cluster.writable()


async def _measure(kind: type[Cluster]) -> Results:
    found: Results = {}
    for parts in (("loads",), ("failover",), ("fill",)):
        if parts == ("fill",) and kind is not Ours:
            continue
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            cluster = kind(Path(name))
            try:
                await _started(cluster)
                if parts == ("loads",):
                    channels = [cluster.channel(member) for member in range(NODES)]
                    await _loads(cluster, channels, found)
                    await _list(cluster, channels, found)
                    await _watch(cluster, channels, found)
                    for channel in channels:
                        await channel.close()
                elif parts == ("failover",):
                    await _failover(cluster, found)
                elif isinstance(cluster, Ours):
                    await _fill_and_restart(cluster, found)
            finally:
                cluster.stop()
    return found


def _run(kind: type[Cluster]) -> Results:
    return asyncio.run(_measure(kind))


def _beside(what: str, unit: str, ours: float, etcd: float, *, least: float = 0.0, most: float = 0.0) -> Figure:
    """A row beside etcd's, whose ratio is to be at least or at most so much (0: only printed)."""
    ratio = ours / etcd
    if least:
        return Figure(what, ours, unit, "etcd", etcd, f"≥ {least:g} ×", ratio >= least)
    if most:
        return Figure(what, ours, unit, "etcd", etcd, f"≤ {most:g} ×", ratio <= most)
    return Figure(what, ours, unit, "etcd", etcd)


def _at_most(what: str, unit: str, value: float, limit: float) -> Figure:
    return Figure(what, value, unit, reach=f"≤ {limit:g} {unit}", good=value <= limit)


def run() -> list[Figure]:
    # A process of its own for each: gRPC does not outlive a fork, and other parts fork.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        etcd = pool.submit(_run, Etcd).result()
        ours = pool.submit(_run, Ours).result()
    figures = []
    for clients in PUT_CLIENTS:
        figures.append(
            _beside(
                f"puts/s, {clients} client{'s' * (clients > 1)}, 1 KB",
                "1/s",
                ours[f"puts {clients}"],
                etcd[f"puts {clients}"],
                least=0.5 * (clients == 64),
            )
        )
    figures += [
        _beside(f"puts/s, {CLIENTS} clients, {BATCH} in a call", "1/s", ours["batched"], etcd["puts 64"], least=1.0),
        _beside(f"linearizable gets/s, {CLIENTS} clients, any member", "1/s", ours["gets"], etcd["gets"], least=0.5),
        _beside(f"list: the first page of {PAGE}", "ms", ours["page"], etcd["page"], most=1.0),
        _beside(f"list: {LISTED} objects of 1 KB whole", "ms", ours["list"], etcd["list"], most=1.0),
        _beside(f"one write seen by {WATCHERS} watchers, p99", "ms", ours["watch"], etcd["watch"]),
        _beside("leader killed to next acknowledged write", "s", ours["failover"], etcd["failover"], most=1.0),
        _at_most(f"restart of a member with {STORED} objects, to serving", "s", ours["restart"], 3.0),
        Figure("  of all three at once", ours["restart all"], "s"),
        _at_most(f"memory of a member with {STORED} objects of 1 KB", "MB", ours["memory"], 400.0),
        _at_most("  the same after the restart", "MB", ours["memory again"], 400.0),
    ]
    return figures


if __name__ == "__main__":
    from bench.harness import show

    show(run(), as_json="--json" in sys.argv)
