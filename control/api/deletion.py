"""Deletion: at once, or marked and waited for.

The registry decides (`prepare_delete`): an object with finalizers, a pod that an agent must stop first, or a kind with its own
finalization is marked with deletionTimestamp, and whoever it waits for removes it later; everything else goes at once. What
the object held (addresses, ports, pod ranges) is given back in the transaction that removes it.
"""

from __future__ import annotations

from control import admission, registry
from control.api.allocation import Allocator
from control.api.context import ApiContext, cause_of
from control.api.engine import Keys, Op, Plan, Write
from control.api.messages import object_of, object_of_kv, stored_form
from control.api.reads import place_problem
from control.identity import Caller
from control.store.interface import Committed, Delete, Put
from steersman.errors import bad_request, not_found
from steersman.v1 import objects_pb2 as pb

_PROPAGATION = {
    pb.DeleteRequest.PROPAGATION_UNSPECIFIED: "",
    pb.DeleteRequest.BACKGROUND: "Background",
    pb.DeleteRequest.FOREGROUND: "Foreground",
    pb.DeleteRequest.ORPHAN: "Orphan",
}


class Deletion(Write):
    """Delete one object."""

    def __init__(
        self,
        context: ApiContext,
        allocator: Allocator,
        request: pb.DeleteRequest,
        caller: Caller,
        *,
        verb: str = "delete",
        authorized: bool = False,
    ) -> None:
        """`authorized`: the right to do this was checked as another one (eviction)."""
        self._context = context
        self._allocator = allocator
        self._request = request
        self._caller = caller
        self._verb = verb
        self._authorized = authorized
        self._resource = context.resource(request.type)

    def keys(self) -> Keys:
        return Keys(frozenset((self._resource.key(self._request.namespace, self._request.name),)))

    async def plan(self) -> Plan:
        context, request, resource = self._context, self._request, self._resource
        if not request.name:
            raise bad_request(f"name the {resource.singular} to delete")
        place_problem(resource, request.namespace)
        if request.HasField("grace_period_seconds") and request.grace_period_seconds < 0:
            raise bad_request(f"grace_period_seconds must not be negative: {request.grace_period_seconds}")
        if not self._authorized:
            context.require(self._caller, self._verb, resource, request.namespace, request.name)
        current = await context.store.get(resource.key(request.namespace, request.name))
        if current is None:
            raise not_found(resource.plural, request.name, group=resource.group)
        old = registry.decode_stored(current.value)
        wanted = request.preconditions
        registry.check_preconditions(resource, old["metadata"], uid=wanted.uid, revision=wanted.revision)
        warnings = admission.admit(
            admission.Request(
                admission.DELETE, resource, None, old, user=self._caller.user, dry_run=request.options.dry_run
            ),
            admission.View(config=context.admission),
        )
        deletion = registry.prepare_delete(
            resource,
            old,
            context.now(),
            grace=request.grace_period_seconds if request.HasField("grace_period_seconds") else None,
            propagation=_PROPAGATION.get(request.propagation, ""),
        )
        outcome = pb.WriteResponse.DELETED if deletion.remove else pb.WriteResponse.DELETING
        if not deletion.remove and deletion.document == old:
            message = object_of_kv(resource, current)
            return Plan((), lambda _: pb.WriteResponse(object=message, outcome=outcome, warnings=warnings))
        value, splice = stored_form(deletion.document)
        ops: tuple[Op, ...]
        if deletion.remove:
            remove = Delete(current.key, expect=current.mod_revision, value=value, splice=splice)
            ops = (remove, *self._allocator.on_delete(resource, old))
        else:
            ops = (Put(current.key, value, splice, expect=current.mod_revision),)

        def answer(committed: Committed | None) -> pb.WriteResponse:
            revision = committed.revision if committed is not None else current.mod_revision
            stored = b"%b%d%b" % (value[:splice], revision, value[splice:])
            message = object_of(resource, current.key, stored, revision)
            return pb.WriteResponse(object=message, outcome=outcome, warnings=warnings)

        if request.options.dry_run:
            return Plan((), answer)
        return Plan(ops, answer, cause_of(request.options, self._caller))
