"""The past through the API: `at` of reads, `Moment` and `History`.

Any member answers: it first makes sure that it knows everything acknowledged so far. A store that does not keep history itself (an
external one) refuses.
"""

from __future__ import annotations

from control.api.context import ApiContext
from control.api.errors import expired_before, from_store
from control.api.messages import object_of
from control.identity import Caller
from control.insight import history, moments
from control.insight.moments import Moment
from control.registry import Resource
from control.store.encryption import is_sealed, key_id
from control.store.history import History
from control.store.interface import CompactedError, StoreError
from steersman.clock import rfc3339_micro
from steersman.errors import ApiError, bad_request, not_found
from steersman.v1 import objects_pb2 as pb


class Pasts:
    """What was."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def moment(self, request: pb.MomentRequest, _caller: Caller) -> pb.MomentResponse:
        """Which revision was the newest at a moment; anyone who was authenticated may ask."""
        kept = self._kept()
        found = await self.at(request.at or "0s")
        return pb.MomentResponse(
            revision=found.revision,
            at=found.text,
            time=rfc3339_micro(found.time) if found.time is not None else "",
            oldest_revision=kept.oldest,
            oldest_time=_oldest_time(kept),
        )

    async def at(self, text: str) -> Moment:
        """The moment that a request's `at` means. Raises ApiError."""
        kept = self._kept()
        try:
            moment = moments.parse(text, self._context.clock.now())
        except ValueError as error:
            raise bad_request(f"at: {error}") from None
        try:
            await self._context.barrier.wait()
            return moments.resolve(kept, moment)
        except moments.TooEarlyError:
            raise expired_before(text, kept.oldest, kept.since) from None
        except KeyError:
            newest = self._context.store.revision
            if isinstance(moment, int) and moment <= newest:  # on etcd: it changed nothing of ours
                return Moment(moment, text, None)
            raise bad_request(f"at: revision {moment} has not happened yet: the newest is {newest}") from None
        except StoreError as error:
            raise from_store(error) from None

    def of_revision(self, revision: int) -> Moment:
        """A revision as a moment; its time is known only where the store keeps history, as far as that reaches."""
        kept: History | None = getattr(self._context.store, "history", None)
        try:
            return Moment(revision, str(revision), kept.cause_of(revision)[1] if kept is not None else None)
        except (CompactedError, KeyError):
            return Moment(revision, str(revision), None)

    async def history(self, request: pb.HistoryRequest, caller: Caller) -> pb.HistoryResponse:
        """What became of one object."""
        context = self._context
        resource = context.resource(request.type)
        if not request.name:
            raise bad_request(f"name the {resource.singular} whose history is asked for")
        if resource.namespaced and not request.namespace:
            raise bad_request(f"{resource.plural} are namespaced: name the namespace")
        if request.limit < 0:
            raise bad_request(f"limit must not be negative: {request.limit}")
        context.require(caller, "get", resource, request.namespace, request.name)
        kept = self._kept()
        key = resource.key(request.namespace, request.name)
        try:
            await context.barrier.wait()
        except StoreError as error:
            raise from_store(error) from None
        for past in kept.of(key, request.limit + 1 if request.limit else 0):
            if is_sealed(past.kv.value):
                raise ApiError(
                    "InternalError", f"{key} needs the encryption key {key_id(past.kv.value)}, which this member lacks"
                )
        found, more = history.entries(kept, key, request.limit)
        if not found:
            raise not_found(resource.plural, request.name, group=resource.group)
        return pb.HistoryResponse(
            entries=[_message(resource, key, entry) for entry in found],
            oldest_revision=kept.oldest,
            oldest_time=_oldest_time(kept),
            more=more,
        )

    def _kept(self) -> History:
        kept: History | None = getattr(self._context.store, "history", None)
        if kept is None:
            raise ApiError(
                "MethodNotAllowed", "this cluster's store does not keep history: the past can be read by revision only"
            )
        return kept


def _message(resource: Resource, key: str, entry: history.Entry) -> pb.HistoryEntry:
    past = entry.past
    shown = None
    if entry.document is not None:
        shown = object_of(resource, key, entry.document, past.kv.mod_revision, past.cause)
    return pb.HistoryEntry(
        revision=past.kv.mod_revision,
        time=rfc3339_micro(past.time),
        kind=pb.WatchEvent.Kind.Value(entry.kind),
        cause=pb.Cause(revision=past.cause.revision, actor=past.cause.actor),
        chain=[
            pb.HistoryLink(revision=link.revision, actor=link.actor, time=rfc3339_micro(link.time))
            for link in entry.chain
        ],
        changes=[pb.FieldChange(path=p, before=b, after=a) for p, b, a in history.texts(entry.changes)],
        before_forgotten=entry.before_forgotten,
        object=shown,
    )


def _oldest_time(kept: History) -> str:
    return rfc3339_micro(kept.since) if kept.since is not None else ""
