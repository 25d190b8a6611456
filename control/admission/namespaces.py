"""Namespace life cycle: nothing new in a namespace that is missing or going; some namespaces stay."""

from __future__ import annotations

from control.admission.chain import CREATE, DELETE, SERVICE_NAMESPACES, Request, View
from steersman.errors import ApiError, Cause, forbidden, not_found


def admit(request: Request, view: View) -> ApiError | None:
    if request.operation == DELETE and request.concerns("namespaces") and request.name in SERVICE_NAMESPACES:
        return forbidden("namespaces", request.name, "this namespace may not be deleted")
    if request.operation != CREATE or not request.resource.namespaced:
        return None
    if view.namespace is None:
        return not_found("namespaces", request.namespace)
    if not _terminating(view):
        return None
    refusal = forbidden(
        request.resource.plural,
        request.name,
        f"unable to create new content in namespace {request.namespace} because it is being terminated",
        group=request.resource.group,
    )
    refusal.causes = (
        Cause("NamespaceTerminating", f"namespace {request.namespace} is being terminated", "metadata.namespace"),
    )
    return refusal


def _terminating(view: View) -> bool:
    assert view.namespace is not None
    return (
        "deletionTimestamp" in view.namespace["metadata"]
        or view.namespace.get("status", {}).get("phase") == "Terminating"
    )
