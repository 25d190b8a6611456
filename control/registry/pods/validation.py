"""Rules for a whole pod spec, and for what of it may change.

Source: Kubernetes' core validation. A pod that was made is mostly fixed: whoever wants another one deletes it, so
that what runs on a node never differs from what the API shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.registry import formats
from control.registry.codec import copy
from control.registry.metadata import validate_annotations, validate_labels
from control.registry.pods.containers import RESTART_POLICIES, validate_containers
from control.registry.pods.placement import validate_placement
from control.registry.pods.volumes import validate_volumes
from control.registry.problems import Problems, at

DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
PREEMPTION_POLICIES = ("PreemptLowerPriority", "Never")
NAMESERVERS_MAX = 3  # resolv.conf(5)
SEARCHES_MAX = 32  # Kubernetes' limit
DEADLINE_MAX = (1 << 31) - 1  # seconds


def validate_pod(document: Mapping[str, Any], problems: Problems) -> None:
    """Check a pod as a client may write it."""
    validate_pod_spec(document["spec"], "spec", problems)


def validate_new_pod(document: Mapping[str, Any], problems: Problems) -> None:
    """Check what may be in a pod later but not when it is made."""
    if document["spec"].get("ephemeralContainers"):
        problems.forbidden("spec.ephemeralContainers", "they can only be added to a pod that runs")


def validate_template(template: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check a pod template."""
    metadata = template.get("metadata", {})
    validate_labels(metadata.get("labels", {}), f"{path}.metadata.labels", problems)
    validate_annotations(metadata.get("annotations", {}), f"{path}.metadata.annotations", problems)
    validate_pod_spec(template.get("spec", {}), f"{path}.spec", problems)
    if template.get("spec", {}).get("ephemeralContainers"):
        problems.forbidden(f"{path}.spec.ephemeralContainers", "not allowed in a pod template")


