"""Get and list: stored bytes, handed on as they are.

Reads are linearizable on every member: they wait for a barrier (shared by all who wait, see `barrier`), unless the
request names a revision or accepts staleness. All pages of a list show the revision of the first; when that revision is
compacted meanwhile the next page is refused with Expired, and the list must start again.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from control import registry
from control.api import paging
from control.api.context import ApiContext
from control.api.errors import from_store
from control.api.messages import add_objects, object_of_kv
from control.api.pasts import Pasts
from control.api.selection import Selection
from control.identity import Caller
from control.insight.moments import Moment
from control.registry import Resource
from control.store.interface import CompactedError, FutureRevisionError, KeyValue, StoreError
from steersman.errors import ApiError, bad_request, expired, not_found
from steersman.v1 import objects_pb2 as pb

PAGE = 1_000  # objects read from the store at once: a few milliseconds, after which others get their turn

Page = tuple[Sequence[KeyValue], bool, int]  # objects, whether more follow, how many there are in all (0: not counted)


class Reads:
    """The reading methods of `Objects`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self.pasts = Pasts(context)

    async def get(self, request: pb.GetRequest, caller: Caller) -> pb.ObjectResponse:
        """Read one object, now or as of a revision."""
        context = self._context
        resource = context.resource(request.type)
        if not request.name:
            raise bad_request(f"name the {resource.singular} to get")
        if request.subresource not in ("", *resource.subresources):
            raise unknown_subresource(resource, request.name, request.subresource)
        context.require(caller, "get", resource, request.namespace, request.name, request.subresource)
        place_problem(resource, request.namespace)
        moment = await self._moment(request)
        try:
            if moment is None:
                await context.barrier.wait()
            revision = moment.revision if moment is not None else 0
            kv = await context.store.get(resource.key(request.namespace, request.name), revision)
        except StoreError as error:
            raise from_store(error) from None
        if kv is None:
            raise not_found(resource.plural, request.name, group=resource.group)
        message = object_of_kv(resource, kv)
        if request.subresource == "scale":
            message.json = msgspec.json.encode(registry.to_scale(resource, msgspec.json.decode(kv.value)))
            message.api_version, message.kind = "autoscaling/v1", "Scale"
        elif request.as_table:
            message.json = self.table(resource, (kv.value,), revision=kv.mod_revision, moment=moment)
        return pb.ObjectResponse(object=message)

    async def list(self, request: pb.ListRequest, caller: Caller) -> pb.ListResponse:
        """Read the objects that match, all at one revision."""
        context = self._context
        resource = context.resource(request.type)
        selection = Selection(resource, request.label_selector, request.field_selector)
        if request.limit < 0:
            raise bad_request(f"limit must not be negative: {request.limit}")
        context.require(caller, "list", resource, request.namespace, selection.name)
        prefix = resource.namespace_prefix(request.namespace)
        moment = None if request.continue_token else await self._moment(request)
        try:
            revision, after = await self._list_start(request, prefix, moment)
            kvs, more, count = await self._collect(resource, prefix, selection, revision, after, request.limit)
        except CompactedError as error:
            if request.continue_token:
                raise expired(
                    "The provided continue parameter is too old to display a consistent list result "
                    f"(revisions {error.oldest} and newer are available): start the list again without it"
                ) from None
            raise from_store(error) from None
        except StoreError as error:
            raise from_store(error) from None
        response = pb.ListResponse(revision=revision)
        if more:
            response.continue_token = paging.encode(revision, kvs[-1].key[len(prefix) :])
            response.remaining = count
        if request.as_table:
            values = [kv.value for kv in kvs]
            response.table = self.table(resource, values, revision=revision, following=response, moment=moment)
        else:
            add_objects(response.items, resource, kvs)
        return response

    def table(
        self,
        resource: Resource,
        values: Sequence[bytes],
        *,
        revision: int,
        following: pb.ListResponse | None = None,
        moment: Moment | None = None,
    ) -> bytes:
        """A meta.k8s.io/v1 Table of objects; ages are as of the moment shown."""
        documents = [msgspec.json.decode(value) for value in values]
        table: dict[str, Any] = registry.table(
            resource,
            documents,
            self._context.clock.now() if moment is None or moment.time is None else moment.time,
            wide=True,
            include="Metadata",
            revision=revision,
            continue_token=following.continue_token if following is not None else "",
            remaining=following.remaining if following is not None else 0,
        )
        return msgspec.json.encode(table)

    async def kinds(self, _request: pb.KindsRequest, _caller: Caller) -> pb.KindsResponse:
        """The kinds that are served; anyone who was authenticated may ask."""
        return pb.KindsResponse(
            kinds=[
                pb.KindInfo(
                    api_version=resource.api_version,
                    kind=resource.kind,
                    plural=resource.plural,
                    singular=resource.singular,
                    short_names=resource.short_names,
                    namespaced=resource.namespaced,
                    verbs=resource.verbs,
                    categories=resource.categories,
                    subresources=resource.subresources,
                )
                for resource in self._context.registry.resources
            ]
        )

    async def pages(
        self, resource: Resource, prefix: str, selection: Selection, revision: int
    ) -> AsyncIterator[Sequence[KeyValue]]:
        """All matching objects at a revision, page by page: for watches that begin with the present state."""
        after = ""
        while True:
            kvs, more, _ = await self._collect(resource, prefix, selection, revision, after, PAGE)
            yield kvs
            if not more:
                return
            after = kvs[-1].key
            # Inside a member nothing else lets others have their turn here, and a new leader whose caches read 100,000
            # objects in one go would be silent for so long that the others elect another.
            await asyncio.sleep(0)

    async def _reached(self, revision: int) -> None:
        """Let a member that lags behind catch up with a revision that its client saw elsewhere."""
        if revision > self._context.store.revision:
            await self._context.barrier.wait()
            if revision > self._context.store.revision:
                raise FutureRevisionError(f"{revision}, current: {self._context.store.revision}")

    async def _moment(self, request: pb.GetRequest | pb.ListRequest) -> Moment | None:
        """The past that a request asks for; None: it asks for the present. Raises ApiError."""
        if request.at:
            if request.revision:
                raise bad_request("give either a revision or a moment (at), not both")
            return await self.pasts.at(request.at)
        if not request.revision:
            return None
        try:
            await self._reached(request.revision)
        except StoreError as error:
            raise from_store(error) from None
        return self.pasts.of_revision(request.revision)

    async def _list_start(self, request: pb.ListRequest, prefix: str, moment: Moment | None) -> tuple[int, str]:
        """The revision to show, and the key after which to begin."""
        if request.continue_token:
            token = paging.decode(request.continue_token)
            await self._reached(token.revision)
            return token.revision, prefix + token.after
        if moment is not None:
            return moment.revision, ""
        if not request.stale_ok:
            await self._context.barrier.wait()
        return self._context.store.revision, ""

    async def _collect(
        self, resource: Resource, prefix: str, selection: Selection, revision: int, after: str, limit: int
    ) -> Page:
        store = self._context.store
        if not selection:
            if not limit or limit > PAGE:
                return await self._collect_all(prefix, revision, after, limit)
            found = await store.range(prefix, revision=revision, limit=limit, after=after)
            # `count` is of the whole prefix: what is left is known on the first page, later pages do not count again.
            left = found.count - len(found.kvs) if not after else 0
            return found.kvs, found.more, left if found.more else 0
        if selection.name and (resource.namespaced is False or prefix != resource.prefix):
            key = prefix + selection.name
            kv = await store.get(key, revision) if key > after else None
            return ((kv,), False, 0) if kv is not None and selection.matches(key, kv.value) else ((), False, 0)
        candidates = await self._candidates(resource, prefix, selection, revision, after)
        if candidates is not None:
            chosen = [kv for kv in candidates if selection.matches(kv.key, kv.value)]
            return (chosen[:limit], True, 0) if limit and len(chosen) > limit else (chosen, False, 0)
        matching: builtins.list[KeyValue] = []
        while True:
            found = await store.range(prefix, revision=revision, limit=PAGE, after=after)
            for kv in found.kvs:
                if selection.matches(kv.key, kv.value):
                    if limit and len(matching) == limit:
                        return matching, True, 0
                    matching.append(kv)
            if not found.more:
                return matching, False, 0
            after = found.kvs[-1].key
            await asyncio.sleep(0)

    async def _collect_all(self, prefix: str, revision: int, after: str, limit: int) -> Page:
        collected: builtins.list[KeyValue] = []
        while True:
            size = min(PAGE, limit - len(collected)) if limit else PAGE
            found = await self._context.store.range(prefix, revision=revision, limit=size, after=after)
            collected += found.kvs
            if not found.more or len(collected) == limit:
                return collected, found.more, found.count - len(collected) if found.more else 0
            after = found.kvs[-1].key
            await asyncio.sleep(0)

    async def _candidates(
        self, resource: Resource, prefix: str, selection: Selection, revision: int, after: str
    ) -> Sequence[KeyValue] | None:
        """What an index says may match, or None when no index can tell: it knows the newest state only."""
        store, index, term = self._context.store, self._context.index, selection.index_term()
        if index is None or term is None or revision != store.revision:
            return None
        keys = [key for key in index.lookup(resource.prefix, *term) if key.startswith(prefix) and key > after]
        # A store with indexes answers from memory, without giving way; the check holds should one ever not.
        found = [await store.get(key, revision) for key in keys]
        return [kv for kv in found if kv is not None] if store.revision == revision else None


def place_problem(resource: Resource, namespace: str) -> None:
    """Raises ApiError 400 when one object of a namespaced kind is named without its namespace."""
    if resource.namespaced and not namespace:
        raise bad_request(f"{resource.plural} are namespaced: name the namespace")


def unknown_subresource(resource: Resource, name: str, subresource: str) -> ApiError:
    """The refusal of a subresource that the kind does not have."""
    known = ", ".join(resource.subresources) or "none"
    return ApiError(
        "NotFound",
        f'{resource.qualified} "{name}" has no subresource "{subresource}" (it has: {known})',
        group=resource.group,
        kind=resource.plural,
        name=name,
    )
