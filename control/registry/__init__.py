"""Kinds: what an object may look like, how it changes, how it is shown.

Everything here is a pure function of its arguments; time, identities and the present state are passed in. A document is
a parsed JSON object (`dict`). Functions may change the document they are given as theirs (the caller has just decoded
it and hands it over) and never the ones called `old` or `current`. Every refusal is a `steersman.errors.ApiError`.

The way of a write through the registry (the API handlers call these in this order):

    resource, document, warnings = REGISTRY.decode(data, mode)       # parse; structure; prune; defaults
    resource.place(document, namespace)                              # metadata.namespace
    … admission (control.admission) …                                # mutates or refuses
    warnings += prepare_create(resource, document, context)          # system fields, generateName, status, validation
    value, splice = encode(document)                                 # for store.Put(key, value, splice, expect=0)
    key = resource.key(namespace, name)

    document, warnings = resource.decode(data, mode)                 # when the kind is known (an update's body)
    document, warnings = apply_patch(resource, current, patch, form, mode)     # form: "json", "merge", "strategic"
    manifest, warnings = parse(data, mode)
    document, warnings = three_way_apply(resource, current | None, manifest, mode)
    warnings = prepare_update(resource, document, old, context, subresource="")  # "", "status", "finalize"
    if document == old: nothing to write
    if finished(resource, document): delete instead of put           # the last hold of a deleted object went away
    check_preconditions(resource, current["metadata"], uid=…, revision=…)
    deletion = prepare_delete(resource, current, context, grace=None, propagation="")  # .document .remove .reason
    document = bind(pod, binding, context)
    scale = to_scale(resource, document);  document = from_scale(resource, current, scale)   # then prepare_update

Reads:

    REGISTRY.find(api_version="", kind="", name="") -> Resource      # name: plural, singular or short name; raises ApiError
    REGISTRY.resources -> tuple[Resource, ...]                       # discovery
    decode_stored(value) -> document
    fields.parse(resource, text) -> Selector; fields.extract(resource, document) -> {path: value}
    table(resource, documents, now, wide=True, include="Metadata", revision=…, …) -> Table document

`mode` is STRICT, WARN or IGNORE (fieldValidation). `context` is a `Context(now, uid, suffix)`.

A further kind is a further `Resource` in its group's module, and the group's RESOURCES in the list below.
"""

from __future__ import annotations

from control.registry import apps, coordination, core, discovery, fields
from control.registry.codec import copy, decode_stored, encode, parse, parse_value
from control.registry.context import IGNORE, STRICT, WARN, Context
from control.registry.merge import JSON, MERGE, STRATEGIC, apply_patch, three_way_apply
from control.registry.pods.lifecycle import bind
from control.registry.resources import Column, Document, Registry, Resource, spec_of
from control.registry.scale import from_scale, to_scale
from control.registry.strategy import (
    Deletion,
    check_preconditions,
    finished,
    prepare_create,
    prepare_delete,
    prepare_update,
)
from control.registry.tables import human_duration, table

REGISTRY = Registry((*core.RESOURCES, *apps.RESOURCES, *discovery.RESOURCES, *coordination.RESOURCES))

__all__ = [
    "IGNORE",
    "JSON",
    "MERGE",
    "REGISTRY",
    "STRATEGIC",
    "STRICT",
    "WARN",
    "Column",
    "Context",
    "Deletion",
    "Document",
    "Registry",
    "Resource",
    "apply_patch",
    "bind",
    "check_preconditions",
    "copy",
    "decode_stored",
    "encode",
    "fields",
    "finished",
    "from_scale",
    "human_duration",
    "parse",
    "parse_value",
    "prepare_create",
    "prepare_delete",
    "prepare_update",
    "spec_of",
    "table",
    "three_way_apply",
    "to_scale",
]