def validate_pod_spec(spec: Mapping[str, Any], path: str, problems: Problems) -> None:
    validate_containers(spec, path, problems)
    validate_volumes(spec.get("volumes", ()), f"{path}.volumes", problems)
    problems.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    problems.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS_POLICIES)
    if "preemptionPolicy" in spec:
        problems.one_of(f"{path}.preemptionPolicy", spec["preemptionPolicy"], PREEMPTION_POLICIES)
    problems.between(f"{path}.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, DEADLINE_MAX)
    for name, form in (
        ("nodeName", formats.dns_subdomain),
        ("serviceAccountName", formats.dns_subdomain),
        ("priorityClassName", formats.dns_subdomain),
        ("runtimeClassName", formats.dns_subdomain),
        ("hostname", formats.dns_label),
        ("subdomain", formats.dns_label),
    ):
        if spec.get(name):
            problems.format(f"{path}.{name}", spec[name], form(spec[name]))
    validate_placement(spec, path, problems)
    _validate_dns(spec, path, problems)
    for index, alias in enumerate(spec.get("hostAliases", ())):
        where = at(f"{path}.hostAliases", index)
        problems.format(f"{where}.ip", alias.get("ip", ""), formats.ip_address(alias.get("ip", "")))
        for name in alias.get("hostnames", ()):
            problems.format(f"{where}.hostnames", name, formats.dns_subdomain(name))
    for index, secret in enumerate(spec.get("imagePullSecrets", ())):
        if not secret.get("name"):
            problems.required(f"{at(f'{path}.imagePullSecrets', index)}.name")
    gates = [gate.get("name", "") for gate in spec.get("schedulingGates", ())]
    for index, name in enumerate(gates):
        where = at(f"{path}.schedulingGates", index)
        problems.format(where, name, formats.qualified_name(name))
        if name in gates[:index]:
            problems.duplicate(where, name)
    for index, gate in enumerate(spec.get("readinessGates", ())):
        kind = gate.get("conditionType", "")
        problems.format(f"{at(f'{path}.readinessGates', index)}.conditionType", kind, formats.qualified_name(kind))
    _validate_security(spec, path, problems)


def _validate_dns(spec: Mapping[str, Any], path: str, problems: Problems) -> None:
    config = spec.get("dnsConfig", {})
    servers, searches = config.get("nameservers", ()), config.get("searches", ())
    if spec.get("dnsPolicy") == "None" and not servers:
        problems.required(f"{path}.dnsConfig.nameservers", "dnsPolicy None needs at least one")
    if len(servers) > NAMESERVERS_MAX:
        problems.too_many(f"{path}.dnsConfig.nameservers", len(servers), NAMESERVERS_MAX)
    for index, server in enumerate(servers):
        problems.format(at(f"{path}.dnsConfig.nameservers", index), server, formats.ip_address(server))
    if len(searches) > SEARCHES_MAX:
        problems.too_many(f"{path}.dnsConfig.searches", len(searches), SEARCHES_MAX)
    for index, option in enumerate(config.get("options", ())):
        if not option.get("name"):
            problems.required(at(f"{path}.dnsConfig.options", index), "an option has a name")


def _validate_security(spec: Mapping[str, Any], path: str, problems: Problems) -> None:
    context, where = spec.get("securityContext", {}), f"{path}.securityContext"
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        problems.at_least(f"{where}.{name}", context.get(name), 0)
    for index, group in enumerate(context.get("supplementalGroups", ())):
        problems.at_least(at(f"{where}.supplementalGroups", index), group, 0)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        problems.invalid(f"{path}.shareProcessNamespace", True, "hostPID and shareProcessNamespace exclude each other")
    names = set()
    for index, sysctl in enumerate(context.get("sysctls", ())):
        name = sysctl.get("name", "")
        if not name:
            problems.required(f"{at(f'{where}.sysctls', index)}.name")
        elif name in names:
            problems.duplicate(f"{at(f'{where}.sysctls', index)}.name", name)
        names.add(name)


def validate_pod_update(new: Mapping[str, Any], old: Mapping[str, Any], problems: Problems) -> None:
    """Check that only what may change of a pod did: images, the deadline (down), tolerations (more), gates (fewer)."""
    wished, given = new["spec"], old["spec"]
    _validate_deadline(wished, given, problems)
    kept = [t for t in given.get("tolerations", ()) if t not in wished.get("tolerations", ())]
    if kept:
        problems.forbidden("spec.tolerations", "tolerations may be added, not changed or taken away")
    gates = [gate for gate in wished.get("schedulingGates", ()) if gate not in given.get("schedulingGates", ())]
    if gates:
        problems.forbidden("spec.schedulingGates", f"only removals are allowed, but found new {gates}")
    for kind in ("containers", "initContainers"):
        if len(wished.get(kind, ())) != len(given.get(kind, ())):
            problems.forbidden(f"spec.{kind}", "a pod's containers may not be added or removed")
            return
    same = copy({"spec": wished})["spec"]
    for name in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        _carry(same, given, name)
    if given.get("terminationGracePeriodSeconds", 0) < 0 and wished.get("terminationGracePeriodSeconds") == 1:
        _carry(same, given, "terminationGracePeriodSeconds")
    for kind in ("containers", "initContainers"):
        for ours, theirs in zip(same.get(kind, ()), given.get(kind, ()), strict=True):
            _carry(ours, theirs, "image")
    differing = sorted(name for name in {*same, *given} if same.get(name) != given.get(name))
    if differing:
        problems.forbidden(
            "spec",
            f"{', '.join(differing)} may not change in a pod; only container images, activeDeadlineSeconds (down), "
            "tolerations (more) and schedulingGates (fewer) may: delete the pod and create it anew",
        )


def _validate_deadline(new: Mapping[str, Any], old: Mapping[str, Any], problems: Problems) -> None:
    before, after = old.get("activeDeadlineSeconds"), new.get("activeDeadlineSeconds")
    if before is not None and (after is None or after > before):
        problems.invalid(
            "spec.activeDeadlineSeconds", after, f"must be less than or equal to previous value ({before})"
        )


def _carry(to: dict[str, Any], source: Mapping[str, Any], name: str) -> None:
    if name in source:
        to[name] = source[name]
    else:
        to.pop(name, None)
