"""Kubernetes' matching rules: label selectors match Pods, tolerations match taints, and Pods fit Kueue's flavors."""

from __future__ import annotations

from collections.abc import Mapping

from emoji_ldm.kubernetes.lint.rendering import KubeObject


def selects(selector: KubeObject, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) matches; the empty selector matches everything."""
    exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_expression_matches(entry, labels) for entry in selector.get("matchExpressions") or [])


def _expression_matches(entry: KubeObject, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(entry["key"]), entry.get("values") or []
    if entry["operator"] in ("In", "NotIn"):
        # As in Kubernetes, NotIn also matches objects that do not carry the label at all.
        return bool((value in values) == (entry["operator"] == "In"))
    return bool((value is not None) == (entry["operator"] == "Exists"))


def tolerates(toleration: KubeObject, taint: KubeObject) -> bool:
    """Whether a toleration matches a taint (Kubernetes core v1, `ToleratesTaint`)."""
    # An empty effect or key of a toleration matches every effect or key. The operator is Equal unless it says
    # otherwise, and a taint without a value equals a toleration without one.
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def fits_flavor(pod_spec: KubeObject, flavor: KubeObject) -> bool:
    """Whether a Pod may run on the nodes of a ResourceFlavor (its spec), which adds tolerations of its own."""
    labels, selector = flavor.get("nodeLabels") or {}, pod_spec.get("nodeSelector") or {}
    tolerations = [*(pod_spec.get("tolerations") or []), *(flavor.get("tolerations") or [])]
    # A label that the flavor does not mention is no conflict: Kueue knows only the labels that the flavor lists.
    conflict = any(labels.get(key, value) != value for key, value in selector.items())
    return not conflict and all(
        any(tolerates(one, taint) for one in tolerations) for taint in flavor.get("nodeTaints") or []
    )
