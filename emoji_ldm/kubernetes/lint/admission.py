"""What an overlay's own ValidatingAdmissionPolicies would refuse of the overlay's own objects.

The API server asks them of every object that is sent to it, and of the Pods that operators make of those; so does this.
CEL as in https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/.
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

    A policy that cannot be evaluated would refuse everything that it is about: it is named itself.
    """
    objects = list(objects)
    policies = bound(objects)
    spaces = {obj["metadata"]["name"]: obj for obj in objects if obj.get("kind") == "Namespace"}
    for obj in objects:
        space = spaces.get(obj["metadata"].get("namespace", ""), {"metadata": {}})
        for policy in policies:
            yield from _told(policy, obj, obj, "", space)
    for pod in pods(objects):
        space = spaces.get(pod.namespace, {"metadata": {}})
        for policy in policies:
            yield from _told(policy, pod.source_object, as_object(pod), f"{pod.role}: ", space)


def _told(
    policy: KubeObject, owner: KubeObject, obj: KubeObject, role: str, space: KubeObject
) -> Iterator[tuple[KubeObject, str]]:
    try:
        for text in refused(policy, obj, space):
            yield owner, f"{role}{text}"
    except ValueError as error:
        yield policy, f"cannot be evaluated, so it refuses whatever it is about: {' '.join(str(error).split())}"


def bound(objects: Iterable[KubeObject]) -> list[KubeObject]:
    """The policies that a binding turns on and makes refuse; one without would do nothing, or only warn."""
    objects = list(objects)
    bindings = [obj["spec"] for obj in objects if obj.get("kind") == f"{POLICY}Binding"]
    names = {spec["policyName"] for spec in bindings if "Deny" in spec.get("validationActions", ["Deny"])}
    return [obj for obj in objects if obj.get("kind") == POLICY and obj["metadata"]["name"] in names]


def as_object(pod: ExpandedPod) -> KubeObject:
    """The Pod as the API server gets it."""
    metadata = {**(pod.template.get("metadata") or {}), "namespace": pod.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}


def refused(policy: KubeObject, obj: KubeObject, namespace: KubeObject) -> list[str]:
    """The messages with which a policy refuses an object; [] if it lets it pass, or is not about it.

    Raises:
        ValueError: An expression cannot be evaluated; the API server would refuse the object (failurePolicy Fail).
    """
    spec = policy["spec"]
    if not _about(spec.get("matchConstraints", {}).get("resourceRules", []), obj):
        return []
    known: dict[str, Any] = {"object": obj, "namespaceObject": namespace, "variables": {}}
    if not all(evaluate(condition["expression"], known) for condition in spec.get("matchConditions", [])):
        return []
    for variable in spec.get("variables", []):
        known["variables"][variable["name"]] = evaluate(variable["expression"], known)
    return [_message(rule, known) for rule in spec["validations"] if evaluate(rule["expression"], known) is not True]


def _message(rule: KubeObject, known: dict[str, Any]) -> str:
    said = rule.get("messageExpression")
    return str(evaluate(said, known) if said else rule.get("message") or f"failed expression: {rule['expression']}")


def _about(rules: list[KubeObject], obj: KubeObject) -> bool:
    """Whether some rule is for the making of such an object."""
    group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
    wanted = {"apiGroups": group, "apiVersions": version, "resources": _plural(str(obj.get("kind"))),
              "operations": "CREATE"}  # fmt: skip
    return any(all({word, "*", "*/*"} & set(rule.get(key, ["*"])) for key, word in wanted.items()) for rule in rules)


def _plural(kind: str) -> str:
    """The resource of a kind, such as networkpolicies."""
    word = kind.lower()
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word if word == "endpoints" else f"{word}es" if word.endswith("s") else f"{word}s"


def evaluate(expression: str, known: dict[str, Any]) -> Any:
    """The value of a CEL expression.

    Raises:
        ValueError: It does not compile, or names what is not there.
    """
    try:
        return _compiled(expression).execute(cel.Context(variables=known))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{' '.join(expression.split())}: {error}") from None


@functools.cache
def _compiled(expression: str) -> cel.Program:
    return cel.compile(expression)
