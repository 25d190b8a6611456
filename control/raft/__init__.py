"""Consensus: one log, the same on every member, that nothing acknowledged ever leaves.

Read in this order:

- `messages`: the words: entries, memberships, snapshots, what members say to each other.
- `core`: the algorithm, without I/O; with `log`, `quorum`, `tracker`, `reads`, `membership` as its parts. Its docstring
  lists what the owner must do, and in which order.
- `wal`, `snapshots`, `files`: what is on the disk, and what is made of damage.
- `transport`, `wire`: how messages travel.
- `node`, with `proposals` and `barriers`: the loop that drives all of it; `interface` is what the store sees.

The tests mirror the modules. `tests/unit/control/raft/transcripts` has whole conversations to read; `scripts/sim` runs
the real core and log in simulated worlds where everything fails.
"""
