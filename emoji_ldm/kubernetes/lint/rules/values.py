"""Rules of values that schemas only call "string": quantities, durations, ports, enumerations and names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from emoji_ldm.kubernetes.lint.k8s_enums import (
    ALLOWED_VALUES,
    DNS_LABEL,
    DURATIONS,
    ENV_NAME,
    KEYS,
    LABEL_MAPS,
    PORT_NAME,
    PORTS,
    QUANTITIES,
    QUANTITY_FIELDS,
    SERVICE_TYPES,
    SUBDOMAIN,
)
from emoji_ldm.kubernetes.lint.pods import FieldPath
from emoji_ldm.kubernetes.lint.quantities import duration_s, quantity
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, OBJECT, POD, RuleTarget, Violations, rule

# Below these fields a key is a name that somebody chose and not a field of Kubernetes, so a file called `port` or an
# annotation called `interval` must not be checked like one.
FREE_TEXT = ("data", "stringData", "binaryData", "annotations", "rayStartParams")
NAME_FIELDS = ("serviceAccountName", "configMapName", "secretName", "claimName", "priorityClassName", "groupName")


@rule(OBJECT)
def fields_hold_words_that_exist(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    # Go types such as RestartPolicy are plain strings in the schemas, which therefore accept every word. The API server
    # validates them in code, and custom resources that embed a Pod template do not even reach that code: the operator's
    # Pods are refused later.
    for path, value in _leaves(target.object):
        allowed = allowed_values(path)
        if allowed and isinstance(value, str) and value not in allowed and not _is_own_field(value):
            yield path, f"{value!r} is not one of {', '.join(allowed)}"


@rule(OBJECT)
def quantities_are_quantities(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(target.object):
        number = quantity(value)
        if is_quantity(path) and (number is None or number < 0):
            yield path, f"{value!r} is not a quantity such as 500m or 8Gi"


@rule(CONTAINER)
def amounts_make_sense(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apis/core/validation); a request of 4 bytes is a typo.

    A memory of 8 (bytes) or 8Ki, or a cpu of 4Gi, has the wrong suffix.
    """
    for part in ("requests", "limits"):
        for name, text in ((target.value.get("resources") or {}).get(part) or {}).items():
            number = quantity(text)
            memory = name in ("memory", "ephemeral-storage")
            if number is not None and (number < 0 or (memory and number < 2**20) or (name == "cpu" and number > 4096)):
                yield ("resources", part, name), f"{text} of {name} makes no sense: check the suffix"


@rule(OBJECT)
def durations_are_durations(target: RuleTarget) -> Violations:
    """Go time.ParseDuration; prometheus-operator and Karpenter."""
    for path, value in _leaves(target.object):
        # Never is Karpenter's own word for a duration that is never over.
        wrong = path[-1] in DURATIONS and isinstance(value, str) and value != "Never" and duration_of(value) is None
        if wrong and not inside(path, FREE_TEXT):
            yield path, f"{value!r} is not a duration such as 30s or 5m"


