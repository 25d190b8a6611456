"""Create, update, apply and patch, as plans (see `engine`).

All of them end in one of two ways: `_Change.created` for an object that is not there, `_Change.changed` for one that is. The steps
are the same for both: admission, the registry's preparation (system fields, validation), allocation, encoding. A change that
changes nothing is not written and answers UNCHANGED; a change that takes the last finalizer from an object that is being
deleted removes it.

Conflicts: a request that names a resourceVersion is refused when that is not the current one; any other request is planned
again on the newer state, so that concurrent patches of different fields all succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from control import admission, registry
from control.api.allocation import Allocator, Grant
from control.api.context import ApiContext, cause_of, mode_of
from control.api.engine import Keys, Op, Plan, Write
from control.api.messages import object_of, object_of_kv, stored_form, uid_of
from control.api.reads import place_problem, unknown_subresource
from control.identity import Caller
from control.registry import Resource
from control.registry.patches import json_patch, merge_patch
from control.registry.strategy import STALE
from control.store.interface import Check, Committed, Delete, KeyValue, Put
from steersman.errors import ApiError, already_exists, bad_request, conflict, not_found
from steersman.v1 import objects_pb2 as pb

Document = dict[str, Any]

_FORMATS = {pb.PatchRequest.JSON: "json", pb.PatchRequest.MERGE: "merge", pb.PatchRequest.STRATEGIC: "strategic"}

CREATED, CHANGED, UNCHANGED, DELETED = (
    pb.WriteResponse.CREATED,
    pb.WriteResponse.CHANGED,
    pb.WriteResponse.UNCHANGED,
    pb.WriteResponse.DELETED,
)


class _Change(Write):
    """What creating and changing have in common."""

    def __init__(self, context: ApiContext, allocator: Allocator, options: pb.WriteOptions, caller: Caller) -> None:
        self._context = context
        self._allocator = allocator
        self._options = options
        self._caller = caller
        self._mode = mode_of(options)
        self._cause = cause_of(options, caller)

    # --- the two endings ---

    async def created(self, resource: Resource, document: Document, warnings: list[str]) -> Plan:
        """Plan the creation of an object that was decoded and placed."""
        context = self._context
        namespace = document["metadata"].get("namespace", "") if resource.namespaced else ""
        placed_in, checks = await self._namespace(resource, namespace)
        facts = context.now(self._caller.request_id)
        warnings += self._admit(admission.CREATE, resource, document, None, namespace=placed_in)
        self._allocator.check_wish(resource, document)
        warnings += registry.prepare_create(resource, document, facts)
        name = document["metadata"]["name"]
        key = resource.key(namespace, name)
        existing = await context.store.get(key)
        if existing is not None:
            if self._caller.request_id and uid_of(existing.value) == self._caller.request_id:
                return self._plan(resource, (), CREATED, warnings, existing)  # this very request, repeated
            raise already_exists(resource.plural, name, group=resource.group)
        grant = await self._allocator.on_create(resource, document)
        try:
            value, splice = stored_form(document)
        except ApiError:
            self._allocator.release(grant)
            raise
        put = Put(key, value, splice, expect=0)
        return self._plan(resource, (put, *checks, *grant.ops), CREATED, warnings, grant=grant)

    async def changed(
        self,
        resource: Resource,
        current: KeyValue,
        old: Document,
        document: Document,
        warnings: list[str],
        subresource: str = "",
    ) -> Plan:
        """Plan the change of the object `current` (decoded: `old`) to `document`."""
        context = self._context
        warnings += self._admit(admission.UPDATE, resource, document, old, subresource)
        warnings += registry.prepare_update(resource, document, old, context.now(), subresource=subresource)
        grant = Grant() if subresource else await self._allocator.on_update(resource, old, document)
        try:
            if _same(document, old):
                return self._plan(resource, (), UNCHANGED, warnings, current, grant=grant)
            value, splice = stored_form(document)
        except ApiError:
            self._allocator.release(grant)
            raise
        if registry.finished(resource, document):
            remove = Delete(current.key, expect=current.mod_revision, value=value, splice=splice)
            ops: tuple[Op, ...] = (remove, *self._allocator.on_delete(resource, old))
            return self._plan(resource, ops, DELETED, warnings, grant=grant)
        put = Put(current.key, value, splice, expect=current.mod_revision)
        return self._plan(resource, (put, *grant.ops), CHANGED, warnings, grant=grant)

    def _plan(
        self,
        resource: Resource,
        ops: tuple[Op, ...],
        outcome: pb.WriteResponse.Outcome.ValueType,
        warnings: list[str],
        present: KeyValue | None = None,
        *,
        grant: Grant | None = None,
    ) -> Plan:
        first = ops[0] if ops else None

        def answer(committed: Committed | None) -> pb.WriteResponse:
            if present is not None:
                message = object_of_kv(resource, present)
            elif committed is not None and isinstance(first, Put):
                message = object_of(resource, first.key, committed.values[0], committed.revision)
            else:
                message = _would_be(resource, first, committed.revision if committed is not None else 0)
            return pb.WriteResponse(object=message, outcome=outcome, warnings=warnings)

        def release() -> None:
            if grant is not None:
                self._allocator.release(grant)

        if not ops or self._options.dry_run:
            release()
            return Plan((), answer)
        return Plan(ops, answer, self._cause, release)

    # --- the steps ---

    def _admit(
        self,
        operation: str,
        resource: Resource,
        document: Document,
        old: Document | None,
        subresource: str = "",
        namespace: Document | None = None,
    ) -> list[str]:
        return admission.admit(
            admission.Request(
                operation, resource, document, old, subresource, self._caller.user, self._options.dry_run
            ),
            admission.View(namespace, self._context.admission),
        )

    async def _namespace(self, resource: Resource, name: str) -> tuple[Document | None, tuple[Op, ...]]:
        """The namespace, and the condition that it is still as admission saw it when the object is written."""
        if not resource.namespaced:
            return None, ()
        key = self._context.registry.find(kind="Namespace").key("", name)
        kv = await self._context.store.get(key)
        if kv is None:
            return None, ()  # admission refuses
        return registry.decode_stored(kv.value), (Check(key, kv.mod_revision),)

    async def _present(self, resource: Resource, namespace: str, name: str) -> KeyValue:
        kv = await self._context.store.get(resource.key(namespace, name))
        if kv is None:
            raise not_found(resource.plural, name, group=resource.group)
        return kv

    def _keys(self, resource: Resource, namespace: str, name: str) -> Keys:
        return Keys(frozenset((resource.key(namespace, name),)), self._looks_at(resource, namespace))

    def _looks_at(self, resource: Resource, namespace: str) -> frozenset[str]:
        if not resource.namespaced:
            return frozenset()
        return frozenset((self._context.registry.find(kind="Namespace").key("", namespace),))


def _same(document: Document, old: Document) -> bool:
    """Whether a write would store what is stored."""
    if document.keys() != old.keys() or any(document[key] != old[key] for key in old if key != "metadata"):
        return False
    new_metadata, old_metadata = document["metadata"], old["metadata"]
    return {**new_metadata, "resourceVersion": ""} == {**old_metadata, "resourceVersion": ""}


def _would_be(resource: Resource, op: Op | None, revision: int) -> pb.Object:
    """The object that a removal leaves behind, or that a dry run would have written."""
    assert isinstance(op, Put | Delete)
    assert op.value is not None
    # A dry-run update shows the revision it was planned on, a creation none, a removal its own.
    revision = revision or op.expect or 0
    digits = b"%d" % revision if revision else b""
    value = b"".join((op.value[: op.splice], digits, op.value[op.splice :]))
    return object_of(resource, op.key, value, revision)


class Create(_Change):
    """Create the object of a request's document."""

    def __init__(self, context: ApiContext, allocator: Allocator, request: pb.CreateRequest, caller: Caller) -> None:
        super().__init__(context, allocator, request.options, caller)
        self._request = request
        self._decoded: tuple[Resource, Document, list[str]] | None = None
        self._placed = ""
        self._generated = False

    def _decode(self) -> tuple[Resource, Document, list[str]]:
        resource, document, warnings = self._context.registry.decode(self._request.object.json, self._mode)
        metadata = document["metadata"]
        if resource.namespaced:
            resource.place(document, metadata.get("namespace") or self._request.namespace or "default")
        else:
            resource.place(document, "")
        self._placed = metadata.get("namespace", "")
        self._generated = not metadata.get("name")
        return resource, document, warnings

    def keys(self) -> Keys:
        if self._decoded is None:
            self._decoded = self._decode()
        resource, document, _ = self._decoded
        if self._generated:
            return Keys(frozenset(), self._looks_at(resource, self._placed))
        return self._keys(resource, self._placed, document["metadata"]["name"])

    async def plan(self) -> Plan:
        decoded, self._decoded = self._decoded, None
        resource, document, warnings = decoded or self._decode()
        self._context.require(self._caller, "create", resource, self._placed)
        if self._generated and self._caller.request_id:
            done = await self._done_before(resource)
            if done is not None:
                return self._plan(resource, (), CREATED, warnings, done)
        try:
            return await self.created(resource, document, warnings)
        except ApiError as error:
            if error.reason != "AlreadyExists" or not self._generated:
                raise
        # The random suffix was taken: another one. Twice in a row happens once in 10^14 names of one prefix.
        resource, document, warnings = self._decode()
        return await self.created(resource, document, warnings)

    async def _done_before(self, resource: Resource) -> KeyValue | None:
        """The object that an earlier try of this very request created under a generated name."""
        index = self._context.index
        for key in index.lookup(resource.prefix, "uid", self._caller.request_id) if index is not None else ():
            return await self._context.store.get(key)
        return None


