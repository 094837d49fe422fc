"""Checks before an installation: the operators that an overlay needs are installed and ready."""

from __future__ import annotations

from typing import Any

import yaml

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes import diagnostics
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.overlay import Overlay

# The chart in k8s/versions.yaml that installs the kinds of an API group.
CHARTS = {
    "ray.io": "kuberay-operator", "kueue.x-k8s.io": "kueue", "monitoring.coreos.com": "kube-prometheus-stack",
    "gateway.networking.k8s.io": "envoy-gateway", "gateway.envoyproxy.io": "envoy-gateway",
    "cert-manager.io": "cert-manager", "karpenter.sh": "karpenter", "karpenter.k8s.aws": "karpenter",
}  # fmt: skip
KUBERAY = "kuberay-operator"
INCREMENTAL_UPGRADE = "NewClusterWithIncrementalUpgrade"


def check_operators(overlay: Overlay, known: dict[tuple[str, str], str]) -> list[str]:
    """The names of the charts that the overlay needs; the cluster serves all their kinds.

    Args:
        overlay: The overlay to install.
        known: The kinds that the cluster serves, as `Kubectl.api_resources`.

    Raises:
        ClusterError: A kind is missing; the message contains the commands that install its operator.
    """
    charts, required = read_charts(overlay), _required_kinds(overlay)
    missing = sorted(required - set(known))
    missing_charts = list(dict.fromkeys(chart_of(version) for version, _ in missing))
    if missing:
        kinds = ", ".join(sorted({kind for _, kind in missing}))
        # In the order of the file, since some charts need others: Kueue's webhooks, for example, take certificates from
        # cert-manager.
        commands = "; ".join(
            install_command(name, charts, overlay.namespace) for name in charts if name in missing_charts
        )
        # Kinds that a site adds, such as ExternalSecret, belong to operators that this project does not know.
        other = ", ".join(sorted({version for version, _ in missing if _is_foreign(version)}))
        hint = f"install what serves {other}, of which k8s/versions.yaml has no chart" if other else ""
        remedy = "; ".join(filter(None, (commands, hint)))
        remedy = remedy or "is this cluster new enough? k8s/versions.yaml names the version of Kubernetes"
        raise ClusterError(f"the cluster does not serve {kinds}; install their operator, then run this again: {remedy}")
    used = {chart_of(version) for version, _ in required}
    return [name for name in charts if name in used]


def missing_kinds(overlay: Overlay, known: dict[tuple[str, str], str]) -> dict[str, list[str]]:
    """The kinds that the cluster does not serve, by chart, for every chart that the overlay needs.

    Kinds that belong to Kubernetes itself, which only a newer version brings, are below "".
    """
    found: dict[str, list[str]] = {}
    for version, kind in sorted(_required_kinds(overlay)):
        absent = found.setdefault(chart_of(version), [])
        if (version, kind) not in known:
            absent.append(kind)
    return found


def chart_of(api_version: str) -> str:
    """The chart that installs the kinds of an API version; "" for those of Kubernetes itself."""
    return CHARTS.get(api_version.partition("/")[0], "")


def _is_foreign(api_version: str) -> bool:
    """Whether an API version is neither Kubernetes' own nor that of a chart of this project."""
    group = api_version.partition("/")[0]
    return "." in group and not group.endswith(".k8s.io") and not chart_of(api_version)


def _required_kinds(overlay: Overlay) -> set[tuple[str, str]]:
    required = {(str(obj["apiVersion"]), str(obj["kind"])) for obj in overlay.objects}
    if any(uses_gateway(obj) for obj in overlay.of_kinds("RayService")):
        # KubeRay creates these objects itself during an upgrade, so no manifest names their kinds. Without them the
        # first upgrade would fail long after the installation.
        required |= {("gateway.networking.k8s.io/v1", kind) for kind in ("Gateway", "HTTPRoute")}
    return required


def install_command(name: str, charts: dict[str, Any], namespace: str) -> str:
    """The command that installs an operator at its pinned version, with the values of infra/helm.

    KubeRay looks at the namespaces that its values list and at no other.
    """
    chart = charts[name]
    repo = f" --repo {chart['repo']}" if "repo" in chart else ""
    watched = f" --set 'watchNamespace={{{namespace}}}'" if name == KUBERAY and namespace != NAMESPACE else ""
    return (f"helm upgrade --install {name} {chart['chart']}{repo} --version {chart['version']} "
            f"--namespace {chart['namespace']} --create-namespace -f infra/helm/{name}.yaml{watched}")  # fmt: skip


def operators_not_ready(kubectl: Kubectl, overlay: Overlay, names: list[str]) -> str:
    """The first operator that is not available, and why; "" if all are, or if their Pods may not be listed."""
    charts = read_charts(overlay)
    for name in names:
        namespace = charts[name]["namespace"]
        objects = kubectl.list_in_namespace("deployments.apps,pods", namespace)
        for obj in objects:
            if obj["kind"] == "Deployment" and not diagnostics.is_condition_true(obj, "Available"):
                pods = [pod for pod in objects if pod["kind"] == "Pod"]
                why = diagnostics.pods_reason(pods) or "none of its Pods is ready"
                return f"{obj['metadata']['name']} in namespace {namespace}: {why}"
    return ""


def read_charts(overlay: Overlay) -> dict[str, Any]:
    """The chart of every operator by name, in the order of installation."""
    return dict(yaml.safe_load((overlay.folder / "versions.yaml").read_text(encoding="utf-8"))["charts"])


def uses_gateway(obj: KubeObject) -> bool:
    """Whether KubeRay creates a Gateway for a RayService, although no manifest contains one."""
    return bool(((obj.get("spec") or {}).get("upgradeStrategy") or {}).get("type") == INCREMENTAL_UPGRADE)