@rule(OBJECT)
def ports_are_ports(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    # Paths of one or two steps are keys of the object itself, none of which is a port.
    for path, value in _leaves(target.object):
        if path[-1] not in (*PORTS, "port", "targetPort") or inside(path, FREE_TEXT) or len(path) < 3:
            continue
        named = path[-1] not in PORTS and isinstance(value, str) and PORT_NAME.fullmatch(value)
        if not named and not (isinstance(value, int) and 0 < value < 65536):
            yield path, f"{value!r} is not a port (1 to 65535, or a name)"


@rule(CONTAINER)
def names_of_ports_are_short(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, port in enumerate(target.value.get("ports") or []):
        if "name" in port and not PORT_NAME.fullmatch(port["name"]):
            yield (
                ("ports", index, "name"),
                f"{port['name']!r} is not a valid port name (a-z, 0-9, -; at most 15 characters)",
            )


@rule(CONTAINER)
def names_of_containers_are_labels(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    if not DNS_LABEL.fullmatch(str(target.value.get("name", ""))):
        yield ("name",), f"{target.value.get('name')!r} is not a DNS label"


@rule(POD)
def names_of_volumes_are_labels(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, volume in enumerate(target.value["spec"].get("volumes") or []):
        if not DNS_LABEL.fullmatch(volume["name"]):
            yield ("spec", "volumes", index, "name"), f"{volume['name']!r} is not a DNS label"


@rule(CONTAINER)
def names_of_variables_are_names(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, item in enumerate(target.value.get("env") or []):
        if not ENV_NAME.fullmatch(item["name"]):
            yield ("env", index, "name"), f"{item['name']!r} is not a valid variable name"


@rule(OBJECT)
def names_of_objects_are_names(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    # RBAC allows any path segment as a name, such as `system:node`, so its kinds are exempt.
    metadata = target.object["metadata"]
    for key in ("name", "namespace"):
        text, form = metadata.get(key), DNS_LABEL if key == "namespace" or target.kind == "Service" else SUBDOMAIN
        free = target.kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding") and key == "name"
        if text is not None and not free and (not form.fullmatch(text) or len(text) > 253):
            yield ("metadata", key), f"{text!r} is not a valid object name (a-z, 0-9, -, .)"


@rule(OBJECT)
def named_things_have_names(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(target.object):
        if (
            path[-1] in NAME_FIELDS
            and isinstance(value, str)
            and not SUBDOMAIN.fullmatch(value)
            and not inside(path, FREE_TEXT)
        ):
            yield path, f"{value!r} is not a valid object name"


@rule(OBJECT, "Service")
def the_type_of_a_service_exists(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    if (kind := target.spec.get("type", "ClusterIP")) not in SERVICE_TYPES:
        yield ("spec", "type"), f"{kind!r} is not one of {', '.join(SERVICE_TYPES)}"


@rule(OBJECT, "NetworkPolicy")
def blocks_of_addresses_are_networks(target: RuleTarget) -> Violations:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, block in nodes(target.object):
        if path and path[-1] == "ipBlock" and isinstance(block, dict):
            outer = _network(block.get("cidr"))
            if outer is None:
                yield (*path, "cidr"), f"{block.get('cidr')!r} is not a network such as 10.0.0.0/8"
            for index, text in enumerate(block.get("except") or []):
                inner = _network(text)
                if inner is None or (outer is not None and not inner.subnet_of(outer)):  # type: ignore[arg-type]
                    yield (*path, "except", index), f"{text!r} does not lie in {block.get('cidr')}"


def _is_own_field(text: str) -> bool:
    """Whether a text refers to a label or annotation of the Pod itself, as environment variables may."""
    found = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", text)
    return found is not None and found[2] in KEYS


def allowed_values(path: FieldPath) -> tuple[str, ...] | None:
    """The values that a field accepts; None if it is not an enumeration."""
    if inside(path, (*FREE_TEXT, *LABEL_MAPS, *QUANTITIES)):
        return None
    # Some words are fields of several kinds with different values, such as `type` and `operator`. The pair of parent
    # and field is looked up first, and the field alone only if the pair is unknown.
    names = [step for step in path if isinstance(step, str)]
    return ALLOWED_VALUES.get(".".join(names[-2:])) or ALLOWED_VALUES.get(names[-1])


def is_quantity(path: FieldPath) -> bool:
    """Whether a field holds a quantity."""
    parent = path[-2] if len(path) > 1 else ""
    in_resources = parent in QUANTITIES and "resources" in path
    return (
        in_resources or path[-1] in QUANTITY_FIELDS or (parent == "limits" and "NodePool" not in path)
    ) and not inside(path, FREE_TEXT)


def duration_of(text: str) -> float | None:
    """Seconds of a duration, with the longer units of Prometheus (d, w, y) counted as hours; None if it is not one."""
    # Go knows no days, weeks and years. Only the form matters to the rule, so these units may count as hours.
    return duration_s(text.replace("d", "h").replace("w", "h").replace("y", "h"))


def _network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError:
        return None


def inside(path: FieldPath, names: tuple[str, ...]) -> bool:
    """Whether a path leads through a field of one of these names."""
    return any(step in names for step in path[:-1])


def _leaves(obj: Any) -> Iterator[tuple[FieldPath, Any]]:
    """Every scalar with its path; for values in lists, the path ends with the name of the list."""
    for path, value in nodes(obj):
        if not isinstance(value, dict | list) and value is not None:
            yield (path[:-1] if isinstance(path[-1], int) else path), value


def nodes(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Every value in an object with its path, the object itself first."""
    yield path, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from nodes(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, (*path, index))
