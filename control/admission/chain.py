"""The chain that every write passes: small steps that complete a document or refuse the request with a reason.

A step is a pure function `(request, view) -> ApiError | None`. It may complete `request.document` in place; it reads nothing
but its arguments. Whoever runs the chain reads beforehand what `View` holds, at the state that the write expects, so that
a decision can't be overtaken: the handler lets the write depend on what was read (`store.Check`).

Steps run in the order of `CHAIN`: first who may, then what is filled in, last what counts the result (quotas).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from control.registry import Document, Resource
from steersman.errors import ApiError

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"  # operations
SERVICE_NAMESPACES: Final = ("default", "kube-system", "kube-public")  # that the cluster can't do without


@dataclass(frozen=True, slots=True)
class Request:
    """One write.

    Attributes:
        operation: CREATE, UPDATE (a patch or an apply of what exists, too) or DELETE.
        document: what shall be stored, decoded, with defaults and namespace; None when deleting.
        old: what is stored; None when creating.
        subresource: "status", "scale", "binding", …; empty: the object itself.
        user: who asks, as the certificate names them.
        dry_run: nothing will be written.
    """

    operation: str
    resource: Resource
    document: Document | None
    old: Document | None = None
    subresource: str = ""
    user: str = ""
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)  # what steps want to tell the client

    @property
    def subject(self) -> Document:
        """The object that the request is about: its new state if there is one."""
        subject = self.document if self.document is not None else self.old
        assert subject is not None
        return subject

    @property
    def name(self) -> str:
        metadata = self.subject["metadata"]
        return str(metadata.get("name") or metadata.get("generateName") or "")

    @property
    def namespace(self) -> str:
        return str(self.subject["metadata"].get("namespace", "")) if self.resource.namespaced else ""

    def concerns(self, plural: str, group: str = "") -> bool:
        """Whether the request is about objects of this resource."""
        return self.resource.plural == plural and self.resource.group == group


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator sets by flags.

    The two tolerations say how long a pod stays bound to a node that is not ready or not heard of, unless the pod says
    otherwise. Kubernetes' 300 s suits nodes whose silence does not stop their pods; here a silent node has fenced its
    pods by then, so waiting only costs availability.
    """

    not_ready_seconds: int = 5
    unreachable_seconds: int = 5


@dataclass(frozen=True, slots=True)
class View:
    """The state that the steps decide from.

    Attributes:
        namespace: the namespace of a namespaced object; None: it does not exist.
    """

    namespace: Mapping[str, Any] | None = None
    config: Config = field(default_factory=Config)


Step = Callable[[Request, View], ApiError | None]


def run(steps: tuple[Step, ...], request: Request, view: View) -> list[str]:
    """Pass a request through the steps; answer the warnings.

    Raises:
        ApiError: the first refusal.
    """
    for step in steps:
        refusal = step(request, view)
        if refusal is not None:
            raise refusal
    return request.warnings
