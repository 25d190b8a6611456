"""The group coordination.k8s.io/v1: Lease."""

from __future__ import annotations

from control.registry.core import AGE, NAME
from control.registry.problems import Problems
from control.registry.resources import Column, Document, Resource
from control.registry.tables import created


def _default(document: Document) -> None:
    document.setdefault("spec", {})


def _validate(document: Document, problems: Problems) -> None:
    spec = document.get("spec", {})
    problems.at_least("spec.leaseDurationSeconds", spec.get("leaseDurationSeconds"), 1)
    problems.at_least("spec.leaseTransitions", spec.get("leaseTransitions"), 0)


LEASES = Resource(
    group="coordination.k8s.io",
    version="v1",
    kind="Lease",
    plural="leases",
    singular="lease",
    default=_default,
    validate=_validate,
    columns=(NAME, Column("Holder", description="Who holds it"), AGE),
    row=lambda document, now: [
        document["metadata"]["name"],
        document.get("spec", {}).get("holderIdentity", ""),
        created(document, now),
    ],
    unconditional_update=False,
    create_on_update=True,
)

RESOURCES = (LEASES,)
