"""Changing an object by a patch or a manifest: the entry to `patches` and `strategic`.

The result has passed the same structural check and got the same defaults as a document sent whole; what the change may
do is decided afterwards by `strategy.prepare_update`, as for any update.

`three_way_apply` keeps the manifest in the annotation that `kubectl apply` uses, so that both clients may be used on
the same object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from control.registry import codec, patches, strategic
from control.registry.context import IGNORE, STRICT
from control.registry.resources import Document, Resource
from steersman.errors import bad_request

JSON, MERGE, STRATEGIC = "json", "merge", "strategic"  # patch formats
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def apply_patch(
    resource: Resource,
    current: Mapping[str, Any],
    patch: bytes,
    form: str,
    mode: str = STRICT,
) -> tuple[Document, list[str]]:
    """Apply a patch to an object; answer the changed document, ready for `prepare_update`, and the warnings.

    Raises:
        ApiError: 400, the patch is malformed or its result does not fit the schema; 422, it can't be applied to this
            object.
    """
    value, warnings = codec.parse_value(patch, mode)
    document = codec.copy(dict(current))
    match form:
        case "json":
            result = patches.json_patch(document, value)
        case "merge" | "strategic":
            if not isinstance(value, dict):
                raise bad_request(f"a {form} patch is a JSON object")
            if form == MERGE:
                result = patches.merge_patch(document, value)
            else:
                result = strategic.merge(resource.node, document, value)
        case _:
            raise bad_request(f"patch format {form!r} is unknown: use {JSON}, {MERGE} or {STRATEGIC}")
    if not isinstance(result, dict):
        raise bad_request("the patch makes something of the object that is no object")
    result["apiVersion"], result["kind"] = resource.api_version, resource.kind
    return result, warnings + resource.conform(result, mode)


def three_way_apply(
    resource: Resource, current: Mapping[str, Any] | None, manifest: Document, mode: str = STRICT
) -> tuple[Document, list[str]]:
    """Make the object what a manifest asks for; answer the document, ready for `prepare_update` or (current is None)
    `prepare_create`, and the warnings.

    `manifest` is a parsed body (`codec.parse`) with its namespace in place.

    Raises:
        ApiError: 400, the manifest does not fit the schema.
    """
    warnings = resource.conform(codec.copy(manifest), mode)  # refuse what is wrong with the manifest itself
    wanted = codec.copy(manifest)
    wanted["metadata"] = wanted.get("metadata") or {}
    annotations = dict(wanted["metadata"].get("annotations") or {})
    annotations.pop(LAST_APPLIED, None)
    wanted["metadata"]["annotations"] = annotations
    told = last_applied_text(wanted)
    annotations[LAST_APPLIED] = told
    if current is None:
        result = strategic.apply_three_way(resource.node, {}, wanted, {})
    else:
        live = codec.copy(dict(current))
        last, problem = last_applied(live)
        if problem:
            warnings.append(problem)
        result = strategic.apply_three_way(resource.node, last, wanted, live)
    resource.conform(result, IGNORE)
    return result, warnings


def last_applied_text(manifest: Document) -> str:
    """The annotation's value for a manifest, spelt as kubectl does: keys sorted, no spaces, one line."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def last_applied(document: Mapping[str, Any]) -> tuple[Document, str]:
    """The manifest that was applied last, and what is wrong with it: nothing, or why removals can't be seen."""
    name = document["metadata"]["name"]
    text = document["metadata"].get("annotations", {}).get(LAST_APPLIED)
    if text is None:
        return {}, (
            f"{name} was not made by apply: what the manifest leaves out is kept, for it can't be told from what others set"
        )
    try:
        manifest = json.loads(text)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        return {}, f"annotation {LAST_APPLIED} of {name} is not a manifest: what this one leaves out is kept"
    if isinstance(manifest.get("metadata"), dict):
        for held in ("name", "namespace"):
            manifest["metadata"].pop(held, None)
    return manifest, ""
