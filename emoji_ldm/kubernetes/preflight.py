"""What an overlay needs of its cluster, and the command that installs what is missing."""

from __future__ import annotations

from typing import Any

import yaml

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes import diagnostics
from emoji_ldm.kubernetes.kubectl import Kubectl, KubeObject
from emoji_ldm.kubernetes.overlay import Overlay

# Who brings the kinds of an API group: names of charts in k8s/versions.yaml.
CHARTS = {
    "ray.io": "kuberay-operator", "kueue.x-k8s.io": "kueue", "monitoring.coreos.com": "kube-prometheus-stack",
    "gateway.networking.k8s.io": "envoy-gateway", "gateway.envoyproxy.io": "envoy-gateway",
    "cert-manager.io": "cert-manager", "karpenter.sh": "karpenter", "karpenter.k8s.aws": "karpenter",
}  # fmt: skip
INCREMENTAL_UPGRADE = "NewClusterWithIncrementalUpgrade"


def check_operators(overlay: Overlay, known: dict[tuple[str, str], str]) -> list[str]:
    """Names of the charts that the overlay builds on; all their kinds are known to the cluster.

    Args:
        overlay: What is to be installed.
        known: The kinds that the cluster knows, as `Kubectl.kinds`.

    Raises:
        ClusterError: A kind is missing; the text names the commands that install what brings it.
    """
    charts = _charts(overlay)
    wanted = {(str(obj["apiVersion"]), str(obj["kind"])) for obj in overlay.objects}
    if any(_uses_gateway(obj) for obj in overlay.of_kinds("RayService")):
        wanted |= {("gateway.networking.k8s.io/v1", kind) for kind in ("Gateway", "HTTPRoute")}
    missing = sorted(wanted - set(known))
    lacking = list(dict.fromkeys(CHARTS.get(version.partition("/")[0], "") for version, _ in missing))
    if missing:
        kinds = ", ".join(sorted({kind for _, kind in missing}))
        commands = "; ".join(install_command(name, charts) for name in charts if name in lacking)
        remedy = commands or "is this cluster new enough? k8s/versions.yaml names the version of Kubernetes"
        raise ClusterError(
            f"the cluster does not know {kinds}; install what brings them, then run this again: {remedy}"
        )
    used = {CHARTS.get(version.partition("/")[0]) for version, _ in wanted}
    return [name for name in charts if name in used]


def install_command(name: str, charts: dict[str, Any]) -> str:
    """The command that installs an operator at its pinned version with our values."""
    chart = charts[name]
    repo = f" --repo {chart['repo']}" if "repo" in chart else ""
    return (f"helm upgrade --install {name} {chart['chart']}{repo} --version {chart['version']} "
            f"--namespace {chart['namespace']} --create-namespace -f infra/helm/{name}.yaml")  # fmt: skip


def operators_not_ready(kubectl: Kubectl, overlay: Overlay, names: list[str]) -> str:
    """Which of the operators has no running Pod, and why; "" if all run or may not be looked at."""
    charts = _charts(overlay)
    for name in names:
        place = charts[name]["namespace"]
        objects = kubectl.list_in_namespace("deployments.apps,pods", place)
        for obj in objects:
            if obj["kind"] == "Deployment" and not diagnostics.is_condition_true(obj, "Available"):
                pods = [pod for pod in objects if pod["kind"] == "Pod"]
                why = diagnostics.pods_reason(pods) or "no Pod of it is ready"
                return f"{obj['metadata']['name']} in namespace {place}: {why}"
    return ""


def _charts(overlay: Overlay) -> dict[str, Any]:
    """Name -> chart of every operator, in the order in which they are installed."""
    return dict(yaml.safe_load((overlay.folder / "versions.yaml").read_text(encoding="utf-8"))["charts"])


def _uses_gateway(obj: KubeObject) -> bool:
    """Whether a RayService moves its traffic through a Gateway, which no object of ours need name."""
    return bool(((obj.get("spec") or {}).get("upgradeStrategy") or {}).get("type") == INCREMENTAL_UPGRADE)
