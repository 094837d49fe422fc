"""Rules of references between objects: Services, roles, policies, classes and monitors refer to what exists."""

from __future__ import annotations

import json
import re

from emoji_ldm.kubernetes.lint.pods import value_at
from emoji_ldm.kubernetes.lint.rules.rule import OBJECT, RuleTarget, Violations, rule
from emoji_ldm.kubernetes.lint.rules.scheduling import selected
from emoji_ldm.kubernetes.lint.schema import custom_kind
from emoji_ldm.kubernetes.lint.selectors import selects

QUOTED = r'"(?:\\.|[^"\\])*"|' r"'(?:\\.|[^'\\])*'|`[^`]*`"  # texts of PromQL
VARIABLES = ("BUCKET", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE")
LIBRARIES = ("NCCL_", "FI_", "OTEL_", "HF_", "TORCH_")  # whose variables are too many for a list


# Schemas of custom kinds state their scope, those of built-in kinds do not. These are the built-in kinds of the
# overlays that belong to no namespace; a kind that is missing here is reported as one without a namespace.
CLUSTER_WIDE = (
    "Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "StorageClass", "PersistentVolume",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
)  # fmt: skip


@rule(OBJECT)
def objects_lie_in_their_namespace(target: RuleTarget) -> Violations:
    """Kubernetes: an object without a namespace lands wherever the context points."""
    # kubectl would apply such an object to the namespace of the user's context without a word, and every reference from
    # our namespace to it would dangle.
    kind = custom_kind(str(target.object["apiVersion"]), target.kind, target.context.folder / "schemas")
    namespaced = kind.namespaced if kind else target.kind not in CLUSTER_WIDE
    name = target.object["metadata"].get("namespace")
    if namespaced and not name:
        yield ("metadata",), "metadata.namespace is missing"
    elif name and not namespaced:
        yield ("metadata", "namespace"), f"a {target.kind} belongs to no namespace"
    elif name and not target.context.has("Namespace", name) and not target.context.is_chart_namespace(name):
        yield ("metadata", "namespace"), f"no Namespace {name!r} (there are: {target.context.names('Namespace')})"


@rule(OBJECT, "ConfigMap")
def variables_of_config_maps_are_known(target: RuleTarget) -> Violations:
    """Project convention: nothing reads a misspelt variable."""
    # Only ConfigMaps that become variables as a whole (envFrom) are meant: the keys of others are names of files.
    name = target.object["metadata"]["name"]
    read = any(
        (one.get("configMapRef") or {}).get("name") == name
        for pod in target.context.pods
        for container in pod.containers
        for one in container.get("envFrom") or []
    )
    for key in target.object.get("data") or {}:
        if read and key not in VARIABLES and not key.startswith(LIBRARIES):
            yield ("data", key), f"nothing reads a variable called {key!r} (known are: {', '.join(VARIABLES)})"


@rule(OBJECT, "ConfigMap")
def boards_are_json(target: RuleTarget) -> Violations:
    """Grafana's sidecar: only files that end in .json are loaded."""
    for name, text in (target.object.get("data") or {}).items():
        if "grafana_dashboard" not in target.labels:
            continue
        try:
            valid = name.endswith(".json") and isinstance(json.loads(text), dict)
        except json.JSONDecodeError:
            valid = False
        if not valid:
            yield ("data", name), f"{name} is not a dashboard: it must be a JSON object in a file called *.json"


@rule(OBJECT, "Service")
def services_lead_to_pods(target: RuleTarget) -> Violations:
    """Kubernetes: a Service without Pods never answers."""
    selector = target.spec.get("selector")
    found = list(selected(target, {"matchLabels": selector})) if selector else []
    # KubeRay sets labels of its own on the Pods that it creates, so these cannot be looked up offline.
    by_operator = any(key.startswith("ray.io/") for key in selector or {})
    if selector and not by_operator and not found:
        yield ("spec", "selector"), "selects no Pod of this overlay"
    names = {port.get("name") for pod in found for one in pod.containers for port in one.get("ports") or []}
    for index, port in enumerate(target.spec.get("ports") or []):
        target_port = port.get("targetPort")
        if found and isinstance(target_port, str) and target_port not in names:
            yield ("spec", "ports", index, "targetPort"), f"its Pods have no port called {target_port!r}"


@rule(OBJECT, "StatefulSet")
def services_of_stateful_sets_exist(target: RuleTarget) -> Violations:
    """Kubernetes: the Pods of a StatefulSet get their DNS names from its Service."""
    # The API server does not check the reference. The Pods would start, and nobody could resolve their names.
    name = target.spec.get("serviceName")
    if name and not target.context.has("Service", name):
        yield ("spec", "serviceName"), f"no Service {name!r} (there are: {target.context.names('Service')})"


@rule(OBJECT, "RoleBinding", "ClusterRoleBinding")
def bindings_bind_what_exists(target: RuleTarget) -> Violations:
    """RBAC: a binding to nothing grants nothing."""
    # Subjects of other namespaces, and users and groups, are not part of an overlay and cannot be looked up.
    role = target.object["roleRef"]
    if not target.context.has(role["kind"], role["name"]):
        yield ("roleRef",), f"no {role['kind']} {role['name']!r}"
    for index, subject in enumerate(target.object.get("subjects") or []):
        ours = subject.get("kind") == "ServiceAccount" and subject.get("namespace", "emoji-ldm") == "emoji-ldm"
        if ours and not target.context.has("ServiceAccount", subject["name"]):
            yield ("subjects", index), f"no ServiceAccount {subject['name']!r}"


@rule(OBJECT, "ValidatingAdmissionPolicyBinding")
def policies_of_bindings_exist(target: RuleTarget) -> Violations:
    """admissionregistration/v1: a binding to nothing checks nothing."""
    name = target.spec.get("policyName")
    if not target.context.has("ValidatingAdmissionPolicy", name):
        yield ("spec", "policyName"), f"no ValidatingAdmissionPolicy {name!r}"


@rule(OBJECT, "NodePool")
def classes_of_node_pools_exist(target: RuleTarget) -> Violations:
    """Karpenter: a NodePool without its class makes no nodes."""
    reference = target.spec["template"]["spec"]["nodeClassRef"]
    if not target.context.has(reference["kind"], reference["name"]):
        yield ("spec", "template", "spec", "nodeClassRef"), f"no {reference['kind']} {reference['name']!r}"


@rule(OBJECT, "RayService")
def gateway_classes_exist(target: RuleTarget) -> Violations:
    """KubeRay: the operator makes a Gateway of this class."""
    # The API server accepts a Gateway of any class. Without a controller for the class it never gets an address, and an
    # upgrade would wait for it forever.
    path = ("spec", "upgradeStrategy", "clusterUpgradeOptions", "gatewayClassName")
    name = value_at(target.object, path)
    if name and not target.context.has("GatewayClass", name):
        yield path, f"no GatewayClass {name!r} (there are: {target.context.names('GatewayClass')})"


@rule(OBJECT, "PrometheusRule")
def expressions_of_alerts_are_closed(target: RuleTarget) -> Violations:
    """Prometheus: a group with an expression that cannot be parsed is not loaded, and no alert of it ever fires."""
    for number, group in enumerate(target.spec.get("groups") or []):
        for index, item in enumerate(group.get("rules") or []):
            # Brackets within quoted texts, such as patterns of label matchers, do not count.
            text = re.sub(QUOTED, "", str(item.get("expr", "")))
            shrunk = re.sub(r"[^()\[\]{}\"'`]", "", text)
            while (less := re.sub(r"\(\)|\[\]|\{\}", "", shrunk)) != shrunk:
                shrunk = less
            if shrunk:
                yield ("spec", "groups", number, "rules", index, "expr"), f"{shrunk[0]!r} has no counterpart"


@rule(OBJECT, "PodMonitor")
def pod_monitors_find_pods_and_ports(target: RuleTarget) -> Violations:
    """prometheus-operator: a monitor of nothing scrapes nothing."""
    # Ports are compared only if some Pod was found, so that one mistake in the selector is not reported twice.
    spec = target.spec
    found = [pod for pod in target.context.pods if selects(spec.get("selector") or {}, pod.labels)]
    if not found and not _watches_charts(target):
        yield ("spec", "selector"), "selects no Pod of this overlay"
    names = {port.get("name") for pod in found for one in pod.containers for port in one.get("ports") or []}
    for index, endpoint in enumerate(spec.get("podMetricsEndpoints") or []):
        if found and endpoint.get("port") and endpoint["port"] not in names:
            yield ("spec", "podMetricsEndpoints", index, "port"), f"these Pods have no port called {endpoint['port']!r}"


@rule(OBJECT, "ServiceMonitor")
def service_monitors_find_services_and_ports(target: RuleTarget) -> Violations:
    """prometheus-operator: a monitor of nothing scrapes nothing."""
    spec = target.spec
    services = [one for one in target.context.of_kinds("Service")
                if selects(spec.get("selector") or {}, one["metadata"].get("labels") or {})]  # fmt: skip
    if not services and not _watches_charts(target):
        yield ("spec", "selector"), "selects no Service of this overlay"
    names = {port.get("name") for one in services for port in one["spec"].get("ports") or []}
    for index, endpoint in enumerate(spec.get("endpoints") or []):
        if services and endpoint.get("port") and endpoint["port"] not in names:
            yield ("spec", "endpoints", index, "port"), f"these Services have no port called {endpoint['port']!r}"


def _watches_charts(target: RuleTarget) -> bool:
    """Whether a monitor selects namespaces of charts, whose objects are not part of the overlay."""
    names = ((target.spec.get("namespaceSelector") or {}).get("matchNames")) or []
    return bool(set(names) - {"emoji-ldm"})
