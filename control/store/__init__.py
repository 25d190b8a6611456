"""The store: every object at every revision still remembered.

Read in this order: `interface` (what is promised), `mvcc` (the state machine), `watch`, `index` and `history` (who looks
at it), `engine` (these in step), and the backends: `local` (in memory) and `embedded` (over Raft, with `commands` as the
log's bytes, `grouping` for group commit and `metrics`). `snapshot` holds the format of snapshots.
"""
