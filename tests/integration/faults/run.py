"""A fault run: real members, real faults, writers and watchers throughout, and in the end the histories are checked.

    python -m tests.integration.faults.run --seconds 60 --seed 1

One fault at a time is begun, lasts a few seconds, and is healed; some overlap with the next. Which, where and when follows from the
seed; what the members make of it does not, so a seed that failed may pass the next time: the history is kept for a look.

Checked: every answer is explained by some order of the calls on its key (linearizable); every acknowledged write was told to every
watcher, in order, once, and all were told the same; what every member shows in the end is what the watchers know; no member ended
by itself; after healing, everyone serves again within `HEALED_S`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from steersman import AsyncClient, snapshots
from steersman.errors import ApiError
from steersman.transport import GrpcTransport, credentials
from tests.integration.faults.clients import KEYS, BrokenPromiseError, Told, Watcher, Writer
from tests.integration.faults.hosts import CLIENT, Host, Site
from tests.sim.linearizability import History

WRITERS, WATCHERS = 4, 3
HEALED_S = 60.0  # generous: the machine may be busy with other tests
LONGEST_FAULT_S = 4.0


class Run:
    """One run, inside the clients' namespace."""

    def __init__(self, site: Site, seconds: float, seed: int) -> None:
        self.site = site
        self.seconds = seconds
        self.dice = random.Random(seed)
        self.history = History()
        self.faults: Counter[str] = Counter()
        self.story: dict[int, Told] = {}
        self.lost: tuple[Host, Host] | None = None  # a replacement under way: the new and the old
        self._begun = time.monotonic()
        self._clients: list[AsyncClient] = []

    def now(self) -> float:
        return time.monotonic() - self._begun

    def client(self, *hosts: Host) -> AsyncClient:
        folder = self.site.folder
        trust = credentials(folder / "ca" / "ca.crt", folder / "admin.crt", folder / "admin.key")
        found = list(hosts) or self.dice.sample(self.site.hosts, len(self.site.hosts))
        client = AsyncClient(GrpcTransport([host.grpc for host in found], trust))
        self._clients.append(client)
        return client

    async def run(self) -> dict[str, Any]:
        """Run, and answer what happened. Raises BrokenPromiseError."""
        for host in self.site.active:
            host.start()
        await self.well()
        self._begun = time.monotonic()
        writers = [
            Writer(f"w{n}", self.client(), self.history, self.now, random.Random(self.dice.random()))
            for n in range(WRITERS)
        ]
        watchers = [Watcher(f"v{n}", self.client(), self.story) for n in range(WATCHERS)]
        tasks = [asyncio.ensure_future(one.run()) for one in (*writers, *watchers)]
        try:
            faults = asyncio.ensure_future(self.faulty())
            await asyncio.wait((faults, *tasks), return_when=asyncio.FIRST_COMPLETED)
            if not faults.done():
                faults.cancel()
                await next(task for task in tasks if task.done())
            await faults
            await self.well()
            for writer in writers:
                writer.stopping = True
            await asyncio.gather(*tasks[:WRITERS])
            await self.final_reads()
            await self.caught_up(watchers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.check(writers, watchers)
        outcomes: Counter[str] = Counter()
        for writer in writers:
            outcomes.update(writer.outcomes)
        return {
            "calls": len(self.history.calls),
            "outcomes": dict(outcomes),
            "acknowledged": sum(len(writer.acknowledged) for writer in writers),
            "events": sum(len(watcher.told) for watcher in watchers),
            "resumed": sum(watcher.resumed for watcher in watchers),
            "relisted": sum(watcher.relisted for watcher in watchers),
            "faults": dict(self.faults),
        }

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for host in self.site.hosts:
            host.signal(signal.SIGKILL)

    # --- faults

    async def faulty(self) -> None:
        faults = [self.kill, self.kill, self.pause, self.isolate, self.cut, self.cut_one_way, self.fill]
        if self.site.hosts[0].shim.exists():
            faults += [self.disk_fails, self.disk_slow]
        kinds = [*faults, self.hand_over, self.save, self.replace]
        deck: list[Any] = []
        while self.now() < self.seconds:
            if not deck:
                deck = self.dice.sample(kinds, len(kinds))
                if self.dice.random() < 0.5:
                    deck.insert(self.dice.randrange(len(deck)), self.kill_all)
            fault = deck.pop()
            self.faults[fault.__name__] += 1
            host = await self.leader() if self.dice.random() < 0.6 else self.dice.choice(self.site.active)
            print(f"{self.now():7.2f} s  {fault.__name__} {host.name}", flush=True)
            await fault(host)
            self.alive()
            if self.lost:
                await self.well()  # who belongs to the cluster has to be found out first
            if self.dice.random() < 0.75:  # else the next fault comes on top
                for one in self.site.hosts:
                    one.heal()
                await asyncio.sleep(self.dice.uniform(0.5, 2.5))

    async def leader(self) -> Host:
        """Whoever some member takes for the leader; any host when nobody says."""
        client = self.client()
        try:
            name = (await client.cluster_status(timeout=1.0)).leader
        except ApiError:
            name = ""
        finally:
            self._clients.remove(client)
            await client.close()
        return next((host for host in self.site.active if host.name == name), self.site.active[0])

    async def last(self) -> None:
        await asyncio.sleep(self.dice.uniform(0.3, LONGEST_FAULT_S))

    async def kill(self, host: Host) -> None:
        host.signal(signal.SIGKILL)
        await asyncio.sleep(self.dice.uniform(0.0, 2.0))
        if host.process is None:
            host.start()
        await asyncio.sleep(self.dice.uniform(0.0, 2.0))

    async def kill_all(self, _: Host) -> None:
        for host in self.site.active:
            host.signal(signal.SIGKILL)
        for host in self.site.active:
            host.start()
        await self.last()

    async def pause(self, host: Host) -> None:
        host.signal(signal.SIGSTOP)
        await self.last()
        host.signal(signal.SIGCONT)

    async def isolate(self, host: Host) -> None:
        """Its clients still reach it."""
        for other in self.site.hosts:
            if other is not host:
                host.cut(10 + other.number)
                other.cut(10 + host.number)
        await self.last()

    async def cut(self, host: Host) -> None:
        other = self.dice.choice([one for one in self.site.active if one is not host])
        host.cut(10 + other.number)
        other.cut(10 + host.number)
        await self.last()

    async def cut_one_way(self, host: Host) -> None:
        """It hears nobody of some, who all hear it; now and then not even the clients."""
        others = [10 + one.number for one in self.site.hosts if one is not host]
        host.cut(*self.dice.choice((others, others[:1], [CLIENT])))
        await self.last()

    async def fill(self, host: Host) -> None:
        host.fill()
        await self.last()
        host.free()

    async def disk_fails(self, host: Host) -> None:
        host.spoil("fail")
        await self.last()
        host.free()

    async def disk_slow(self, host: Host) -> None:
        host.spoil("slow")
        await self.last()

    async def hand_over(self, host: Host) -> None:
        client = self.client()
        try:
            await client.transfer_leader(host.name, timeout=2.0)
        except ApiError:
            pass
        finally:
            self._clients.remove(client)
            await client.close()

    async def replace(self, host: Host) -> None:
        """Not a fault either, but what faults come on top of: another member takes this one's place."""
        (spare,) = (one for one in self.site.hosts if one not in self.site.active)
        client = self.client(*self.site.active)
        self.lost = (spare, host)
        try:
            async with asyncio.timeout(15.0):
                await client.add_member(spare.name, spare.raft, timeout=5.0)
                spare.how = ("--join", ",".join(one.grpc for one in self.site.active))
                spare.start()
                await self.until_voting(client, spare)
                if self.dice.random() < 0.3:
                    self.dice.choice(self.site.active).signal(signal.SIGKILL)
                await self.until_removed(client, host)
        except (ApiError, TimeoutError):
            return  # half done: `settle` does the rest
        finally:
            self._clients.remove(client)
            await client.close()
        self.lost = None

    async def until_voting(self, client: AsyncClient, host: Host) -> None:
        while True:
            try:
                await client.promote_member(host.name, timeout=5.0)
                return
            except ApiError as error:
                if error.reason not in ("BadRequest", "ServiceUnavailable", "Timeout"):
                    raise
            await asyncio.sleep(0.1)

    async def until_removed(self, client: AsyncClient, host: Host) -> None:
        while True:
            try:
                await client.remove_member(host.name, timeout=5.0)
                break
            except ApiError as error:
                if error.reason == "NotFound":
                    break
                if error.reason not in ("BadRequest", "ServiceUnavailable", "Timeout"):
                    raise
            await asyncio.sleep(0.1)
        host.empty()

    async def settle(self, begun: float) -> None:
        """Finish a replacement that was left half done: the new one votes, the old one is gone."""
        if self.lost is None:
            return
        spare, host = self.lost
        client = self.client(*self.site.active)
        try:
            async with asyncio.timeout(HEALED_S - (time.monotonic() - begun)):
                while True:
                    try:
                        await client.add_member(spare.name, spare.raft, timeout=5.0)
                        break
                    except ApiError as error:
                        if error.reason not in ("ServiceUnavailable", "Timeout"):
                            raise
                    await asyncio.sleep(0.1)
                if spare.how is None:
                    spare.how = ("--join", ",".join(one.grpc for one in self.site.active))
                    spare.start()
                await self.until_voting(client, spare)
                await self.until_removed(client, host)
        except (ApiError, TimeoutError) as error:
            raise BrokenPromiseError(
                f"{spare.name} cannot take the place of {host.name} after healing: {error!r}"
            ) from None
        finally:
            self._clients.remove(client)
            await client.close()
        self.lost = None

    async def save(self, host: Host) -> None:
        """Not a fault: a snapshot in the middle of them, whole or not at all."""
        client, file = self.client(host), self.site.folder / f"{len(self.history.calls)}.snapshot"
        try:
            async with asyncio.timeout(LONGEST_FAULT_S):
                await snapshots.save(client.snapshot_parts(), file)
            snapshots.verify(file)
            file.unlink()
        except (ApiError, TimeoutError):
            pass
        finally:
            self._clients.remove(client)
            await client.close()

    # --- checks

    def alive(self) -> None:
        for host in self.site.hosts:
            if host.process is not None and host.process.poll() is not None:
                raise BrokenPromiseError(f"{host.name} ended by itself with {host.process.returncode}; see {host.log}")

    async def well(self) -> None:
        """Heal everything and wait until every member serves linearizable reads and takes writes."""
        for host in self.site.hosts:
            host.heal()
        begun = time.monotonic()
        await self.settle(begun)
        for host in self.site.active:
            client = self.client(host)
            while True:
                self.alive()
                try:
                    await client.get("namespaces", "default", "", timeout=1.0)
                    await client.apply(
                        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"well-{host.number}"}}
                    )
                    break
                except ApiError as error:
                    if time.monotonic() - begun > HEALED_S:
                        raise BrokenPromiseError(
                            f"{host.name} does not serve {HEALED_S:g} s after healing: {error}"
                        ) from None
                await asyncio.sleep(0.1)

    async def final_reads(self) -> None:
        """Every key on every member, for the history."""
        keys = {call.key for call in self.history.calls}
        for host in self.site.active:
            reader = Writer(f"final-{host.name}", self.client(host), self.history, self.now, self.dice)
            for key in sorted(keys)[-KEYS * 3 :]:
                await reader.read(key)

    async def caught_up(self, watchers: list[Watcher]) -> None:
        client = self.client()
        found = await client.list("configmaps", "default")
        truth = {
            item["metadata"]["name"]: item["data"]["value"]
            for item in found
            if item["metadata"]["name"].startswith("k") and "value" in item.get("data", {})
        }
        begun = time.monotonic()
        for watcher in watchers:
            while {name: value for name, value in watcher.shown.items() if value} != truth:
                if time.monotonic() - begun > HEALED_S:
                    raise BrokenPromiseError(
                        f"{watcher.name} knows {watcher.shown} at {watcher.revision}; there is {truth} at {found.revision}"
                    )
                await asyncio.sleep(0.05)

    def check(self, writers: list[Writer], watchers: list[Watcher]) -> None:
        for watcher in watchers:
            if missed := watcher.missed():
                raise BrokenPromiseError(f"{watcher.name} was not told of {missed[:5]}, which others were")
        for writer in writers:
            for revision, (name, value) in writer.acknowledged.items():
                told = self.story.get(revision)
                if told is not None and told[:2] != (name, value):
                    raise BrokenPromiseError(
                        f"{writer.name} was acknowledged {value} at {revision}, where watchers were told {told}"
                    )
                if told is None and any(watcher.began_at < revision <= watcher.revision for watcher in watchers):
                    raise BrokenPromiseError(f"{value} was acknowledged at {revision}, and no watcher was told of it")
        if problem := self.history.check():
            raise BrokenPromiseError(problem)