class Update(_Change):
    """Replace an object, or its status or scale."""

    def __init__(self, context: ApiContext, allocator: Allocator, request: pb.UpdateRequest, caller: Caller) -> None:
        super().__init__(context, allocator, request.options, caller)
        self._request = request
        self._versioned = False
        self._named: tuple[Resource, str, str] | None = None

    def _target(self) -> tuple[Resource, str, str]:
        """The resource, namespace and name that the document tells; of a Scale, the typed fields name the parent's kind."""
        if self._named is None:
            document, _ = registry.parse(self._request.object.json, "Ignore")
            metadata = document.get("metadata")
            metadata = metadata if isinstance(metadata, dict) else {}
            if self._request.subresource == "scale":
                named = self._request.object
                resource = self._context.registry.find(api_version=named.api_version, kind=named.kind)
            else:
                kind, api_version = document.get("kind"), document.get("apiVersion")
                if not isinstance(kind, str) or not isinstance(api_version, str) or not kind or not api_version:
                    raise bad_request("the document must say its apiVersion and kind")
                resource = self._context.registry.find(api_version=api_version, kind=kind)
            name, namespace = metadata.get("name"), metadata.get("namespace") or ""
            if not isinstance(name, str) or not name:
                raise bad_request("metadata.name: Required value: an update names its object")
            if not isinstance(namespace, str):
                raise bad_request("metadata.namespace must be a string")
            namespace = (namespace or self._request.object.namespace or "default") if resource.namespaced else ""
            if self._request.subresource not in ("", *resource.subresources):
                raise unknown_subresource(resource, name, self._request.subresource)
            self._named = resource, namespace, name
        return self._named

    def keys(self) -> Keys:
        resource, namespace, name = self._target()
        return self._keys(resource, namespace, name)

    async def plan(self) -> Plan:
        resource, namespace, name = self._target()
        subresource = self._request.subresource
        self._context.require(self._caller, "update", resource, namespace, name, subresource)
        current = await self._context.store.get(resource.key(namespace, name))
        if current is None and (subresource or not resource.create_on_update):
            raise not_found(resource.plural, name, group=resource.group)
        if current is None:
            self._context.require(self._caller, "create", resource, namespace)
            document, warnings = resource.decode(self._request.object.json, self._mode)
            resource.place(document, namespace)
            return await self.created(resource, document, warnings)
        old = registry.decode_stored(current.value)
        if subresource == "scale":
            return await self._scale(resource, current, old)
        document, warnings = resource.decode(self._request.object.json, self._mode)
        resource.place(document, namespace)
        self._versioned = bool(document["metadata"].get("resourceVersion"))
        return await self.changed(resource, current, old, document, warnings, subresource)

    async def _scale(self, resource: Resource, current: KeyValue, old: Document) -> Plan:
        scale, _ = registry.parse(self._request.object.json, self._mode)
        document = registry.from_scale(resource, old, scale)
        self._versioned = bool((scale.get("metadata") or {}).get("resourceVersion"))
        plan = await self.changed(resource, current, old, document, [])
        return _answering_scale(resource, plan)

    def stale(self) -> ApiError | None:
        if not self._versioned:
            return None
        resource, _, name = self._target()
        return conflict(resource.plural, name, STALE, group=resource.group)


