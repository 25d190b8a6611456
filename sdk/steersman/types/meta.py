"""Typed views of what every Kubernetes object has (meta/v1).

A view is an immutable struct decoded from an object's JSON document. It has the fields that code reads; a document's
other fields are skipped here and survive in the store, because writers send patches, not whole objects.
Attributes are snake_case, the wire is camelCase; a `list` of the wire is a `tuple` here, an absent field has its
default. `T.decode(json)` raises `msgspec.ValidationError` with the JSON path of what does not fit.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import msgspec
from msgspec import Struct, field


class View(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """Base of every typed view."""

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        """Decode a JSON document."""
        return _decoder(cls).decode(data)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Self:
        """View a parsed JSON document."""
        return msgspec.convert(document, cls)

    def to_dict(self) -> dict[str, Any]:
        """The document, without the fields that have their defaults."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]

    def encode(self) -> bytes:
        """The document as JSON, without the fields that have their defaults."""
        return msgspec.json.encode(self)


_decoders: dict[type, Any] = {}


def _decoder(cls: type) -> Any:
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = msgspec.json.Decoder(cls)
    return decoder


class OwnerReference(View, frozen=True):
    """Who owns an object; `controller` is true for at most one owner."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(View, frozen=True):
    """metadata. Times stay RFC 3339 strings: they sort, and few readers need more."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()

    @property
    def revision(self) -> int:
        """The revision of the last write; 0 for an object that was never stored."""
        return int(self.resource_version or 0)

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object, if one does."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class KubeObject(View, frozen=True):
    """Base of the views of whole objects. `API_VERSION` and `KIND` say which kind it views."""

    API_VERSION: ClassVar[str] = ""
    KIND: ClassVar[str] = ""
    PLURAL: ClassVar[str] = ""
    NAMESPACED: ClassVar[bool] = True

    metadata: ObjectMeta = field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def key(self) -> str:
        """ "namespace/name", or "name" for cluster-scoped kinds: unique among objects of the kind that exist together."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for and finalizers or the grace period hold the object."""
        return self.metadata.deletion_timestamp is not None

    def to_dict(self) -> dict[str, Any]:
        """The document, with apiVersion and kind."""
        return {"apiVersion": self.API_VERSION, "kind": self.KIND, **msgspec.to_builtins(self)}

    def encode(self) -> bytes:
        """The document as JSON, with apiVersion and kind."""
        return msgspec.json.encode(self.to_dict())


class PartialObject(KubeObject, frozen=True):
    """Any kind's metadata: for code that treats all kinds alike, as garbage collection does."""

    api_version: str = ""
    kind: str = ""

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class LabelSelectorRequirement(View, frozen=True):
    """One set-based requirement; operator is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(View, frozen=True):
    """A selector as it is written inside objects; `steersman.selectors` matches it."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class Condition(View, frozen=True):
    """A condition in a status; `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    last_heartbeat_time: str = ""
    last_probe_time: str | None = None
    last_update_time: str = ""
    observed_generation: int = 0