async def inside(site: Site, seconds: float, seed: int) -> dict[str, Any]:
    run = Run(site, seconds, seed)
    try:
        return await run.run()
    finally:
        await run.close()


def main() -> int:
    """Build the site, run inside it, take it down. The last line printed is the verdict as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="Keep logs and data.")
    parser.add_argument("--inside", nargs=2, metavar=("PREFIX", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    seconds = given.minutes * 60 or given.seconds
    if given.inside:
        prefix, folder = given.inside
        try:
            verdict = asyncio.run(inside(Site(prefix, Path(folder)), seconds, given.seed))
        except BrokenPromiseError as violation:
            print(f"seed {given.seed}: {violation}\nlogs in {folder}", file=sys.stderr)
            return 1
        print(json.dumps({"seed": given.seed, "seconds": seconds, **verdict}))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="stfaults-"))
    prefix = f"stf{os.urandom(3).hex()}"
    site = Site(prefix, folder)
    code = 1
    try:
        site.build()
        argv = [
            *("ip", "netns", "exec", site.switch, sys.executable, "-m", "tests.integration.faults.run"),
            *("--seconds", str(seconds), "--seed", str(given.seed), "--inside", prefix, str(folder)),
        ]
        code = subprocess.run(argv, check=False).returncode
    finally:
        site.clear()
        if code == 0 and not given.keep:
            shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
