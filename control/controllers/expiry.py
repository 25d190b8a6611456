"""Event expiry: Events tell of the last hour, then they go (Kubernetes' --event-ttl)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from control.controllers.intents import Delete, Failure, Result
from control.controllers.runtime import Caches, Enqueue
from control.views import EventAge
from steersman.clock import parse_time

NAME = "event-expiry-controller"
EVENT_TTL_S = 3600.0
SLACK_S = 1.0  # several that end together go in one batch


@dataclass(frozen=True, slots=True)
class View:
    """The event to judge."""

    event: EventAge


def reconcile(view: View, now: dt.datetime) -> Result:
    """Delete the event when it was last seen an hour ago."""
    event = view.event
    text = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    left = EVENT_TTL_S - (now - parse_time(text)).total_seconds() if text else 0.0
    if left > 0:
        return Result(requeue_after=left + SLACK_S)
    reason = f"event {event.name} was last seen {text}, more than {EVENT_TTL_S:g} s ago"
    return Result((Delete(EventAge, event.name, event.namespace, uid=event.uid),), None, (reason,))


class EventExpiry:
    """Looks at each event once an hour after it was last seen."""

    name = NAME
    reconcile = staticmethod(reconcile)

    def __init__(self, caches: Caches) -> None:
        self._events = caches["Event"]

    def watch(self, enqueue: Enqueue) -> None:
        def changed(old: EventAge | None, new: EventAge | None) -> None:
            if old is None and new is not None:
                enqueue((new.namespace, new.name), new.metadata.revision)

        self._events.subscribe(changed)

    async def observe(self, key: tuple[str, str], failure: Failure | None) -> View | None:  # noqa: ARG002
        event = self._events.get(*key)
        return View(event) if event is not None else None
