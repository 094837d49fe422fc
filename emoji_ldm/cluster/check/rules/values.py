"""Values that schemas call "string" and the API server still refuses: quantities, ports, words, names, labels."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from emoji_ldm.cluster.check.pods import Path
from emoji_ldm.cluster.check.quantity import duration_s, quantity
from emoji_ldm.cluster.check.rules.place import CONTAINER, OBJECT, POD, Found, Place, rule
from emoji_ldm.cluster.check.vocabulary import (
    DNS_LABEL,
    DURATIONS,
    ENV_NAME,
    LABEL_MAPS,
    LABEL_VALUE,
    PORT_NAME,
    PORTS,
    QUANTITIES,
    QUANTITY_FIELDS,
    SERVICE_TYPES,
    SUBDOMAIN,
    WORDS,
    qualified_name,
)

FREE = ("data", "stringData", "binaryData", "annotations", "rayStartParams")  # texts with rules of their own
NAMED = ("serviceAccountName", "configMapName", "secretName", "claimName", "priorityClassName", "groupName")


@rule(OBJECT)
def fields_hold_words_that_exist(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(place.thing):
        words = _words(path)
        if words and isinstance(value, str) and value not in words:
            yield path, f"{value!r} is none of {', '.join(words)}"


@rule(OBJECT)
def quantities_are_quantities(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(place.thing):
        if _is_quantity(path) and quantity(value) is None:
            yield path, f"{value!r} is no quantity such as 500m or 8Gi"


@rule(CONTAINER)
def amounts_make_sense(place: Place) -> Found:
    """Kubernetes API validation (apis/core/validation); a request of 4 bytes is a slip.

    A memory of 8 (bytes) or 8Ki, or a cpu of 4Gi, is a slip of the suffix.
    """
    for part in ("requests", "limits"):
        for name, text in ((place.part.get("resources") or {}).get(part) or {}).items():
            number = quantity(text)
            memory = name in ("memory", "ephemeral-storage")
            if number is not None and (number < 0 or (memory and number < 2**20) or (name == "cpu" and number > 4096)):
                yield ("resources", part, name), f"{text} {name} makes no sense"


@rule(OBJECT)
def durations_are_durations(place: Place) -> Found:
    """Go time.ParseDuration; prometheus-operator and Karpenter."""
    for path, value in _leaves(place.thing):
        wrong = path[-1] in DURATIONS and isinstance(value, str) and value != "Never" and _duration(value) is None
        if wrong and not _inside(path, FREE):
            yield path, f"{value!r} is no duration such as 30s or 5m"


@rule(OBJECT)
def ports_are_ports(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(place.thing):
        number = path[-1] in PORTS or (path[-1] in ("port", "targetPort") and isinstance(value, int))
        if number and not _inside(path, FREE) and not (isinstance(value, int) and 0 < value < 65536):
            yield path, f"{value!r} is no port (1 to 65535)"


@rule(CONTAINER)
def names_of_ports_are_short(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, port in enumerate(place.part.get("ports") or []):
        if "name" in port and not PORT_NAME.fullmatch(port["name"]):
            yield (
                ("ports", index, "name"),
                f"{port['name']!r} is no name of a port (a-z, 0-9, -; at most 15 characters)",
            )


@rule(CONTAINER)
def names_of_containers_are_labels(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    if not DNS_LABEL.fullmatch(str(place.part.get("name", ""))):
        yield ("name",), f"{place.part.get('name')!r} is no DNS label"


@rule(POD)
def names_of_volumes_are_labels(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, volume in enumerate(place.part["spec"].get("volumes") or []):
        if not DNS_LABEL.fullmatch(volume["name"]):
            yield ("spec", "volumes", index, "name"), f"{volume['name']!r} is no DNS label"


@rule(CONTAINER)
def names_of_variables_are_names(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for index, item in enumerate(place.part.get("env") or []):
        if not ENV_NAME.fullmatch(item["name"]):
            yield ("env", index, "name"), f"{item['name']!r} is no name of a variable"


@rule(OBJECT)
def names_of_objects_are_names(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    metadata = place.thing["metadata"]
    for key in ("name", "namespace"):
        text, form = metadata.get(key), DNS_LABEL if key == "namespace" or place.kind == "Service" else SUBDOMAIN
        free = place.kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding") and key == "name"
        if text is not None and not free and (not form.fullmatch(text) or len(text) > 253):
            yield ("metadata", key), f"{text!r} is no name of an object (a-z, 0-9, -, .)"


@rule(OBJECT)
def named_things_have_names(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _leaves(place.thing):
        if path[-1] in NAMED and isinstance(value, str) and not SUBDOMAIN.fullmatch(value) and not _inside(path, FREE):
            yield path, f"{value!r} is no name of an object"


@rule(OBJECT)
def labels_are_labels(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, labels in _maps(place.thing):
        for key, value in labels.items():
            if not qualified_name(str(key)) or not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                yield (*path, key), f"{key}={value} is no label (at most 63 of A-Z, a-z, 0-9, -, _, .)"


@rule(OBJECT)
def keys_of_annotations_are_keys(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, value in _nodes(place.thing):
        if path and path[-1] == "annotations" and isinstance(value, dict) and "metadata" in path:
            for key in value:
                if not qualified_name(key):
                    yield (*path, key), f"{key!r} is no key of an annotation"


@rule(OBJECT, "Service")
def the_type_of_a_service_exists(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    if (kind := place.spec.get("type", "ClusterIP")) not in SERVICE_TYPES:
        yield ("spec", "type"), f"{kind!r} is none of {', '.join(SERVICE_TYPES)}"


@rule(OBJECT, "NetworkPolicy")
def blocks_of_addresses_are_networks(place: Place) -> Found:
    """Kubernetes API validation (apimachinery/pkg/util/validation, apis/core/validation)."""
    for path, block in _nodes(place.thing):
        if path and path[-1] == "ipBlock" and isinstance(block, dict):
            outer = _network(block.get("cidr"))
            if outer is None:
                yield (*path, "cidr"), f"{block.get('cidr')!r} is no network such as 10.0.0.0/8"
            for index, text in enumerate(block.get("except") or []):
                inner = _network(text)
                if inner is None or (outer is not None and not inner.subnet_of(outer)):  # type: ignore[arg-type]
                    yield (*path, "except", index), f"{text!r} lies not in {block.get('cidr')}"


@rule(OBJECT)
def values_of_known_annotations_exist(place: Place) -> Found:
    """kubernetes: annotations of Ray, Kueue, Karpenter and the autoscaler that hold fixed words."""
    for path, value in _nodes(place.thing):
        if path and path[-1] == "annotations" and isinstance(value, dict):
            for key, words in ANNOTATIONS.items():
                if key in value and value[key] not in words:
                    yield (*path, key), f"{value[key]!r} is none of {', '.join(words)}"


@rule(OBJECT)
def keys_of_labels_and_annotations_are_known(place: Place) -> Found:
    """Ours and the operators': labels and annotations are free maps, so a slip passes every schema.

    Keys of our own domain and of the operators we use are known by name.
    """
    for path, value in _nodes(place.thing):
        if not path or path[-1] not in (*LABEL_MAPS, "annotations") or not isinstance(value, dict):
            continue
        for key in value:
            if not isinstance(value[key], dict | list) and not _known_key(key) and path[-1] != "nodeLabels":
                yield (*path, key), f"no label or annotation {key!r} that anybody reads"


@rule(OBJECT)
def values_of_our_labels_exist(place: Place) -> Found:
    """Ours: policies, budgets and monitors select by these labels, and a slip selects nothing."""
    for path, value in _nodes(place.thing):
        if path and path[-1] in OUR_LABELS and isinstance(value, str) and value not in OUR_LABELS[str(path[-1])]:
            yield path, f"{value!r} is none of {', '.join(OUR_LABELS[str(path[-1])])}"
        if isinstance(value, dict) and value.get("key") in OUR_LABELS and isinstance(value.get("values"), list):
            for index, one in enumerate(value["values"]):
                if one not in OUR_LABELS[value["key"]]:
                    yield (*path, "values", index), f"{one!r} is none of {', '.join(OUR_LABELS[value['key']])}"


STAGES = "crawl caption autoencoder latents train generate report pipeline refresh serve cluster"
OUR_LABELS = {
    "emoji-ldm/stage": tuple(STAGES.split()),
    "emoji-ldm/role": ("head", "worker", "submitter"),
    "emoji-ldm/pool": ("cpu", "browser", "gpu-on-demand", "gpu-spot"),
    "emoji-ldm/internet": ("true",),
    "emoji-ldm/submit": ("true",),
    "app.kubernetes.io/part-of": ("emoji-ldm",),
}
ANNOTATIONS = {
    "kueue.x-k8s.io/elastic-job": ("true", "false"),
    "karpenter.sh/do-not-disrupt": ("true", "false"),
    "cluster-autoscaler.kubernetes.io/safe-to-evict": ("true", "false"),
}
KEYS_TEXT = """
emoji-ldm/stage emoji-ldm/role emoji-ldm/submit emoji-ldm/pool emoji-ldm/internet emoji-ldm/spot emoji-ldm/local-images
ray.io/cluster ray.io/node-type ray.io/group ray.io/is-ray-node ray.io/serve ray.io/initializing-timeout
ray.io/originated-from-crd ray.io/originated-from-cr-name ray.io/identifier ray.io/overwrite-container-cmd
kueue.x-k8s.io/queue-name kueue.x-k8s.io/priority-class kueue.x-k8s.io/elastic-job kueue.x-k8s.io/podset-required-
topology kueue.x-k8s.io/podset-preferred-topology kueue.x-k8s.io/podset-unconstrained-topology
kueue.x-k8s.io/podset-group-name kueue.x-k8s.io/max-exec-time-seconds karpenter.sh/do-not-disrupt
karpenter.sh/capacity-type karpenter.sh/nodepool karpenter.sh/discovery karpenter.k8s.aws/instance-gpu-count
karpenter.k8s.aws/instance-family karpenter.k8s.aws/instance-size karpenter.k8s.aws/instance-category
karpenter.k8s.aws/instance-generation karpenter.k8s.aws/instance-gpu-name karpenter.k8s.aws/instance-cpu
karpenter.k8s.aws/instance-memory karpenter.k8s.aws/ec2nodeclass app.kubernetes.io/name app.kubernetes.io/part-of
app.kubernetes.io/component app.kubernetes.io/instance app.kubernetes.io/version app.kubernetes.io/managed-by
app.kubernetes.io/created-by kubernetes.io/metadata.name kubernetes.io/hostname kubernetes.io/arch kubernetes.io/os
kubernetes.io/description node.kubernetes.io/instance-type topology.kubernetes.io/zone topology.kubernetes.io/region
pod-security.kubernetes.io/enforce pod-security.kubernetes.io/enforce-version pod-security.kubernetes.io/warn pod-
security.kubernetes.io/warn-version pod-security.kubernetes.io/audit pod-security.kubernetes.io/audit-version
cluster-autoscaler.kubernetes.io/safe-to-evict nvidia.com/gpu.present nvidia.com/gpu.product nvidia.com/gpu
eks.amazonaws.com/role-arn batch.kubernetes.io/job-name
"""
KEYS = frozenset(KEYS_TEXT.split())
PLAIN_KEYS_TEXT = """
k8s-app app control-plane release heritage component run team cost-center severity page grafana_dashboard
grafana_folder alert runbook_url summary description owner stage job-name tier prometheus role name
"""
PLAIN_KEYS = frozenset(PLAIN_KEYS_TEXT.split())


def _known_key(key: str) -> bool:
    return key in KEYS or key in PLAIN_KEYS


def _words(path: Path) -> tuple[str, ...] | None:
    """The words of a field, found by its name or by that of the field around it and its own."""
    if _inside(path, (*FREE, *LABEL_MAPS, *QUANTITIES)):
        return None
    names = [step for step in path if isinstance(step, str)]
    return WORDS.get(".".join(names[-2:])) or WORDS.get(names[-1])


def _is_quantity(path: Path) -> bool:
    around = path[-2] if len(path) > 1 else ""
    plain = around in QUANTITIES and "resources" in path
    return (plain or path[-1] in QUANTITY_FIELDS or (around == "limits" and "NodePool" not in path)) and not _inside(
        path, FREE
    )


def _duration(text: str) -> float | None:
    return duration_s(text.replace("d", "h").replace("w", "h").replace("y", "h"))  # Prometheus knows longer units


def _network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError:
        return None


def _inside(path: Path, names: tuple[str, ...]) -> bool:
    return any(step in names for step in path[:-1])


def _leaves(thing: Any) -> Iterator[tuple[Path, Any]]:
    """Every plain value with its path; for values in lists, the path ends with the name of the list."""
    for path, value in _nodes(thing):
        if not isinstance(value, dict | list) and value is not None:
            yield (path[:-1] if isinstance(path[-1], int) else path), value


def _maps(thing: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every map of labels."""
    for path, value in _nodes(thing):
        if not isinstance(value, dict) or not path or path[-1] not in LABEL_MAPS:
            continue
        if path[-1] == "selector" and any(isinstance(item, dict | list) for item in value.values()):
            continue  # a label selector, not the plain one of a Service
        if "headGroupSpec" in path or "workerGroupSpecs" in path or not _inside(path, FREE):
            yield path, value


def _nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield path, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _nodes(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(item, (*path, index))
