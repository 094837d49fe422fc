"""How the operators of a cluster must be set for an overlay: an operator that ignores an object does not say so.

KubeRay acts on RayCronJobs and on upgrades in steps only with a feature gate, and looks only at the namespaces that it
was told. Kueue admits jobs only of namespaces that its configuration selects. Both are read where the charts write
them: the arguments of KubeRay's Deployment, and the ConfigMap of Kueue's manager.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.lint.selectors import selects
from emoji_ldm.kubernetes.operator_check import KUBERAY, read_charts, uses_gateway
from emoji_ldm.kubernetes.overlay import Overlay

KUEUE_CONFIG = "controller_manager_config.yaml"


def settings_problems(kubectl: Kubectl, overlay: Overlay, chart: str) -> Iterator[str]:
    """What is wrong with the settings of an operator for this overlay; nothing if they may not be read."""
    namespace = read_charts(overlay)[chart]["namespace"]
    if chart == KUBERAY:
        for deployment in kubectl.list_in_namespace("deployments.apps", namespace):
            containers = deployment["spec"]["template"]["spec"]["containers"]
            arguments = " ".join(word for one in containers for word in (*one.get("command", ()), *one.get("args", ())))
            if "kuberay" in deployment["metadata"]["name"]:
                yield from _kuberay_problems(arguments, overlay)
    elif chart == "kueue":
        for config_map in kubectl.list_in_namespace("configmaps", namespace):
            if text := (config_map.get("data") or {}).get(KUEUE_CONFIG):
                yield from _kueue_problems(yaml.safe_load(text) or {}, overlay)


def _kuberay_problems(arguments: str, overlay: Overlay) -> Iterator[str]:
    found = re.search(r"--feature-gates=(\S+)", arguments)
    gates = dict(gate.partition("=")[::2] for gate in found[1].split(",")) if found else {}
    needed = [("RayCronJob", bool(overlay.of_kinds("RayCronJob"))),
              ("RayServiceIncrementalUpgrade", any(map(uses_gateway, overlay.of_kinds("RayService"))))]  # fmt: skip
    for gate in (gate for gate, is_needed in needed if is_needed and gates.get(gate) != "true"):
        yield f"its feature gate {gate} is off: set it in featureGates of infra/helm/{KUBERAY}.yaml"
    watched = re.search(r"--watch-namespace=(\S*)", arguments)
    if watched and watched[1] and overlay.namespace not in watched[1].strip("\"'").split(","):
        yield f"it does not watch namespace {overlay.namespace}: add it to watchNamespace of infra/helm/{KUBERAY}.yaml"


def _kueue_problems(config: dict[str, Any], overlay: Overlay) -> Iterator[str]:
    frameworks = (config.get("integrations") or {}).get("frameworks") or []
    if "ray.io/rayjob" not in frameworks:
        yield "it does not queue RayJobs: add ray.io/rayjob to the frameworks of infra/helm/kueue.yaml"
    selector = config.get("managedJobsNamespaceSelector")
    for space in overlay.of_kinds("Namespace"):
        labels = {**(space["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": space["metadata"]["name"]}
        if selector and not selects(selector, labels):
            yield f"managedJobsNamespaceSelector does not select namespace {space['metadata']['name']}"
