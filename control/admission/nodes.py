"""Node restriction: an agent writes what is its own, and nothing else.

Its own are: its Node, its Lease in kube-node-lease, the status of pods bound to it (and their removal), and events. It may
not change the taints that keep pods away from it, nor labels under node-restriction.kubernetes.io, with which operators
keep sensitive pods off nodes that might be taken over.

This narrows what authorization granted to the group of nodes; an agent is known by its certificate's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control.admission.chain import CREATE, DELETE, UPDATE, Request, View
from control.identity import NODE_PREFIX
from steersman.errors import ApiError, forbidden

RESTRICTED: Final = "node-restriction.kubernetes.io/"
LEASE_NAMESPACE: Final = "kube-node-lease"


def admit(request: Request, _view: View) -> ApiError | None:
    if not request.user.startswith(NODE_PREFIX):
        return None
    why = _reason(request, request.user.removeprefix(NODE_PREFIX))
    return forbidden(request.resource.plural, request.name, why, group=request.resource.group) if why else None


def _reason(request: Request, node: str) -> str | None:
    """Why the agent of `node` may not do this; None: it may."""
    match request.resource.plural:
        case "nodes":
            return _node_reason(request, node)
        case "pods":
            return _pod_reason(request, node)
        case "leases":
            if request.namespace != LEASE_NAMESPACE or request.name != node:
                return f"node {node!r} may only write its own lease, {node} in namespace {LEASE_NAMESPACE}"
            return None
        case "events":
            return None
    return f"node {node!r} may not write {request.resource.qualified}"


def _node_reason(request: Request, node: str) -> str | None:
    if request.name != node:
        return f"node {node!r} is not allowed to modify node {request.name!r}"
    if request.operation == DELETE:
        return f"node {node!r} may not delete itself"
    new, old = request.subject, request.old or {}
    if request.operation == UPDATE and not request.subresource and _taints(new) != _taints(old):
        return f"node {node!r} may not change its own taints"
    if _restricted(new) != _restricted(old):
        return f"node {node!r} may not set labels that begin with {RESTRICTED}"
    return None


def _pod_reason(request: Request, node: str) -> str | None:
    if request.operation == CREATE:
        return f"node {node!r} may not create pods"
    bound_to = (request.old or {}).get("spec", {}).get("nodeName", "")
    if bound_to != node:
        return f"node {node!r} can only change pods bound to itself, and this one is {f'bound to {bound_to!r}' if bound_to else 'not bound'}"
    if request.operation == UPDATE and request.subresource != "status":
        return f"node {node!r} can only change the status of its pods"
    return None


def _taints(document: Mapping[str, Any]) -> Any:
    return document.get("spec", {}).get("taints", [])


def _restricted(document: Mapping[str, Any]) -> dict[str, str]:
    labels = document.get("metadata", {}).get("labels", {})
    return {key: value for key, value in labels.items() if key.startswith(RESTRICTED)}
