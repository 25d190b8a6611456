"""Kubernetes' published schemas, opened only as far as the kinds in use need them.

The build puts one version's JSON schema definitions beside this module (`schemas.json.gz`, see generate.py). Opening it
splits it into 862 undecoded definitions (5 ms, 2 MB); a definition is decoded when a kind first needs it. Of every
definition two things are made:

- a `Node`: the tree that pruning, strategic merge and `explain` walk;
- for whole kinds, a compiled *check* (jsonschema-rs) that answers in a microsecond or two whether a document is already in
  its final form: known fields, right types, no nulls, no empty lists or maps that the API leaves out, quantities,
  times and base64 in canonical spelling. Nearly all documents pass and are done; the others are walked
  (`structure`), which either mends them or says what is wrong. So the check may be narrower than the API, never wider.

The published schemas do not tell Go's pointers from its values and mark as required what is merely always written; which
fields an object must have is therefore the business of each kind's validation, not of the schema.
"""

from __future__ import annotations

import gzip
import importlib.resources
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

import jsonschema_rs
import msgspec

INT_RANGE: Final = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}

# Canonical quantities that need no arithmetic to recognise; others take the slow way.
CANONICAL_QUANTITY = r"^(0|[1-9][0-9]{0,2}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)$"
CANONICAL_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
CANONICAL_MICRO_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"
BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_SPECIAL = {
    META + "Time": "time",
    META + "MicroTime": "microtime",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
}


@dataclass(slots=True, eq=False)
class Node:
    """One place in a kind's tree.

    Attributes:
        type: "object" (has `fields`), "map" and "array" (have `item`), "string", "integer", "number", "boolean", "bytes",
            "time", "microtime", "quantity", "int-or-string", or "any".
        definition: the definition's full name, empty for places inside one.
        merge_key, list_keys: by which keys the members of a list are told apart when it is merged.
    """

    type: str
    definition: str = ""
    format: str = ""
    fields: dict[str, Field] = field(default_factory=dict)
    item: Node | None = None
    merge_key: str = ""
    list_keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The definition's short name, or the type."""
        return self.definition.rpartition(".")[2] or self.type


@dataclass(slots=True, frozen=True, eq=False)
class Field:
    """A field of an object: what is there, how a strategic patch treats it, whether it is written even when empty."""

    node: Node
    strategy: frozenset[str] = frozenset()  # of "merge", "replace", "retainKeys"
    required: bool = False


class _File(msgspec.Struct):
    definitions: dict[str, msgspec.Raw] = msgspec.field(name="$defs")


class Schemas:
    """The definitions of one Kubernetes version."""

    def __init__(self, data: bytes) -> None:
        self._raw = msgspec.json.decode(data, type=_File).definitions
        self._nodes: dict[str, Node] = {}

    @cached_property
    def _by_kind(self) -> dict[tuple[str, str, str], str]:
        # Definitions name their kinds inside; the names themselves follow one rule: io.k8s.api.GROUP.VERSION.KIND.
        found = {}
        for name in self._raw:
            *_, group, version, kind = name.split(".")
            found[group, version, kind] = name
        return found

    def definition_of(self, group: str, version: str, kind: str) -> str:
        """The name of a kind's definition. Raises KeyError when the kind is not published."""
        package = group.partition(".")[0] or "core"
        return self._by_kind[package, version, kind]

    def raw(self, definition: str) -> dict[str, Any]:
        """A definition as published, descriptions included."""
        return msgspec.json.decode(self._raw[definition])  # type: ignore[no-any-return]

    def node(self, definition: str) -> Node:
        """The tree of a definition."""
        node = self._nodes.get(definition)
        if node is None:
            node = self._nodes[definition] = Node("any", definition)
            if definition in _SPECIAL:
                node.type = _SPECIAL[definition]
            else:
                self._fill(node, self.raw(definition))
        return node

    def _fill(self, node: Node, schema: dict[str, Any]) -> None:
        kind = schema.get("type", "any")
        kind = next(t for t in kind if t != "null") if isinstance(kind, list) else kind
        if kind == "object":
            if "properties" in schema:
                required = schema.get("required", ())
                node.type = "object"
                node.fields = {
                    name: Field(
                        self._place(place),
                        frozenset(filter(None, place.get("x-kubernetes-patch-strategy", "").split(","))),
                        name in required,
                    )
                    for name, place in schema["properties"].items()
                }
            elif isinstance(schema.get("additionalProperties"), dict):
                node.type = "map"
                node.item = self._place(schema["additionalProperties"])
            return  # neither: any object (RawExtension, FieldsV1)
        node.type = "bytes" if schema.get("format") == "byte" else kind
        node.format = schema.get("format", "")
        if kind == "array":
            node.item = self._place(schema["items"])
            node.merge_key = schema.get("x-kubernetes-patch-merge-key", "")
            node.list_keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))

    def _place(self, schema: dict[str, Any]) -> Node:
        reference = schema.get("$ref")
        if reference:
            return self.node(reference.rpartition("/")[2])
        node = Node("any")
        self._fill(node, schema)
        return node


def compile_check(root: Node) -> jsonschema_rs.Draft4Validator:
    """Compile the check that a document of this kind is in its final form (see the module's docstring).

    Draft 4, because there 1.0 is not an integer, as in Go.
    """
    definitions: dict[str, Any] = {}
    _as_schema(root, definitions)
    return jsonschema_rs.Draft4Validator({"$ref": f"#/definitions/{root.definition}", "definitions": definitions})


def _as_schema(node: Node, definitions: dict[str, Any]) -> dict[str, Any]:
    if not node.definition:
        return _body(node, definitions)
    if node.definition not in definitions:
        definitions[node.definition] = {}  # a definition that holds itself ends here
        definitions[node.definition] = _body(node, definitions)
    return {"$ref": f"#/definitions/{node.definition}"}


def _body(node: Node, definitions: dict[str, Any]) -> dict[str, Any]:
    match node.type:
        case "object":
            properties = {name: _field(field, definitions) for name, field in node.fields.items()}
            return {"type": "object", "properties": properties, "additionalProperties": False}
        case "map":
            assert node.item is not None
            return {"type": "object", "additionalProperties": _as_schema(node.item, definitions)}
        case "array":
            assert node.item is not None
            return {"type": "array", "items": _as_schema(node.item, definitions)}
        case "integer":
            low, high = INT_RANGE.get(node.format, INT_RANGE["int64"])
            return {"type": "integer", "minimum": low, "maximum": high}
        case "string" | "number" | "boolean":
            return {"type": node.type}
        case "bytes":
            return {"type": "string", "pattern": BASE64}
        case "time":
            return {"type": "string", "pattern": CANONICAL_TIME}
        case "microtime":
            return {"type": "string", "pattern": CANONICAL_MICRO_TIME}
        case "quantity":
            return {"type": "string", "pattern": CANONICAL_QUANTITY}
        case "int-or-string":
            return {"type": ["integer", "string"]}
    return {"not": {"type": "null"}}


def _field(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _as_schema(field.node, definitions)
    if field.required or field.node.definition:
        return schema
    if field.node.type == "map":
        return {**schema, "minProperties": 1}
    if field.node.type == "array":
        return {**schema, "minItems": 1}
    return schema


@cache
def published() -> Schemas:
    """The schemas that this build serves."""
    packed = importlib.resources.files("control.registry").joinpath("schemas.json.gz").read_bytes()
    return Schemas(gzip.decompress(packed))