class Apply(_Change):
    """Merge a manifest into an object, creating it when absent: a three-way merge with what was applied before."""

    def __init__(self, context: ApiContext, allocator: Allocator, request: pb.ApplyRequest, caller: Caller) -> None:
        super().__init__(context, allocator, request.options, caller)
        self._request = request
        self._parsed: tuple[Resource, str, str] | None = None

    def _target(self) -> tuple[Resource, str, str]:
        if self._parsed is None:
            manifest, _ = registry.parse(self._request.object.json, self._mode)
            kind, api_version = manifest.get("kind"), manifest.get("apiVersion")
            for field, value in (("apiVersion", api_version), ("kind", kind)):
                if not isinstance(value, str) or not value:
                    raise bad_request(f"Object '{field}' is missing: every document says its apiVersion and kind")
            resource = self._context.registry.find(api_version=str(api_version), kind=str(kind))
            metadata = manifest.get("metadata")
            if not isinstance(metadata, dict):
                raise bad_request("metadata: Required value: a manifest names its object in metadata.name")
            name, namespace = metadata.get("name"), metadata.get("namespace") or ""
            if not isinstance(name, str) or not name:
                raise bad_request("metadata.name: Required value: what is applied must have a name, not a generateName")
            if not isinstance(namespace, str):
                raise bad_request("metadata.namespace must be a string")
            namespace = (namespace or self._request.namespace or "default") if resource.namespaced else ""
            self._parsed = resource, namespace, name
        return self._parsed

    def keys(self) -> Keys:
        resource, namespace, name = self._target()
        return self._keys(resource, namespace, name)

    async def plan(self) -> Plan:
        resource, namespace, name = self._target()
        # The right to patch first: whoever lacks it does not learn whether the object exists.
        self._context.require(self._caller, "patch", resource, namespace, name)
        current = await self._context.store.get(resource.key(namespace, name))
        if current is None:
            self._context.require(self._caller, "create", resource, namespace)
        manifest, warnings = registry.parse(self._request.object.json, self._mode)
        if resource.namespaced:
            manifest["metadata"]["namespace"] = namespace
        old = None if current is None else registry.decode_stored(current.value)
        document, told = registry.three_way_apply(resource, old, manifest, self._mode)
        warnings += told
        if current is None or old is None:
            resource.place(document, namespace)
            return await self.created(resource, document, warnings)
        return await self.changed(resource, current, old, document, warnings)


