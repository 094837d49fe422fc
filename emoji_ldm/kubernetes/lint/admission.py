"""Evaluates an overlay's own ValidatingAdmissionPolicies on the overlay's own objects.

The API server evaluates these policies for every object that is created, including the Pods that operators create from
custom objects. This module does the same offline: it expands objects to Pods, matches each against the policies that a
binding enforces, and evaluates their CEL expressions.
Source: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import cel

from emoji_ldm.kubernetes.lint.pods import ExpandedPod, pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject

POLICY = "ValidatingAdmissionPolicy"


def refusals(objects: Iterable[KubeObject]) -> Iterator[tuple[KubeObject, str]]:
    """Each object that would be refused, or whose Pods would be, with the policy's message.

    A policy that cannot be evaluated would refuse everything that it matches, so it is itself reported.
    """
    # The objects themselves come first, then the Pods that controllers will create from them. A policy on Pods never
    # sees a RayJob, and its author would learn only on the cluster that the head of every job is refused.
    objects = list(objects)
    policies = enforced_policies(objects)
    namespaces = {obj["metadata"]["name"]: obj for obj in objects if obj.get("kind") == "Namespace"}
    for obj in objects:
        # A policy may read the labels of the namespace. If the overlay does not contain it, an empty one stands in.
        namespace = namespaces.get(obj["metadata"].get("namespace", ""), {"metadata": {}})
        for policy in policies:
            yield from _reported(policy, obj, obj, "", namespace)
    for pod in pods(objects):
        namespace = namespaces.get(pod.namespace, {"metadata": {}})
        for policy in policies:
            yield from _reported(policy, pod.source_object, as_object(pod), f"{pod.role}: ", namespace)


def _reported(
    policy: KubeObject, owner: KubeObject, obj: KubeObject, role: str, namespace: KubeObject
) -> Iterator[tuple[KubeObject, str]]:
    try:
        for text in refusal_messages(policy, obj, namespace):
            yield owner, f"{role}{text}"
    except ValueError as error:
        yield policy, f"cannot be evaluated, so it refuses everything that it matches: {' '.join(str(error).split())}"


def enforced_policies(objects: Iterable[KubeObject]) -> list[KubeObject]:
    """The policies that a binding enforces with Deny; without a binding, or with Warn or Audit, nothing is refused."""
    # An unset validationActions is treated as Deny, the stricter reading, because the schema already demands the field.
    objects = list(objects)
    bindings = [obj["spec"] for obj in objects if obj.get("kind") == f"{POLICY}Binding"]
    names = {spec["policyName"] for spec in bindings if "Deny" in spec.get("validationActions", ["Deny"])}
    return [obj for obj in objects if obj.get("kind") == POLICY and obj["metadata"]["name"] in names]


def as_object(pod: ExpandedPod) -> KubeObject:
    """The Pod as the API server receives it from a controller."""
    metadata = {**(pod.template.get("metadata") or {}), "namespace": pod.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}


def refusal_messages(policy: KubeObject, obj: KubeObject, namespace: KubeObject) -> list[str]:
    """The messages with which a policy refuses an object; [] if it accepts it or does not match it.

    Raises:
        ValueError: An expression cannot be evaluated; with failurePolicy Fail the API server refuses the object.
    """
    spec = policy["spec"]
    # The order is that of the API server: resource rules, then match conditions, then variables, which later variables
    # and the validations may read. Namespace selectors of bindings are not evaluated, so objects of every namespace are
    # judged.
    if not _matches(spec.get("matchConstraints", {}).get("resourceRules", []), obj):
        return []
    known: dict[str, Any] = {"object": obj, "namespaceObject": namespace, "variables": {}}
    if not all(evaluate(condition["expression"], known) for condition in spec.get("matchConditions", [])):
        return []
    for variable in spec.get("variables", []):
        known["variables"][variable["name"]] = evaluate(variable["expression"], known)
    # Anything but true refuses, as in the API server: an expression that yields no boolean must not let an object pass.
    return [_message(rule, known) for rule in spec["validations"] if evaluate(rule["expression"], known) is not True]


def _message(rule: KubeObject, known: dict[str, Any]) -> str:
    expression = rule.get("messageExpression")
    return str(
        evaluate(expression, known) if expression else rule.get("message") or f"failed expression: {rule['expression']}"
    )


def _matches(rules: list[KubeObject], obj: KubeObject) -> bool:
    """Whether a resource rule covers the creation of such an object."""
    group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
    request = {"apiGroups": group, "apiVersions": version, "resources": _plural(str(obj.get("kind"))),
               "operations": "CREATE"}  # fmt: skip
    return any(all({word, "*", "*/*"} & set(rule.get(key, ["*"])) for key, word in request.items()) for rule in rules)


def _plural(kind: str) -> str:
    """The resource name of a kind, such as networkpolicies; policies match resources, objects state kinds."""
    word = kind.lower()
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word if word == "endpoints" else f"{word}es" if word.endswith("s") else f"{word}s"


def evaluate(expression: str, known: dict[str, Any]) -> Any:
    """The value of a CEL expression.

    Raises:
        ValueError: It does not compile, or refers to a field or variable that does not exist.
    """
    # The package raises a different error for each cause: an unknown name, a wrong type, a failed evaluation.
    try:
        return _compiled(expression).execute(cel.Context(variables=known))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{' '.join(expression.split())}: {error}") from None


# Compiling costs more than evaluating, and every policy is evaluated for every object and Pod of the overlay.
@functools.cache
def _compiled(expression: str) -> cel.Program:
    return cel.compile(expression)
