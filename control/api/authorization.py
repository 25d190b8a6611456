"""Who may do what, with reasons.

The order of business: whoever calls was authenticated by TLS (`control.identity`); an `Authorizer` then answers None
(allowed) or why not. This one knows groups only: masters and members may do everything, agents use the node gateway and
nothing else, everyone else may only ask which kinds there are. Role-based rules are another Authorizer of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from control.identity import MASTERS, MEMBERS, NODES, Caller
from steersman.errors import ApiError, forbidden


@dataclass(frozen=True, slots=True)
class Access:
    """What is asked: a verb on a resource (with `subresource`) of a group, in a namespace ("" the whole cluster), perhaps of one name."""

    verb: str  # "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", …
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        scope = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'cannot {self.verb} resource "{resource}" in API group "{self.group}" {scope}'


class Authorizer(Protocol):
    """Decides without side effects; called for every request."""

    def refusal(self, caller: Caller, access: Access) -> str | None:
        """None, or a clause to add to the refusal ("" for none)."""
        ...


class GroupAuthorizer:
    """All or nothing, by group."""

    def refusal(self, caller: Caller, access: Access) -> str | None:  # noqa: ARG002 - the protocol's shape
        if caller.groups & {MASTERS, MEMBERS}:
            return None
        if NODES in caller.groups:
            return "agents use the node gateway only"
        return ""


def require(authorizer: Authorizer, caller: Caller, access: Access) -> None:
    """Raises ApiError Forbidden in Kubernetes' words when the caller may not."""
    why = authorizer.refusal(caller, access)
    if why is not None:
        raise denied(caller, access, why)


def denied(caller: Caller, access: Access, why: str = "") -> ApiError:
    """The refusal."""
    sentence = f'User "{caller.user}" {access}'
    return forbidden(access.resource, access.name, f"{sentence}: {why}" if why else sentence, group=access.group)