class Patch(_Change):
    """Change parts of an object, or of its status or scale."""

    def __init__(self, context: ApiContext, allocator: Allocator, request: pb.PatchRequest, caller: Caller) -> None:
        super().__init__(context, allocator, request.options, caller)
        self._request = request
        self._resource = context.resource(request.type)

    def keys(self) -> Keys:
        request = self._request
        return self._keys(self._resource, request.namespace, request.name)

    async def plan(self) -> Plan:
        request, resource = self._request, self._resource
        if not request.name:
            raise bad_request(f"name the {resource.singular} to patch")
        place_problem(resource, request.namespace)
        if request.subresource not in ("", *resource.subresources):
            raise unknown_subresource(resource, request.name, request.subresource)
        format_name = _FORMATS.get(request.format)
        if format_name is None:
            raise bad_request("the patch's format must be JSON, MERGE or STRATEGIC")
        self._context.require(self._caller, "patch", resource, request.namespace, request.name, request.subresource)
        current = await self._present(resource, request.namespace, request.name)
        old = registry.decode_stored(current.value)
        if request.subresource == "scale":
            scale = _patched_scale(registry.to_scale(resource, old), request.patch, format_name, self._mode)
            plan = await self.changed(resource, current, old, registry.from_scale(resource, old, scale), [])
            return _answering_scale(resource, plan)
        document, warnings = registry.apply_patch(resource, old, request.patch, format_name, self._mode)
        return await self.changed(resource, current, old, document, warnings, request.subresource)


