"""`scripts/sim`: run seeds, count them, and say how to run a failing one again."""

from __future__ import annotations

import argparse
import logging
import time
import traceback

from tests.sim.raft.simulator import Bug, World


def main() -> int:
    """Run what the command line asks for; answer the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description="Run Raft in simulated faulty worlds.")
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="how many worlds (default: 300)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="seed of the first (default: 0)")
    parser.add_argument("--seed", type=int, metavar="K", help="one world, with a trace of what happens in it")
    parser.add_argument("--bug", choices=[bug.value for bug in Bug], default="none", help="plant a mistake")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    bug = Bug(options.bug)
    if options.seed is not None:
        return run_one(options.seed, bug)
    started = time.perf_counter()
    acknowledged = reads = terms = 0
    for seed in range(options.first, options.first + options.seeds):
        world = World(seed, bug=bug)
        try:
            world.run()
        except Exception as error:
            print(f"FAILED {type(error).__name__}: {error}")
            planted = "" if bug is Bug.NONE else f" --bug {bug.value}"
            print(f"again: scripts/sim --seed {seed}{planted}")
            return 1
        acknowledged += world.acknowledged
        reads += world.reads
        terms += len(world.leaders)
    seconds = time.perf_counter() - started
    print(
        f"{options.seeds} seeds in {seconds:.1f} s ({options.seeds / seconds:.1f} seeds/s): "
        f"{acknowledged} writes acknowledged, {reads} linearizable reads, {terms} terms led; no promise broken"
    )
    return 0


def run_one(seed: int, bug: Bug) -> int:
    """Run a world and print its trace."""
    world = World(seed, bug=bug, keep_trace=True)
    try:
        world.run()
    except Exception:
        print("\n".join(world.lines or ()))
        traceback.print_exc()
        return 1
    print("\n".join(world.lines or ()))
    print(f"seed {seed}: no promise broken")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
