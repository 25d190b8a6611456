"""What a kind is to the server: `Resource`, and the `Registry` that finds one by any of its names.

A kind is declared in its API group's module (core, apps, …) as one `Resource` value: its names, and the few functions that are its
own: defaults, validation, what create and update reset, table columns. The machinery (strategy, merge, tables, fields)
reads only this value, so a further kind is a further value, and custom kinds can be made at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import jsonschema_rs

from control.registry import codec, formats, schemas, structure
from control.registry.context import STRICT
from control.registry.metadata import Format
from control.registry.problems import Problems
from steersman.errors import ApiError, bad_request

Document = dict[str, Any]

ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; priority 0 is always shown, 1 only in wide output."""

    name: str
    type: str = "string"  # "string", "integer", "date", …: OpenAPI's
    description: str = ""
    priority: int = 0
    format: str = ""  # "name" marks the column that names the object


def _no_change(_: Document) -> None:
    """Kinds without defaults, or nothing to reset."""


def _no_update(_new: Document, _old: Document) -> None:
    """Kinds that carry nothing over."""


def _all_valid(_: Document, __: Problems) -> None:
    """Kinds whose schema says it all."""


def _all_updates_valid(_new: Document, _old: Document, _problems: Problems) -> None:
    """Kinds of which everything may change."""


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind at one version.

    Attributes:
        default: fills in what the client left out, in place; the same for create, update and patch.
        prepare: resets on create what clients may not set, beyond metadata and status.
        carry: takes over from the old object what an update may leave out or may not touch, in place.
        validate: semantic checks of a whole object (structure and metadata are checked before).
        validate_update: checks of what may change.
        validate_status: checks of a status update.
        columns, row: the table that `get` prints: cells in the order of the columns, given the document and the time.
        selectable: dotted paths that field selectors may name, beyond metadata.name and metadata.namespace, and the value
            that stands for an absent field.
        graceful: whether deletion waits for someone to stop what runs (pods).
        scale_selector: how the scale subresource tells its pods: the selector's path.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()
    name_format: Format = formats.dns_subdomain
    default: Callable[[Document], None] = _no_change
    prepare: Callable[[Document], None] = _no_change
    carry: Callable[[Document, Document], None] = _no_update
    validate: Callable[[Document, Problems], None] = _all_valid
    validate_update: Callable[[Document, Document, Problems], None] = _all_updates_valid
    validate_status: Callable[[Document, Document, Problems], None] = _all_updates_valid
    initial_status: Callable[[Document], Document | None] = field(default=lambda _: None)
    columns: tuple[Column, ...] = ()
    row: Callable[[Document, Any], list[Any]] | None = None
    selectable: Mapping[str, str] = field(default_factory=dict)
    has_generation: bool = False
    graceful: bool = False
    unconditional_update: bool = True  # whether an update may leave resourceVersion out
    create_on_update: bool = False  # whether an update of what does not exist creates it
    schema: str = ""  # definition's name; empty: the published one of this kind

    @property
    def api_version(self) -> str:
        """ "v1" or "apps/v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The resource as messages name it: "pods", "deployments.apps"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def prefix(self) -> str:
        """The store's keys of this kind begin with it."""
        return f"/{self.group or 'core'}/{self.plural}/"

    def key(self, namespace: str, name: str) -> str:
        """The store's key of an object."""
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else f"{self.prefix}{name}"

    def namespace_prefix(self, namespace: str) -> str:
        """The store's keys of this kind in one namespace (empty: in all) begin with it."""
        return f"{self.prefix}{namespace}/" if self.namespaced and namespace else self.prefix

    @cached_property
    def node(self) -> schemas.Node:
        """The kind's tree."""
        published = schemas.published()
        return published.node(self.schema or published.definition_of(self.group, self.version, self.kind))

    @cached_property
    def check(self) -> jsonschema_rs.Draft4Validator:
        """The compiled check of the kind's final form."""
        return schemas.compile_check(self.node)

    def decode(self, data: bytes, mode: str = STRICT) -> tuple[Document, list[str]]:
        """Parse a body of this kind, bring it into its form, fill in defaults; answer it with the warnings.

        Raises:
            ApiError: 400 or 413, as `codec.parse` and `conform`; another kind's document is a 400.
        """
        document, warnings = codec.parse(data, mode)
        found = document.setdefault("apiVersion", self.api_version), document.setdefault("kind", self.kind)
        if found != (self.api_version, self.kind):
            raise bad_request(
                f"the body is a {shown_kind(*found)}, but the request is for {shown_kind(self.api_version, self.kind)}"
            )
        return document, warnings + self.conform(document, mode)

    def conform(self, document: Document, mode: str = STRICT) -> list[str]:
        """Check the structure, prune, and fill in defaults, in place; answer the warnings.

        Raises:
            ApiError: 400, naming the first field that has the wrong type, or (Strict) all unknown fields.
        """
        try:
            warnings = structure.conform(self.node, self.check, document, mode)
        except structure.MisfitError as error:
            raise bad_request(
                f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: {error}'
            ) from None
        metadata = document.setdefault("metadata", {})
        for name in ("labels", "annotations"):
            if name in metadata and not metadata[name]:
                del metadata[name]
        self.default(document)
        return warnings

    def place(self, document: Document, namespace: str) -> None:
        """Settle the namespace: the request's where the document names none.

        Raises:
            ApiError: 400, the document names another one than the request.
        """
        metadata = document["metadata"]
        if not self.namespaced:
            if not metadata.get("namespace"):
                metadata.pop("namespace", None)
            return
        named = metadata.setdefault("namespace", namespace) or namespace
        metadata["namespace"] = named
        if namespace and named != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request ({named} is not {namespace})"
            )


