"""Kinds: what an object may look like, how it changes, how it is shown.

Everything here is a pure function of its arguments; time, identities and the present state are passed in. A document is
a parsed JSON object (`dict`). Functions may change the document they are given *first* (the caller has just decoded
it and hands it over) and never the ones called `old` or `current`. Every refusal is a `steersman.errors.ApiError`.

The way of a write through the registry (the API handlers call these in this order):

    resource, document, warnings = REGISTRY.decode(data, mode)       # parse; structure; prune; defaults
    resource.place(document, namespace)                              # metadata.namespace
    … admission.admit(request, view) …                               # mutates or refuses
    warnings += prepare_create(resource, document, context)          # system fields, generateName, status reset, validation
    value, splice = encode(document)                                 # for store.Put(key, value, splice, expect=0)
    key = resource.key(namespace, name)

    resource.decode(data, mode) -> (document, warnings)              # when the kind is known (an update's body)
    apply_patch(resource, current, patch, format, mode) -> (document, warnings)
    three_way_apply(resource, current | None, manifest, mode) -> (document, warnings)
    warnings = prepare_update(resource, document, old, context, subresource="")   # "", "status", "finalize"
    if finished(resource, document): delete instead of put           # the last finalizer of a deleted object went away
    deletion = prepare_delete(resource, document, context, grace=None, propagation="")  # Deletion(document, remove)
    bind(pod, binding, context) ;  to_scale(resource, document) ;  from_scale(resource, current, scale) -> document

Reads:

    REGISTRY.find(api_version="", kind="", name="") -> Resource      # name: plural, singular or short name; raises ApiError
    REGISTRY.resources -> tuple[Resource, ...]                       # discovery
    fields.extract(resource, document) -> dict[str, str]; fields.check(resource, selector)
    table(resource, documents, now, wide=True, include="Metadata", revision=…, …) -> Table document

`mode` is one of "Strict", "Warn", "Ignore" (fieldValidation). `context` is a `Context(now, uid, suffix)`.
"""
