"""`bench/run`: every figure with its floor or peer, measured in one run."""

from __future__ import annotations

import importlib
import sys

from bench.harness import Figure, mood, show

PARTS = ("labs", "pods", "writes", "store", "failover", "network")


def main() -> None:
    arguments = sys.argv[1:]
    as_json = "--json" in arguments
    wanted = [argument for argument in arguments if argument != "--json"] or list(PARTS)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        sys.exit(f"bench: no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    figures: list[Figure] = []
    for part in wanted:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        found = [mood(), *importlib.import_module(f"bench.{part}").run()]
        figures += found
        if not as_json:
            show(found, as_json=False)
    if as_json:
        show(figures, as_json=True)
    if any(figure.good is False for figure in figures):
        sys.exit(1)


if __name__ == "__main__":
    main()