class Bind(_Change):
    """Bind a pod to a node: the pods/binding subresource."""

    def __init__(self, context: ApiContext, allocator: Allocator, request: pb.CreateRequest, caller: Caller) -> None:
        super().__init__(context, allocator, request.options, caller)
        self._request = request
        self._resource = context.registry.find(kind="Pod")
        self._binding: Document | None = None

    def _target(self) -> tuple[str, str]:
        if self._binding is None:
            self._binding, _ = registry.parse(self._request.object.json, self._mode)
        metadata = self._binding.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = self._request.name or metadata.get("name")
        namespace = metadata.get("namespace") or self._request.namespace or "default"
        if not isinstance(name, str) or not name or not isinstance(namespace, str):
            raise bad_request("metadata.name: Required value: a Binding names its pod")
        return namespace, name

    def keys(self) -> Keys:
        namespace, name = self._target()
        return self._keys(self._resource, namespace, name)

    async def plan(self) -> Plan:
        namespace, name = self._target()
        assert self._binding is not None
        self._context.require(self._caller, "create", self._resource, namespace, name, "binding")
        current = await self._present(self._resource, namespace, name)
        old = registry.decode_stored(current.value)
        uid = str((self._binding.get("metadata") or {}).get("uid") or "")
        registry.check_preconditions(self._resource, old["metadata"], uid=uid)
        document = registry.bind(old, self._binding, self._context.now())
        value, splice = stored_form(document)
        put = Put(current.key, value, splice, expect=current.mod_revision)
        return self._plan(self._resource, (put,), CHANGED, [])


def _patched_scale(scale: Document, patch: bytes, format_name: str, mode: str) -> Document:
    """A Scale with a patch applied: it has no lists to merge, so a strategic patch is a merge patch."""
    value, _ = registry.parse_value(patch, mode)
    patched = json_patch(scale, value) if format_name == "json" else merge_patch(scale, value)
    if not isinstance(patched, dict):
        raise bad_request("the patch makes something of the Scale that is no object")
    return patched


def _answering_scale(resource: Resource, plan: Plan) -> Plan:
    """The same plan, answered by the Scale instead of the whole object."""
    inner: Callable[[Committed | None], pb.WriteResponse] = plan.answer

    def answer(committed: Committed | None) -> pb.WriteResponse:
        response = inner(committed)
        scale = registry.to_scale(resource, msgspec.json.decode(response.object.json))
        response.object.json = msgspec.json.encode(scale)
        response.object.api_version, response.object.kind = "autoscaling/v1", "Scale"
        return response

    return Plan(plan.ops, answer, plan.cause, plan.release)
