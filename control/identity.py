"""Who calls: a user and groups, as a verified client certificate names them.

A certificate's common name is the user and its organisations are the groups, as in Kubernetes. TLS has checked it against
the cluster's CA before any code here runs. A member may speak for someone else: it forwards a caller's request to the
leader and names the caller in the call's metadata, which counts only from a member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MASTERS: Final = "system:masters"  # may do everything
MEMBERS: Final = "system:members"  # the control plane's own processes
NODES: Final = "system:nodes"  # the agents
AUTHENTICATED: Final = "system:authenticated"
ANONYMOUS: Final = "system:anonymous"
MEMBER_PREFIX: Final = "system:member:"
NODE_PREFIX: Final = "system:node:"

USER_KEY: Final = "steersman-user"  # metadata of a forwarded call
GROUP_KEY: Final = "steersman-group"
REQUEST_KEY: Final = "steersman-request"  # a fresh uid per forwarded creation, the same when it is repeated


@dataclass(frozen=True, slots=True)
class Caller:
    """Attributes:
    user: the name; `system:anonymous` when no certificate was shown.
    groups: what the user belongs to.
    via: the member that forwarded the call, if one did.
    request_id: identifies a forwarded creation over its repetitions: the uid that the object gets.
    """

    user: str
    groups: frozenset[str] = frozenset()
    via: str = ""
    request_id: str = ""

    @property
    def is_member(self) -> bool:
        """Whether a member of the control plane itself is calling, for itself or (see `via`) for someone."""
        return MEMBERS in self.groups

    @property
    def node(self) -> str:
        """The node whose agent is calling; empty: none."""
        return self.user.removeprefix(NODE_PREFIX) if NODES in self.groups and self.user.startswith(NODE_PREFIX) else ""


def member(name: str) -> Caller:
    """The control plane's member `name` itself."""
    return Caller(MEMBER_PREFIX + name, frozenset((MEMBERS, AUTHENTICATED)))


def from_certificate(common_name: str, organisations: Iterable[str]) -> Caller:
    """The holder of a verified certificate; one without a name is nobody."""
    if not common_name:
        return Caller(ANONYMOUS)
    return Caller(common_name, frozenset((*organisations, AUTHENTICATED)))


def from_auth_context(auth: Mapping[str, Iterable[bytes]] | None, subjects: SubjectCache) -> Caller:
    """The caller of a gRPC connection; `subjects` remembers certificates already read."""
    pem = next(iter((auth or {}).get("x509_pem_cert") or ()), b"")
    return subjects.caller(pem) if pem else Caller(ANONYMOUS)


class SubjectCache:
    """Reads the subject of each client certificate once: parsing X.509 takes longer than a whole request.

    gRPC tells the common name of a peer but not its organisations, so its certificate is read here.
    """

    LIMIT = 1_000  # certificates; forgotten all at once beyond, which costs each caller one parse

    def __init__(self) -> None:
        self._callers: dict[bytes, Caller] = {}

    def caller(self, pem: bytes) -> Caller:
        found = self._callers.get(pem)
        if found is None:
            if len(self._callers) >= self.LIMIT:
                self._callers.clear()
            found = self._callers[pem] = _read(pem)
        return found


def _read(pem: bytes) -> Caller:
    from cryptography import x509  # noqa: PLC0415 - a big import, needed at the first connection
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    subject = x509.load_pem_x509_certificate(pem).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organisations = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return from_certificate(str(names[0].value) if names else "", (str(item.value) for item in organisations))


def forwarded_metadata(caller: Caller, request_id: str = "") -> list[tuple[str, str]]:
    """The metadata with which a member names the caller it forwards for."""
    groups = sorted(caller.groups - {AUTHENTICATED})
    told = [(USER_KEY, _escape(caller.user)), *((GROUP_KEY, _escape(group)) for group in groups)]
    return [*told, (REQUEST_KEY, request_id)] if request_id else told


def speaking_for(peer: Caller, metadata: Sequence[tuple[str, Any]]) -> Caller:
    """Whom the request is from: the peer, or whoever a member says it forwards for.

    Raises:
        PermissionError: someone who is not a member claims to forward.
    """
    user = next((value for key, value in metadata if key == USER_KEY), "")
    if not user:
        return peer
    if not peer.is_member:
        raise PermissionError(f'user "{peer.user}" cannot speak for others: only members forward requests')
    groups = frozenset(_unescape(value) for key, value in metadata if key == GROUP_KEY)
    extra = {AUTHENTICATED} if user != ANONYMOUS else set()
    request_id = next((value for key, value in metadata if key == REQUEST_KEY), "")
    return Caller(_unescape(user), groups | extra, via=peer.user, request_id=request_id)


def _escape(text: str) -> str:
    """Metadata values are printable ASCII; names need not be."""
    return text.encode("unicode_escape").decode("ascii")


def _unescape(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape")
