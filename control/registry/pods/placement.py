"""Rules for where a pod may run: node selectors, affinity, tolerations, topology spread.

Source: Kubernetes' core validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.registry import formats
from control.registry.metadata import validate_labels
from control.registry.problems import Problems, at
from control.registry.selectors import validate_selector

NODE_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
WEIGHTS = (1, 100)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def validate_placement(spec: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Check everything in a pod spec that chooses nodes."""
    validate_labels(spec.get("nodeSelector", {}), f"{path}.nodeSelector", problems)
    affinity = spec.get("affinity", {})
    _validate_node_affinity(affinity.get("nodeAffinity", {}), f"{path}.affinity.nodeAffinity", problems)
    for kind in ("podAffinity", "podAntiAffinity"):
        _validate_pod_affinity(affinity.get(kind, {}), f"{path}.affinity.{kind}", problems)
    validate_tolerations(spec.get("tolerations", ()), f"{path}.tolerations", problems)
    _validate_spread(spec.get("topologySpreadConstraints", ()), f"{path}.topologySpreadConstraints", problems)


def _validate_node_affinity(affinity: Mapping[str, Any], path: str, problems: Problems) -> None:
    required = affinity.get(REQUIRED)
    if required is not None:
        terms = required.get("nodeSelectorTerms", ())
        if not terms:
            problems.required(f"{path}.{REQUIRED}.nodeSelectorTerms", "at least one term is needed")
        for index, term in enumerate(terms):
            _validate_node_term(term, at(f"{path}.{REQUIRED}.nodeSelectorTerms", index), problems)
    for index, preferred in enumerate(affinity.get(PREFERRED, ())):
        where = at(f"{path}.{PREFERRED}", index)
        problems.between(f"{where}.weight", preferred.get("weight", 0), *WEIGHTS)
        _validate_node_term(preferred.get("preference", {}), f"{where}.preference", problems)


def _validate_node_term(term: Mapping[str, Any], path: str, problems: Problems) -> None:
    for kind in ("matchExpressions", "matchFields"):
        for index, requirement in enumerate(term.get(kind, ())):
            where = at(f"{path}.{kind}", index)
            key, operator, values = (
                requirement.get("key", ""),
                requirement.get("operator"),
                requirement.get("values", ()),
            )
            if kind == "matchFields":
                problems.one_of(f"{where}.key", key, ("metadata.name",))
            else:
                problems.format(f"{where}.key", key, formats.qualified_name(key))
            problems.one_of(f"{where}.operator", operator, NODE_OPERATORS)
            match operator:
                case "In" | "NotIn" if not values:
                    problems.required(f"{where}.values", "operators In and NotIn need at least one value")
                case "Exists" | "DoesNotExist" if values:
                    problems.forbidden(f"{where}.values", "operators Exists and DoesNotExist take no values")
                case "Gt" | "Lt" if len(values) != 1:
                    problems.required(f"{where}.values", "operators Gt and Lt compare with exactly one value")


def _validate_pod_affinity(affinity: Mapping[str, Any], path: str, problems: Problems) -> None:
    for index, term in enumerate(affinity.get(REQUIRED, ())):
        _validate_pod_term(term, at(f"{path}.{REQUIRED}", index), problems)
    for index, preferred in enumerate(affinity.get(PREFERRED, ())):
        where = at(f"{path}.{PREFERRED}", index)
        problems.between(f"{where}.weight", preferred.get("weight", 0), *WEIGHTS)
        _validate_pod_term(preferred.get("podAffinityTerm", {}), f"{where}.podAffinityTerm", problems)


def _validate_pod_term(term: Mapping[str, Any], path: str, problems: Problems) -> None:
    key = term.get("topologyKey", "")
    if not key:
        problems.required(f"{path}.topologyKey", "name a node label")
    else:
        problems.format(f"{path}.topologyKey", key, formats.qualified_name(key))
    for name in ("labelSelector", "namespaceSelector"):
        if name in term:
            validate_selector(term[name], f"{path}.{name}", problems)
    for name in term.get("namespaces", ()):
        problems.format(f"{path}.namespaces", name, formats.dns_label(name))


def validate_tolerations(tolerations: Any, path: str, problems: Problems) -> None:
    for index, toleration in enumerate(tolerations):
        where = at(path, index)
        key, value = toleration.get("key", ""), toleration.get("value", "")
        operator, effect = toleration.get("operator", ""), toleration.get("effect", "")
        if key:
            problems.format(f"{where}.key", key, formats.qualified_name(key))
        elif operator != "Exists":
            problems.invalid(
                f"{where}.operator", operator, "an empty key needs operator Exists: it tolerates every taint"
            )
        match operator:
            case "" | "Equal":
                problems.format(f"{where}.value", value, formats.label_value(value))
            case "Exists" if value:
                problems.invalid(f"{where}.operator", value, "operator Exists takes no value")
            case "Exists":
                pass
            case _:
                problems.unsupported(f"{where}.operator", operator, ("Equal", "Exists"))
        if effect:
            problems.one_of(f"{where}.effect", effect, TAINT_EFFECTS)
        if "tolerationSeconds" in toleration and effect != "NoExecute":
            problems.invalid(f"{where}.effect", effect, "tolerationSeconds counts only with effect NoExecute")


def _validate_spread(constraints: Any, path: str, problems: Problems) -> None:
    seen = set()
    for index, constraint in enumerate(constraints):
        where = at(path, index)
        if constraint.get("maxSkew", 0) <= 0:
            problems.invalid(f"{where}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        key, action = constraint.get("topologyKey", ""), constraint.get("whenUnsatisfiable", "")
        if not key:
            problems.required(f"{where}.topologyKey", "name a node label")
        problems.one_of(f"{where}.whenUnsatisfiable", action, ("DoNotSchedule", "ScheduleAnyway"))
        if (key, action) in seen:
            problems.duplicate(where, f"{{{key}, {action}}}")
        seen.add((key, action))
        if "minDomains" in constraint:
            problems.at_least(f"{where}.minDomains", constraint["minDomains"], 1)
        if "labelSelector" in constraint:
            validate_selector(constraint["labelSelector"], f"{where}.labelSelector", problems)
