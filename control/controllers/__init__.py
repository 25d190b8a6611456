"""Controllers: functions from a view of the cluster to intents, run by the leader.

Each module holds one kind's `View` and the pure `reconcile(view, now) -> Result`, which decides, and a small class that
says what to look at and when to look again. `runtime.py` runs any of them: it keeps the work queue, carries the intents
out in batches, and never lets a decision be made on a cache that does not show the last one's writes yet.
`manager.py` starts them all, with one cache per kind between them.
"""