def shown_kind(api_version: Any, kind: Any) -> str:
    return f"{kind} ({api_version})"


def spec_of(document: Document) -> Document:
    """Everything that is a client's wish: all but metadata and status."""
    return {key: value for key, value in document.items() if key not in ("metadata", "status", "apiVersion", "kind")}


class Registry:
    """The kinds that are served."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.resources: tuple[Resource, ...] = tuple(resources)
        self._by_kind = {(r.api_version, r.kind): r for r in self.resources}
        self._by_name: dict[str, Resource] = {}
        self._by_prefix = {r.prefix: r for r in self.resources}
        for resource in self.resources:
            for name in (resource.plural, resource.singular, *resource.short_names, resource.kind.lower()):
                self._by_name.setdefault(name, resource)
                if resource.group:
                    self._by_name.setdefault(f"{name}.{resource.group}", resource)
                    self._by_name.setdefault(f"{name}.{resource.version}.{resource.group}", resource)

    def find(self, *, api_version: str = "", kind: str = "", name: str = "") -> Resource:
        """The resource of a kind, or of a resource's name ("pods", "pod", "po", "deployments.apps").

        Raises:
            ApiError: 404, it is not served; 400, nothing was named.
        """
        if not kind and not name:
            raise bad_request("name a kind, as Pod, or a resource, as pods")
        if api_version:
            if kind and (found := self._by_kind.get((api_version, kind))):
                return found
            for resource in self.resources:
                if resource.api_version == api_version and (
                    kind == resource.kind
                    or name.lower()
                    in (resource.plural, resource.singular, *resource.short_names, resource.kind.lower())
                ):
                    return resource
        else:
            resource_by_name = self._by_name.get((name or kind).lower())
            if resource_by_name is not None and (not kind or kind == resource_by_name.kind):
                return resource_by_name
        what = f'no matches for kind "{kind}"' if kind else f'the server doesn\'t have a resource type "{name}"'
        raise ApiError("NotFound", f'{what} in version "{api_version}"' if api_version else what, kind=kind or name)

    def of_key(self, key: str) -> Resource | None:
        """The resource that a store key belongs to."""
        _, group, plural, *_ = key.split("/", 3)
        return self._by_prefix.get(f"/{group}/{plural}/")

    def decode(self, data: bytes, mode: str = STRICT) -> tuple[Resource, Document, list[str]]:
        """Parse a body whose kind is told by itself; otherwise as `Resource.decode`."""
        document, warnings = codec.parse(data, mode)
        api_version, kind = document.get("apiVersion"), document.get("kind")
        for name, value in (("apiVersion", api_version), ("kind", kind)):
            if not isinstance(value, str) or not value:
                raise bad_request(f"Object '{name}' is missing: every document says its apiVersion and kind")
        assert isinstance(api_version, str)
        assert isinstance(kind, str)
        resource = self.find(api_version=api_version, kind=kind)
        return resource, document, warnings + resource.conform(document, mode)
