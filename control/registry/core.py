"""The core group (v1): Namespace, Node, Pod, Service, ConfigMap, Secret, Event.

Pods and Services have modules of their own (`pods`, `services`).
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Final

from control.registry import formats, services
from control.registry.pods import defaults, lifecycle, printing, validation
from control.registry.pods.placement import TAINT_EFFECTS
from control.registry.problems import Problems, at, keyed
from control.registry.resources import Column, Document, Resource
from control.registry.tables import NONE, UNKNOWN, age, created

NAME = Column("Name", format="name", description="Name of the object")
AGE = Column("Age", description="Time since it was created")

DATA_LIMIT: Final = 1 << 20  # bytes of all values of a ConfigMap or Secret: Kubernetes' limit

# --- Namespace ------------------------------------------------------------------------------------------------------

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"  # lets selectors name namespaces (KEP-2161)
NAMESPACE_FINALIZER: Final = "kubernetes"  # held until everything in the namespace is gone


def _default_namespace(document: Document) -> None:
    name = document["metadata"].get("name")
    if name:
        document["metadata"].setdefault("labels", {})[NAMESPACE_LABEL] = name


def _prepare_namespace(document: Document) -> None:
    _default_namespace(document)  # a generated name is known by now
    document["spec"] = {"finalizers": [NAMESPACE_FINALIZER]}


def _carry_namespace(new: Document, old: Document) -> None:
    new["spec"] = old.get("spec", {})  # its finalizers change by the finalize subresource alone


def _namespace_row(document: Document, now: dt.datetime) -> list[Any]:
    return [document["metadata"]["name"], document.get("status", {}).get("phase", ""), created(document, now)]


NAMESPACES = Resource(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    singular="namespace",
    short_names=("ns",),
    namespaced=False,
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    subresources=("status", "finalize"),
    name_format=formats.dns_label,
    default=_default_namespace,
    prepare=_prepare_namespace,
    carry=_carry_namespace,
    initial_status=lambda _: {"phase": "Active"},
    columns=(NAME, Column("Status", description="Active, or Terminating while it is emptied"), AGE),
    row=_namespace_row,
    selectable={"status.phase": ""},
)

# --- Node -----------------------------------------------------------------------------------------------------------

ROLE_PREFIX: Final = "node-role.kubernetes.io/"


def _default_node(document: Document) -> None:
    document.setdefault("spec", {})


def _validate_node(document: Document, problems: Problems) -> None:
    seen = set()
    for index, taint in enumerate(document.get("spec", {}).get("taints", ())):
        where = at("spec.taints", index)
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        problems.format(f"{where}.key", key, formats.qualified_name(key))
        problems.format(f"{where}.value", value, formats.label_value(value))
        if not effect:
            problems.required(f"{where}.effect")
        else:
            problems.one_of(f"{where}.effect", effect, TAINT_EFFECTS)
        if (key, effect) in seen:
            problems.duplicate(where, taint)
        seen.add((key, effect))
    for index, cidr in enumerate(document.get("spec", {}).get("podCIDRs", ())):
        problems.format(at("spec.podCIDRs", index), cidr, formats.cidr(cidr))


def _validate_node_update(new: Document, old: Document, problems: Problems) -> None:
    for name in ("podCIDR", "podCIDRs", "providerID"):
        before = old.get("spec", {}).get(name)
        if before and new.get("spec", {}).get(name) != before:
            problems.forbidden(f"spec.{name}", "may not change once it is set")


def _carry_node(new: Document, old: Document) -> None:
    for name in ("podCIDR", "podCIDRs", "providerID"):
        if name in old.get("spec", {}):
            new.setdefault("spec", {}).setdefault(name, old["spec"][name])


def node_status_text(document: Mapping[str, Any]) -> str:
    """STATUS of a node: whether it is ready, and whether new pods may go there."""
    conditions = {c.get("type"): c.get("status") for c in document.get("status", {}).get("conditions", ())}
    told = ["Unknown" if "Ready" not in conditions else "Ready" if conditions["Ready"] == "True" else "NotReady"]
    if document.get("spec", {}).get("unschedulable"):
        told.append("SchedulingDisabled")
    return ",".join(told)


def _node_row(document: Document, now: dt.datetime) -> list[Any]:
    status, labels = document.get("status", {}), document["metadata"].get("labels", {})
    roles = {label[len(ROLE_PREFIX) :] for label in labels if label.startswith(ROLE_PREFIX)}
    if labels.get("kubernetes.io/role"):
        roles.add(labels["kubernetes.io/role"])
    info = status.get("nodeInfo", {})
    addresses: dict[str, str] = {}
    for address in status.get("addresses", ()):
        addresses.setdefault(address.get("type", ""), address.get("address", ""))
    return [
        document["metadata"]["name"],
        node_status_text(document),
        ",".join(sorted(filter(None, roles))) or NONE,
        created(document, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


NODES = Resource(
    group="",
    version="v1",
    kind="Node",
    plural="nodes",
    singular="node",
    short_names=("no",),
    namespaced=False,
    subresources=("status",),
    default=_default_node,
    carry=_carry_node,
    validate=_validate_node,
    validate_update=_validate_node_update,
    initial_status=lambda document: document.get("status", {}),  # an agent registers with what it found
    columns=(
        NAME,
        Column("Status", description="Whether it is ready, and whether new pods may go there"),
        Column("Roles", description="From its node-role labels"),
        AGE,
        Column("Version", description="Of its agent"),
        Column("Internal-IP", priority=1, description="Its address in the cluster's network"),
        Column("External-IP", priority=1, description="Its address outside"),
        Column("OS-Image", priority=1, description="Its operating system"),
        Column("Kernel-Version", priority=1, description="Its kernel"),
        Column("Container-Runtime", priority=1, description="What runs its containers"),
    ),
    row=_node_row,
    selectable={"spec.unschedulable": "false"},
)

# --- Pod ------------------------------------------------------------------------------------------------------------


def _validate_new_or_changed_pod(document: Document, problems: Problems) -> None:
    validation.validate_pod(document, problems)
    if not document["metadata"].get("resourceVersion"):
        validation.validate_new_pod(document, problems)


PODS = Resource(
    group="",
    version="v1",
    kind="Pod",
    plural="pods",
    singular="pod",
    short_names=("po",),
    categories=("all",),
    subresources=("status", "binding", "log", "exec"),
    default=defaults.default_pod,
    prepare=lifecycle.prepare,
    carry=lifecycle.carry,
    validate=_validate_new_or_changed_pod,
    validate_update=validation.validate_pod_update,
    validate_status=lifecycle.validate_status,
    initial_status=lifecycle.initial_status,
    columns=printing.COLUMNS,
    row=printing.row,
    selectable={
        "spec.nodeName": "",
        "spec.restartPolicy": "",
        "spec.schedulerName": "",
        "spec.serviceAccountName": "",
        "spec.hostNetwork": "false",
        "status.phase": "",
        "status.podIP": "",
        "status.nominatedNodeName": "",
    },
    has_generation=True,
    graceful=True,
)

# --- Service --------------------------------------------------------------------------------------------------------

SERVICES = Resource(
    group="",
    version="v1",
    kind="Service",
    plural="services",
    singular="service",
    short_names=("svc",),
    categories=("all",),
    subresources=("status",),
    name_format=formats.dns_1035_label,
    default=services.default,
    carry=services.carry,
    validate=services.validate,
    validate_update=services.validate_update,
    initial_status=lambda _: {"loadBalancer": {}},
    columns=services.COLUMNS,
    row=services.row,
    selectable={"spec.clusterIP": "", "spec.type": ""},
)

# --- ConfigMap and Secret -------------------------------------------------------------------------------------------


def _validate_config_map(document: Document, problems: Problems) -> None:
    data, binary = document.get("data", {}), document.get("binaryData", {})
    for kind, entries in (("data", data), ("binaryData", binary)):
        for key in entries:
            problems.format(keyed(kind, key), key, formats.config_key(key))
    for key in data.keys() & binary.keys():
        problems.invalid(keyed("data", key), key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(_decoded_size(value) for value in binary.values())
    if size > DATA_LIMIT:
        problems.too_long("data", DATA_LIMIT)


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text[-2:].count("=")


def _validate_immutable(new: Document, old: Document, problems: Problems) -> None:
    """Once `immutable` is set, neither it nor the data may change."""
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        problems.forbidden("immutable", "field is immutable when `immutable` is set")
    for name in ("data", "binaryData"):
        if new.get(name, {}) != old.get(name, {}):
            problems.forbidden(name, "field is immutable when `immutable` is set")


CONFIG_MAPS = Resource(
    group="",
    version="v1",
    kind="ConfigMap",
    plural="configmaps",
    singular="configmap",
    short_names=("cm",),
    validate=_validate_config_map,
    validate_update=_validate_immutable,
    columns=(NAME, Column("Data", "integer", "Number of entries"), AGE),
    row=lambda document, now: [
        document["metadata"]["name"],
        len(document.get("data", {})) + len(document.get("binaryData", {})),
        created(document, now),
    ],
)

# Keys that a Secret of a well-known type must have.
SECRET_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
SERVICE_ACCOUNT_TOKEN: Final = "kubernetes.io/service-account-token"  # noqa: S105 - a type's name
SERVICE_ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"


def _default_secret(document: Document) -> None:
    text = document.pop("stringData", None)
    if text:  # write-only: it overrides data
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in text.items()}
        document["data"] = {**document.get("data", {}), **encoded}
    if not document.get("type"):
        document["type"] = "Opaque"


def _validate_secret(document: Document, problems: Problems) -> None:
    data, kind = document.get("data", {}), document["type"]
    for key in data:
        problems.format(keyed("data", key), key, formats.config_key(key))
    if sum(map(_decoded_size, data.values())) > DATA_LIMIT:
        problems.too_long("data", DATA_LIMIT)
    for key in SECRET_KEYS.get(kind, ()):
        if key not in data:
            problems.required(keyed("data", key), f"a secret of type {kind} has it")
        elif key.startswith(".docker"):
            try:
                json.loads(base64.b64decode(data[key]))
            except ValueError as error:
                problems.invalid(keyed("data", key), "<secret contents redacted>", f"is not JSON: {error}")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        problems.required("data[username]", f"a secret of type {kind} has username, password or both")
    if kind == SERVICE_ACCOUNT_TOKEN and not document["metadata"].get("annotations", {}).get(SERVICE_ACCOUNT_NAME):
        problems.required(keyed("metadata.annotations", SERVICE_ACCOUNT_NAME))


def _validate_secret_update(new: Document, old: Document, problems: Problems) -> None:
    problems.immutable("type", new["type"], old["type"])
    _validate_immutable(new, old, problems)


SECRETS = Resource(
    group="",
    version="v1",
    kind="Secret",
    plural="secrets",
    singular="secret",
    default=_default_secret,
    validate=_validate_secret,
    validate_update=_validate_secret_update,
    columns=(
        NAME,
        Column("Type", description="What it is used for"),
        Column("Data", "integer", "Number of entries"),
        AGE,
    ),
    row=lambda document, now: [
        document["metadata"]["name"],
        document["type"],
        len(document.get("data", {})),
        created(document, now),
    ],
    selectable={"type": ""},
)

# --- Event ----------------------------------------------------------------------------------------------------------


def _validate_event(document: Document, problems: Problems) -> None:
    involved, namespace = document.get("involvedObject", {}), document["metadata"].get("namespace", "")
    about = involved.get("namespace", "")
    if about and about != namespace:
        problems.invalid("involvedObject.namespace", about, "does not match event.namespace")
    if not about and namespace not in ("default", "kube-system", ""):
        problems.invalid(
            "involvedObject.namespace", about, "events of cluster-scoped objects are kept in namespace default"
        )
    if document.get("type"):
        problems.one_of("type", document["type"], ("Normal", "Warning"))


def _event_row(document: Document, now: dt.datetime) -> list[Any]:
    involved, series = document.get("involvedObject", {}), document.get("series") or {}
    first = document.get("firstTimestamp") or document.get("eventTime")
    last = series.get("lastObservedTime") or document.get("lastTimestamp") or first
    source = document.get("source") or {}
    component = source.get("component") or document.get("reportingComponent", "")
    host = source.get("host") or document.get("reportingInstance", "")
    kind, name = involved.get("kind", "").lower(), involved.get("name", "")
    return [
        age(last, now),
        document.get("type", ""),
        document.get("reason", ""),
        f"{kind}/{name}" if name else kind,
        involved.get("fieldPath", ""),
        f"{component}, {host}" if host else component,
        document.get("message", "").strip(),
        age(first, now),
        series.get("count") or document.get("count") or 1,
        document["metadata"]["name"],
    ]


EVENTS = Resource(
    group="",
    version="v1",
    kind="Event",
    plural="events",
    singular="event",
    short_names=("ev",),
    validate=_validate_event,
    columns=(
        Column("Last Seen", description="When it happened last"),
        Column("Type", description="Normal or Warning"),
        Column("Reason", description="What happened, in one word"),
        Column("Object", description="What it is about"),
        Column("Subobject", priority=1, description="Which part of it"),
        Column("Source", priority=1, description="Who saw it"),
        Column("Message", description="What happened, in a sentence"),
        Column("First Seen", priority=1, description="When it happened first"),
        Column("Count", "integer", "How often", 1),
        Column("Name", priority=1, format="name", description="Name of the object"),
    ),
    row=_event_row,
    selectable={
        "involvedObject.kind": "",
        "involvedObject.namespace": "",
        "involvedObject.name": "",
        "involvedObject.uid": "",
        "involvedObject.apiVersion": "",
        "involvedObject.resourceVersion": "",
        "involvedObject.fieldPath": "",
        "reason": "",
        "reportingComponent": "",
        "source": "",
        "type": "",
    },
    create_on_update=True,
)

RESOURCES = (NAMESPACES, NODES, PODS, SERVICES, CONFIG_MAPS, SECRETS, EVENTS)
