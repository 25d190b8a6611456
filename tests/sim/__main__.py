"""`scripts/sim`: run seeds in both kinds of worlds, count them, and say how to run a failing one again."""

from __future__ import annotations

import argparse
import logging
import time
import traceback
from collections.abc import Callable

from tests.sim.raft.simulator import Bug, World
from tests.sim.store.world import StoreBug, StoreWorld

Make = Callable[..., World]
WORLDS: dict[str, Make] = {
    "raft": lambda seed, bug, **more: World(seed, bug=Bug(bug), **more),
    "store": lambda seed, bug, **more: StoreWorld(seed, bug=StoreBug(bug), **more),
}
BUGS = {"raft": [bug.value for bug in Bug], "store": [bug.value for bug in StoreBug]}


def main() -> int:
    """Run what the command line asks for; answer the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/sim", description="Run the control plane in simulated faulty worlds."
    )
    parser.add_argument(
        "--seeds", type=int, default=300, metavar="N", help="how many worlds of each kind (default: 300)"
    )
    parser.add_argument("--first", type=int, default=0, metavar="K", help="seed of the first (default: 0)")
    parser.add_argument("--world", choices=WORLDS, help="only this kind: raft (the core) or store (the whole member)")
    parser.add_argument(
        "--seed", type=int, metavar="K", help="one world (of --world), with a trace of what happens in it"
    )
    parser.add_argument("--bug", default="none", metavar="NAME", help=f"plant a mistake: {BUGS}")
    parser.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")
    options = parser.parse_args()
    kinds = [options.world] if options.world else [kind for kind in WORLDS if options.bug in BUGS[kind]]
    if not kinds or options.bug not in BUGS[kinds[0]]:
        parser.error(f"no such mistake: {options.bug}")
    logging.disable(logging.CRITICAL)
    if options.seed is not None:
        return run_one(kinds[-1], options.seed, options.bug)
    failures = sum(
        run_many(kind, range(options.first, options.first + options.seeds), options.bug, keep_going=options.keep_going)
        for kind in kinds
    )
    return 1 if failures else 0


def run_many(kind: str, seeds: range, bug: str, *, keep_going: bool) -> int:
    """Run worlds of a kind; answers how many failed."""
    started = told = time.perf_counter()
    acknowledged = reads = terms = failures = count = 0
    for seed in seeds:
        world = WORLDS[kind](seed, bug)
        count += 1
        try:
            world.run()
        except Exception as error:
            failures += 1
            print(f"FAILED {type(error).__name__}: {error}")
            planted = "" if bug == "none" else f" --bug {bug}"
            print(f"again: scripts/sim --world {kind} --seed {seed}{planted}", flush=True)
            if not keep_going:
                break
        acknowledged += world.acknowledged
        reads += world.reads
        terms += len(world.leaders)
        if time.perf_counter() > told + 30:
            told = time.perf_counter()
            print(f"{kind}: {count} of {len(seeds)} seeds, {failures} failed", flush=True)
    seconds = time.perf_counter() - started
    print(
        f"{kind}: {count} seeds in {seconds:.1f} s ({count / seconds:.1f} seeds/s): {acknowledged} writes acknowledged, "
        f"{reads} linearizable reads, {terms} terms led; {f'{failures} FAILED' if failures else 'no promise broken'}",
        flush=True,
    )
    return failures


def run_one(kind: str, seed: int, bug: str) -> int:
    """Run a world and print its trace."""
    world = WORLDS[kind](seed, bug, keep_trace=True)
    try:
        world.run()
    except Exception:
        print("\n".join(world.lines or ()))
        traceback.print_exc()
        return 1
    print("\n".join(world.lines or ()))
    print(f"{kind} seed {seed}: no promise broken")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
