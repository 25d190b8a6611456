"""Descriptions: an object told to a person, with what belongs to it and its events.

The layout follows `kubectl describe`. Kinds with something special to say have a function here; every other kind is
shown field by field.

It is long because each kind's page is written out as it is shown, from top to bottom.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from steersman import quantity, selectors
from steersman.cli.output import aligned
from steersman.client import AsyncClient
from steersman.clock import SystemClock, parse_time
from steersman.errors import ApiError

Document = dict[str, Any]
Lines = list[str]


def human_duration(seconds: float) -> str:
    """Age as Kubernetes prints it: 42s, 5m10s, 3h, 2d4h, 400d (apimachinery's HumanDuration)."""
    total = int(seconds)
    if total < 0:
        return "0s" if total >= -1 else "<invalid>"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"
    return f"{days // 365}y"


def _age(timestamp: str | None, now: dt.datetime) -> str:
    return human_duration((now - parse_time(timestamp)).total_seconds()) if timestamp else "<unknown>"


def _long_time(timestamp: str | None) -> str:
    return parse_time(timestamp).strftime("%a, %d %b %Y %H:%M:%S %z") if timestamp else "<unset>"


def _pairs(values: dict[str, Any] | None, separator: str = "=") -> Lines:
    return [f"{key}{separator}{value}" for key, value in sorted((values or {}).items())] or ["<none>"]


class Page:
    """Lines of `Name:  value` with one indent per level; a value may be several lines."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, Lines]] = []

    def put(self, name: str, value: Any = "", *, level: int = 0) -> None:
        lines = value if isinstance(value, list) else [str(value)]
        self.rows.append((level, f"{name}:", lines))

    def text(self, line: str, *, level: int = 0) -> None:
        self.rows.append((level, line, []))

    def render(self) -> str:
        """Align the values of neighbours on the same level."""
        out: Lines = []
        widths: dict[int, int] = {}
        for level, name, lines in self.rows:
            if lines and any(lines):
                widths[level] = max(widths.get(level, 0), len(name))
        for level, name, lines in self.rows:
            indent = "  " * level
            if not lines or not any(lines):
                out.append(f"{indent}{name}")
                continue
            width = widths[level] + 2
            out.append(f"{indent}{name.ljust(width)}{lines[0]}".rstrip())
            out += [f"{indent}{' ' * width}{line}".rstrip() for line in lines[1:]]
        return "\n".join(out) + "\n"


def _header(page: Page, document: Document) -> None:
    meta = document["metadata"]
    page.put("Name", meta["name"])
    if "namespace" in meta:
        page.put("Namespace", meta["namespace"])


def _labels(page: Page, document: Document) -> None:
    meta = document["metadata"]
    page.put("Labels", _pairs(meta.get("labels")))
    hidden = "kubectl.kubernetes.io/last-applied-configuration"
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != hidden}
    page.put("Annotations", _pairs(annotations, ": "))


def _controlled_by(page: Page, document: Document) -> None:
    for owner in document["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            page.put("Controlled By", f"{owner['kind']}/{owner['name']}")


def _conditions(page: Page, document: Document, columns: Iterable[str] = ("type", "status", "reason")) -> None:
    conditions = document.get("status", {}).get("conditions")
    if not conditions:
        return
    names = list(columns)
    titles = [name[0].upper() + name[1:] for name in names]
    rows = [titles, ["-" * len(title) for title in titles]]
    for condition in conditions:
        rows.append([str(condition.get(name) or "") for name in names])
    page.text("Conditions:")
    for line in aligned(rows, 2):
        page.text(line, level=1)


def _selector_text(selector: Document | None) -> str:
    if not selector:
        return "<none>"
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions", ()):
        values = f" ({','.join(expression.get('values', []))})" if expression.get("values") else ""
        terms.append(f"{expression['key']} {expression['operator'].lower()}{values}")
    return ",".join(terms)


def _state(page: Page, title: str, state: Document, level: int) -> None:
    if running := state.get("running"):
        page.put(title, "Running", level=level)
        page.put("Started", _long_time(running.get("startedAt")), level=level + 1)
    elif ended := state.get("terminated"):
        page.put(title, "Terminated", level=level)
        for name, key in (
            ("Reason", "reason"),
            ("Message", "message"),
            ("Exit Code", "exitCode"),
            ("Signal", "signal"),
        ):
            if ended.get(key) is not None:
                page.put(name, str(ended[key]).rstrip("\n").split("\n"), level=level + 1)
        page.put("Started", _long_time(ended.get("startedAt")), level=level + 1)
        page.put("Finished", _long_time(ended.get("finishedAt")), level=level + 1)
    elif (waiting := state.get("waiting")) is not None:
        page.put(title, "Waiting", level=level)
        for name, key in (("Reason", "reason"), ("Message", "message")):
            if waiting.get(key):
                page.put(name, waiting[key], level=level + 1)


def _probe(probe: Document) -> str:
    if action := probe.get("httpGet"):
        what = f"http-get {action.get('scheme', 'HTTP').lower()}://{action.get('host', '')}:{action['port']}{action.get('path', '/')}"
    elif action := probe.get("exec"):
        what = f"exec {action.get('command', [])}"
    elif action := probe.get("tcpSocket"):
        what = f"tcp-socket {action.get('host', '')}:{action['port']}"
    else:
        what = f"grpc <pod>:{probe.get('grpc', {}).get('port', '')}"
    return (
        f"{what} delay={probe.get('initialDelaySeconds', 0)}s timeout={probe.get('timeoutSeconds', 1)}s "
        f"period={probe.get('periodSeconds', 10)}s #success={probe.get('successThreshold', 1)} "
        f"#failure={probe.get('failureThreshold', 3)}"
    )


def _env_source(variable: Document) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    for key, text in (("configMapKeyRef", "config map"), ("secretKeyRef", "secret")):
        if ref := source.get(key):
            where = f"<set to the key '{ref['key']}' in {text} '{ref.get('name', '')}'>"
            return f"{where}  Optional: {str(ref.get('optional', False)).lower()}"
    if ref := source.get("fieldRef"):
        return f" ({ref.get('apiVersion', 'v1')}:{ref['fieldPath']})"
    ref = source.get("resourceFieldRef", {})
    return f" ({ref.get('resource', '')})"


def _containers(page: Page, title: str, containers: list[Document], statuses: list[Document], level: int) -> None:
    by_name = {status["name"]: status for status in statuses}
    if not containers:
        return
    page.text(f"{title}:", level=level)
    for container in containers:
        status = by_name.get(container["name"], {})
        inner = level + 2
        page.text(f"{container['name']}:", level=level + 1)
        if status.get("containerID"):
            page.put("Container ID", status["containerID"], level=inner)
        page.put("Image", container.get("image", ""), level=inner)
        if status.get("imageID"):
            page.put("Image ID", status["imageID"], level=inner)
        ports = container.get("ports", [])
        if ports:
            page.put(
                "Ports" if len(ports) > 1 else "Port",
                ", ".join(f"{p['containerPort']}/{p.get('protocol', 'TCP')}" for p in ports),
                level=inner,
            )
        else:
            page.put("Port", "<none>", level=inner)
        for name, key in (("Command", "command"), ("Args", "args")):
            if container.get(key):
                page.text(f"{name}:", level=inner)
                for word in container[key]:
                    for line in str(word).split("\n"):
                        page.text(line, level=inner + 1)
        if status:
            _state(page, "State", status.get("state", {}), inner)
            _state(page, "Last State", status.get("lastState", {}), inner)
            page.put("Ready", status.get("ready", False), level=inner)
            page.put("Restart Count", status.get("restartCount", 0), level=inner)
        for name, key in (("Limits", "limits"), ("Requests", "requests")):
            if values := container.get("resources", {}).get(key):
                page.text(f"{name}:", level=inner)
                for resource, value in sorted(values.items()):
                    page.put(resource, value, level=inner + 1)
        for name, key in (("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")):
            if probe := container.get(key):
                page.put(name, _probe(probe), level=inner)
        sources = [
            f"{source[key]['name']}  {kind}  Optional: {str(source[key].get('optional', False)).lower()}"
            for source in container.get("envFrom", ())
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret"))
            if key in source
        ]
        if sources:
            page.put("Environment Variables from", sources, level=inner)
        if container.get("env"):
            page.text("Environment:", level=inner)
            for variable in container["env"]:
                page.put(variable["name"], _env_source(variable), level=inner + 1)
        else:
            page.put("Environment", "<none>", level=inner)
        if container.get("volumeMounts"):
            page.text("Mounts:", level=inner)
            for mount in container["volumeMounts"]:
                mode = "ro" if mount.get("readOnly") else "rw"
                path = f',path="{mount["subPath"]}"' if mount.get("subPath") else ""
                page.text(f"{mount['mountPath']} from {mount['name']} ({mode}{path})", level=inner + 1)
        else:
            page.put("Mounts", "<none>", level=inner)


_VOLUMES = {
    "emptyDir": ("EmptyDir", "a temporary directory that shares a pod's lifetime"),
    "configMap": ("ConfigMap", "a volume populated by a ConfigMap"),
    "secret": ("Secret", "a volume populated by a Secret"),
    "hostPath": ("HostPath", "bare host directory volume"),
    "projected": ("Projected", "a volume that contains injected data from multiple sources"),
    "downwardAPI": ("DownwardAPI", "a volume populated by information about the pod"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "a reference to a PersistentVolumeClaim in the same namespace"),
}


def _volumes(page: Page, volumes: list[Document], level: int) -> None:
    if not volumes:
        page.put("Volumes", "<none>", level=level)
        return
    page.text("Volumes:", level=level)
    for volume in volumes:
        page.text(f"{volume['name']}:", level=level + 1)
        for key, source in volume.items():
            if key == "name":
                continue
            kind, meaning = _VOLUMES.get(key, (key, "a volume"))
            page.put("Type", f"{kind} ({meaning})", level=level + 2)
            for name, value in sorted((source or {}).items()):
                if isinstance(value, str | int | bool):
                    page.put(name[0].upper() + name[1:], value, level=level + 2)


def _pod(page: Page, document: Document, now: dt.datetime) -> None:
    spec, status = document["spec"], document.get("status", {})
    _header(page, document)
    page.put("Priority", spec.get("priority", 0))
    page.put("Service Account", spec.get("serviceAccountName", ""))
    node = spec.get("nodeName")
    page.put("Node", f"{node}/{status.get('hostIP', '')}" if node else "<none>")
    if status.get("startTime"):
        page.put("Start Time", _long_time(status["startTime"]))
    _labels(page, document)
    if deleted := document["metadata"].get("deletionTimestamp"):
        page.put("Status", f"Terminating (lasts {_age(deleted, now)})")
        page.put("Termination Grace Period", f"{document['metadata'].get('deletionGracePeriodSeconds', 0)}s")
    else:
        page.put("Status", status.get("phase", "Pending"))
    for name, key in (("Reason", "reason"), ("Message", "message")):
        if status.get(key):
            page.put(name, status[key])
    page.put("IP", status.get("podIP", ""))
    page.put("IPs", [f"IP:  {entry['ip']}" for entry in status.get("podIPs", ())] or ["<none>"])
    _controlled_by(page, document)
    _containers(page, "Init Containers", spec.get("initContainers", []), status.get("initContainerStatuses", []), 0)
    _containers(page, "Containers", spec.get("containers", []), status.get("containerStatuses", []), 0)
    _conditions(page, document, ("type", "status"))
    _volumes(page, spec.get("volumes", []), 0)
    page.put("QoS Class", status.get("qosClass", ""))
    page.put("Node-Selectors", _pairs(spec.get("nodeSelector")))
    page.put("Tolerations", [_toleration(t) for t in spec.get("tolerations", ())] or ["<none>"])


def _toleration(toleration: Document) -> str:
    text = str(toleration.get("key", ""))
    if toleration.get("value"):
        text += f"={toleration['value']}"
    if toleration.get("effect"):
        text += f":{toleration['effect']}"
    if toleration.get("operator") == "Exists" and not toleration.get("value"):
        text += " op=Exists"
    if toleration.get("tolerationSeconds") is not None:
        text += f" for {toleration['tolerationSeconds']}s"
    return text


def _node(page: Page, document: Document, pods: list[Document], now: dt.datetime) -> None:
    spec, status = document["spec"], document.get("status", {})
    roles = [
        k.removeprefix("node-role.kubernetes.io/")
        for k in document["metadata"].get("labels", {})
        if k.startswith("node-role.kubernetes.io/")
    ]
    page.put("Name", document["metadata"]["name"])
    page.put("Roles", ",".join(sorted(roles)) or "<none>")
    _labels(page, document)
    page.put("CreationTimestamp", _long_time(document["metadata"].get("creationTimestamp")))
    page.put(
        "Taints",
        [f"{t['key']}{'=' + t['value'] if t.get('value') else ''}:{t['effect']}" for t in spec.get("taints", ())]
        or ["<none>"],
    )
    page.put("Unschedulable", str(bool(spec.get("unschedulable"))).lower())
    _conditions(page, document, ("type", "status", "lastHeartbeatTime", "lastTransitionTime", "reason", "message"))
    page.text("Addresses:")
    for address in status.get("addresses", ()):
        page.put(address["type"], address["address"], level=1)
    for title in ("capacity", "allocatable"):
        page.text(f"{title.capitalize()}:")
        for resource, amount in sorted(status.get(title, {}).items()):
            page.put(resource, amount, level=1)
    page.text("System Info:")
    for name, value in status.get("nodeInfo", {}).items():
        if value and isinstance(value, str):
            page.put(name[0].upper() + name[1:], value, level=1)
    page.put("PodCIDR", spec.get("podCIDR", ""))
    running = [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    page.text(f"Non-terminated Pods:  ({len(running)} in total)")
    rows = [["Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"]]
    rows.append(["-" * len(title) for title in rows[0]])
    totals = {("cpu", "requests"): 0, ("cpu", "limits"): 0, ("memory", "requests"): 0, ("memory", "limits"): 0}
    for pod in running:
        cells = []
        for slot in totals:
            amount = _sum_of(pod, *slot)
            totals[slot] += amount
            cells.append(quantity.render(slot[0], amount))
        rows.append(
            [
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                *cells,
                _age(pod["metadata"].get("creationTimestamp"), now),
            ]
        )
    for line in aligned(rows, 2):
        page.text(line, level=1)
    page.text("Allocated resources:")
    table = [["Resource", "Requests", "Limits"], ["--------", "--------", "------"]]
    for resource in ("cpu", "memory"):
        has = quantity.amount(resource, status.get("allocatable", {}).get(resource, "0"))
        cells = [
            f"{quantity.render(resource, totals[resource, what])} ({totals[resource, what] * 100 // has if has else 0}%)"
            for what in ("requests", "limits")
        ]
        table.append([resource, *cells])
    for line in aligned(table, 2):
        page.text(line, level=1)


def _sum_of(pod: Document, resource: str, what: str) -> int:
    amounts = (c.get("resources", {}).get(what, {}).get(resource) for c in pod["spec"].get("containers", ()))
    return sum(quantity.amount(resource, amount) for amount in amounts if amount is not None)


def _template(page: Page, template: Document) -> None:
    page.text("Pod Template:")
    page.put("Labels", _pairs(template.get("metadata", {}).get("labels")), level=1)
    if annotations := template.get("metadata", {}).get("annotations"):
        page.put("Annotations", _pairs(annotations, ": "), level=1)
    _containers(page, "Init Containers", template["spec"].get("initContainers", []), [], 1)
    _containers(page, "Containers", template["spec"].get("containers", []), [], 1)
    _volumes(page, template["spec"].get("volumes", []), 1)


def _deployment(page: Page, document: Document, replica_sets: list[Document]) -> None:
    spec, status = document["spec"], document.get("status", {})
    _header(page, document)
    page.put("CreationTimestamp", _long_time(document["metadata"].get("creationTimestamp")))
    _labels(page, document)
    page.put("Selector", _selector_text(spec.get("selector")))
    page.put(
        "Replicas",
        f"{spec.get('replicas', 1)} desired | {status.get('updatedReplicas', 0)} updated | {status.get('replicas', 0)} total | "
        f"{status.get('availableReplicas', 0)} available | {status.get('unavailableReplicas', 0)} unavailable",
    )
    page.put("StrategyType", spec.get("strategy", {}).get("type", ""))
    page.put("MinReadySeconds", spec.get("minReadySeconds", 0))
    if rolling := spec.get("strategy", {}).get("rollingUpdate"):
        page.put(
            "RollingUpdateStrategy",
            f"{rolling.get('maxUnavailable')} max unavailable, {rolling.get('maxSurge')} max surge",
        )
    _template(page, spec["template"])
    _conditions(page, document)
    revision = document["metadata"].get("annotations", {}).get(REVISION)
    told = {True: [], False: []}  # type: dict[bool, list[str]]
    for replica_set in replica_sets:
        is_new = replica_set["metadata"].get("annotations", {}).get(REVISION) == revision
        counts = f"{replica_set.get('status', {}).get('replicas', 0)}/{replica_set['spec'].get('replicas', 0)}"
        told[is_new].append(f"{replica_set['metadata']['name']} ({counts} replicas created)")
    page.put("OldReplicaSets", ", ".join(sorted(told[False])) or "<none>")
    page.put("NewReplicaSet", ", ".join(told[True]) or "<none>")


REVISION = "deployment.kubernetes.io/revision"


def _replica_set(page: Page, document: Document, pods: list[Document]) -> None:
    spec, status = document["spec"], document.get("status", {})
    _header(page, document)
    page.put("Selector", _selector_text(spec.get("selector")))
    _labels(page, document)
    _controlled_by(page, document)
    page.put("Replicas", f"{status.get('replicas', 0)} current / {spec.get('replicas', 1)} desired")
    phases = dict.fromkeys(("Running", "Pending", "Succeeded", "Failed"), 0)
    for pod in pods:
        phases[pod.get("status", {}).get("phase", "Pending")] = (
            phases.get(pod.get("status", {}).get("phase", "Pending"), 0) + 1
        )
    page.put(
        "Pods Status",
        f"{phases['Running']} Running / {phases['Pending']} Waiting / {phases['Succeeded']} Succeeded / {phases['Failed']} Failed",
    )
    _template(page, spec["template"])
    _conditions(page, document)


def _service(page: Page, document: Document, slices: list[Document]) -> None:
    spec = document["spec"]
    _header(page, document)
    _labels(page, document)
    page.put("Selector", ",".join(_pairs(spec.get("selector"))))
    page.put("Type", spec.get("type", "ClusterIP"))
    page.put("IP Family Policy", spec.get("ipFamilyPolicy", "<none>"))
    page.put("IP Families", ",".join(spec.get("ipFamilies", [])) or "<none>")
    page.put("IP", spec.get("clusterIP", ""))
    page.put("IPs", ",".join(spec.get("clusterIPs", [])) or "<none>")
    if spec.get("externalName"):
        page.put("External Name", spec["externalName"])
    for port in spec.get("ports", ()):
        protocol = port.get("protocol", "TCP")
        page.put("Port", f"{port.get('name', '<unset>')}  {port['port']}/{protocol}")
        page.put("TargetPort", f"{port.get('targetPort', port['port'])}/{protocol}")
        if port.get("nodePort"):
            page.put("NodePort", f"{port.get('name', '<unset>')}  {port['nodePort']}/{protocol}")
        addresses = [
            f"{address}:{slice_port.get('port', '')}"
            for entry in slices
            for slice_port in entry.get("ports") or ()
            if slice_port.get("name", "") == port.get("name", "")
            for endpoint in entry.get("endpoints") or ()
            if endpoint.get("conditions", {}).get("ready") is not False
            for address in endpoint["addresses"]
        ]
        more = f" + {len(addresses) - 3} more..." if len(addresses) > 3 else ""
        page.put("Endpoints", ",".join(addresses[:3]) + more)
    page.put("Session Affinity", spec.get("sessionAffinity", "None"))
    page.put("Internal Traffic Policy", spec.get("internalTrafficPolicy", "Cluster"))


def _config_map(page: Page, document: Document) -> None:
    _header(page, document)
    _labels(page, document)
    page.text("")
    page.text("Data\n====")
    for key, value in sorted((document.get("data") or {}).items()):
        page.text(f"{key}:\n----\n{value}\n")
    page.text("BinaryData\n====")
    for key, value in sorted((document.get("binaryData") or {}).items()):
        page.text(f"{key}: {len(value) * 3 // 4} bytes")
    page.text("")


def _secret(page: Page, document: Document) -> None:
    _header(page, document)
    _labels(page, document)
    page.text("")
    page.put("Type", document.get("type", "Opaque"))
    page.text("\nData\n====")
    for key, value in sorted((document.get("data") or {}).items()):
        page.put(key, f"{len(value) * 3 // 4 - value[-2:].count('=')} bytes")


def _anything(page: Page, document: Document) -> None:
    _header(page, document)
    _labels(page, document)
    page.put("API Version", document["apiVersion"])
    page.put("Kind", document["kind"])
    hidden = {"apiVersion", "kind", "metadata"}
    _tree(page, {key: value for key, value in document.items() if key not in hidden}, 0)


def _tree(page: Page, value: Any, level: int) -> None:
    for key, inner in value.items():
        title = key[0].upper() + key[1:]
        if isinstance(inner, dict) and inner:
            page.text(f"{title}:", level=level)
            _tree(page, inner, level + 1)
        elif isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
            page.text(f"{title}:", level=level)
            for item in inner:
                _tree(page, item, level + 1)
        elif isinstance(inner, list):
            page.put(title, [str(item) for item in inner] or ["<none>"], level=level)
        else:
            page.put(title, "<none>" if inner in ("", None, {}) else str(inner).split("\n"), level=level)


def _when(event: Document) -> tuple[str, int]:
    """The order of events: times have whole seconds, within one the order of writing tells."""
    written = event["metadata"].get("resourceVersion") or "0"
    return event.get("lastTimestamp") or event.get("eventTime") or "", int(written) if written.isdigit() else 0


async def _events(client: AsyncClient, page: Page, document: Document, now: dt.datetime) -> None:
    meta = document["metadata"]
    fields = f"involvedObject.kind={document['kind']},involvedObject.name={meta['name']}"
    try:
        found = list((await client.list("v1/Event", meta.get("namespace", ""), fields=fields)).items)
    except ApiError as error:
        page.put("Events", f"<cannot be read: {error}>")
        return
    mine = [event for event in found if event["involvedObject"].get("uid") in (None, "", meta.get("uid"))]
    if not mine:
        page.put("Events", "<none>")
        return
    page.text("Events:")
    rows = [["Type", "Reason", "Age", "From", "Message"], ["----", "------", "----", "----", "-------"]]
    for event in sorted(mine, key=_when):
        age = _age(event.get("lastTimestamp") or event.get("eventTime"), now)
        if (event.get("count") or 1) > 1:
            age = f"{age} (x{event['count']} over {_age(event.get('firstTimestamp'), now)})"
        source = event.get("source", {}).get("component") or event.get("reportingComponent", "")
        rows.append([event.get("type", ""), event.get("reason", ""), age, source, event.get("message", "").strip()])
    for line in aligned(rows, 2):
        page.text(line, level=1)


async def describe(client: AsyncClient, document: Document) -> str:
    """The description of one object. Raises ApiError when what belongs to it cannot be read."""
    now = SystemClock().now()
    page = Page()
    meta = document["metadata"]
    namespace = meta.get("namespace", "")
    match document["kind"]:
        case "Pod":
            _pod(page, document, now)
        case "Node":
            pods = await client.list("v1/Pod", "", fields=f"spec.nodeName={meta['name']}")
            _node(page, document, list(pods.items), now)
        case "Deployment":
            owned = await client.list("apps/v1/ReplicaSet", namespace, labels=_selector_query(document))
            _deployment(page, document, [rs for rs in owned.items if _owned(rs, meta["uid"])])
        case "ReplicaSet":
            pods = await client.list("v1/Pod", namespace, labels=_selector_query(document))
            _replica_set(page, document, [pod for pod in pods.items if _owned(pod, meta["uid"])])
        case "Service":
            slices = await client.list(
                "discovery.k8s.io/v1/EndpointSlice", namespace, labels=f"kubernetes.io/service-name={meta['name']}"
            )
            _service(page, document, list(slices.items))
        case "ConfigMap":
            _config_map(page, document)
        case "Secret":
            _secret(page, document)
            return page.render()
        case _:
            _anything(page, document)
    await _events(client, page, document, now)
    return page.render()


def _owned(document: Document, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in document["metadata"].get("ownerReferences", ()))


def _selector_query(document: Document) -> str:
    from steersman.types.meta import LabelSelector  # noqa: PLC0415 - only workloads need it

    selector = LabelSelector.from_dict(document["spec"].get("selector") or {})
    return str(selectors.from_label_selector(selector))
