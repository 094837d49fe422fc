"""Names of an installation: its namespace, and a prefix of its objects that belong to no namespace.

Two installations on one cluster, or one on a cluster that has priority classes and queues of its own, must not own
objects of the same names. Both functions change names everywhere at once: of the objects, and in what refers to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.rendering import KubeObject

# Fields that name an object without a namespace, by the last steps of their path, and the kind of that object.
REFERENCES = {
    ("clusterQueue",): "ClusterQueue",
    ("cohortName",): "Cohort",
    ("parentName",): "Cohort",
    ("flavors", "name"): "ResourceFlavor",
    ("nodeClassRef", "name"): "EC2NodeClass",
    ("priorityClassName",): "PriorityClass",
    ("labels", "kueue.x-k8s.io/priority-class"): "WorkloadPriorityClass",
    ("policyName",): "ValidatingAdmissionPolicy",
    ("gatewayClassName",): "GatewayClass",
}


def in_namespace(objects: list[KubeObject], namespace: str) -> list[KubeObject]:
    """The objects in another namespace: their own, and those that they refer to."""
    return objects if namespace == NAMESPACE else [_moved(obj, namespace) for obj in objects]


def with_prefix(objects: list[KubeObject], prefix: str) -> list[KubeObject]:
    """The objects with a prefix before the names of those without a namespace, and before all references to them."""
    own = {(obj["kind"], obj["metadata"]["name"]) for obj in objects
           if "namespace" not in obj["metadata"] and obj["kind"] != "Namespace"}  # fmt: skip

    def renamed(obj: KubeObject) -> KubeObject:
        def rename(path: tuple[str, ...], text: str) -> str:
            kind = REFERENCES.get(path[-1:]) or REFERENCES.get(path[-2:])
            kind = obj["kind"] if path == ("metadata", "name") else kind
            return f"{prefix}-{text}" if (kind, text) in own else text

        return dict(replaced(obj, rename))

    return [renamed(obj) for obj in objects]


def _moved(obj: KubeObject, namespace: str) -> KubeObject:
    def rename(path: tuple[str, ...], text: str) -> str:
        is_reference = path[-1:] in (("namespace",), ("kubernetes.io/metadata.name",), ("matchNames",))
        if text == NAMESPACE and (is_reference or (obj["kind"] == "Namespace" and path == ("metadata", "name"))):
            return namespace
        # Expressions of Prometheus in rules, and in the JSON of dashboards.
        for quote in ('"', '\\"'):
            text = text.replace(f"namespace={quote}{NAMESPACE}{quote}", f"namespace={quote}{namespace}{quote}")
        return text

    return dict(replaced(obj, rename))


def replaced(value: Any, change: Callable[[tuple[str, ...], str], str], path: tuple[str, ...] = ()) -> Any:
    """A value whose texts were changed; `change` gets the keys that lead to a text, without positions in lists."""
    if isinstance(value, dict):
        return {key: replaced(item, change, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, change, path) for item in value]
    return change(path, value) if isinstance(value, str) else value
