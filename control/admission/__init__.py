"""Admission: what every write passes between decoding and preparation.

    warnings = admit(Request(operation, resource, document, old, subresource, user, dry_run), View(namespace, config))

completes the document in place or raises the first refusal. The order of the steps is `CHAIN`. Addresses and ranges are
no step of the chain: they are allocated by the API in the transaction that stores their holder.
"""

from __future__ import annotations

from typing import Final

from control.admission import accounts, namespaces, nodes, priority, tolerations
from control.admission.chain import CREATE, DELETE, SERVICE_NAMESPACES, UPDATE, Config, Request, Step, View, run

CHAIN: Final[tuple[Step, ...]] = (
    nodes.admit,
    namespaces.admit,
    accounts.admit,
    priority.admit,
    tolerations.admit,
)


def admit(request: Request, view: View) -> list[str]:
    """Pass a request through the chain; answer the warnings.

    Raises:
        ApiError: the first refusal.
    """
    return run(CHAIN, request, view)


__all__ = [
    "CHAIN",
    "CREATE",
    "DELETE",
    "SERVICE_NAMESPACES",
    "UPDATE",
    "Config",
    "Request",
    "Step",
    "View",
    "admit",
    "run",
]
