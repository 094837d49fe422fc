"""The registry of rules: a rule is a generator function over one target, and yields what is wrong there.

The name of the function states what must hold, its docstring names who demands it (an operator's source file, the API,
or a convention of this project). Its scope decides what it is called with: whole objects, Ray clusters, their groups,
RayJob specs, Pods, or containers, wherever these occur inside any kind of object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, FieldPath, ray_job, ray_part
from emoji_ldm.kubernetes.lint.rendering import KubeObject

Violations = Iterator[tuple[FieldPath, str]]  # paths are relative to the value of the target

OBJECT, CLUSTER, GROUP, JOB, POD, CONTAINER = "object", "cluster", "group", "job", "pod", "container"


@dataclass(frozen=True)
class RuleTarget:
    """One part of an object that rules inspect, with its path and all that surrounds it."""

    object: KubeObject
    context: LintContext
    path: FieldPath  # of `value` in the object
    value: KubeObject
    pod: ExpandedPod | None = None  # for Pods and containers
    cluster: KubeObject | None = None  # for everything inside a Ray kind

    @property
    def kind(self) -> str:
        return str(self.object["kind"])

    @property
    def spec(self) -> KubeObject:
        return self.object.get("spec") or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.object["metadata"].get("annotations") or {}

    @property
    def labels(self) -> dict[str, str]:
        return self.object["metadata"].get("labels") or {}

    @property
    def injected(self) -> bool:
        """Whether an operator adds this container, so that no manifest contains it."""
        return self.pod is not None and self.value.get("name") in self.pod.injected


@dataclass(frozen=True)
class Rule:
    """One rule: what must hold, who demands it, and the kinds it applies to (all if `kinds` is empty)."""

    name: str
    source: str
    scope: str
    kinds: tuple[str, ...]
    find: Callable[[RuleTarget], Violations]


# Rules register themselves when their module is imported, so that adding one means to write one function. A test
# demands a failing and a passing example for every name in this registry.
RULES: dict[str, Rule] = {}


def rule(scope: str, *kinds: str) -> Callable[[Callable[[RuleTarget], Violations]], Callable[[RuleTarget], Violations]]:
    """Register a function as a rule for a scope, for objects of some kinds only if any are named."""

    def register(find: Callable[[RuleTarget], Violations]) -> Callable[[RuleTarget], Violations]:
        name = find.__name__.replace("_", " ")
        assert name not in RULES, name
        RULES[name] = Rule(name, find.__doc__ or "", scope, kinds, find)
        return find

    return register


def rule_targets(obj: KubeObject, context: LintContext, pods: list[ExpandedPod]) -> Iterator[tuple[str, RuleTarget]]:
    """Every target of an object, with its scope; `pods` are the Pods of this object."""
    yield OBJECT, RuleTarget(obj, context, (), obj)
    part = ray_part(obj)
    cluster = part[1] if part else None
    if part and cluster is not None:
        yield CLUSTER, RuleTarget(obj, context, part[0], cluster, None, cluster)
        # The head is a group like the others for most rules of KubeRay, but not an item of the list of worker groups.
        yield GROUP, RuleTarget(obj, context, (*part[0], "headGroupSpec"), cluster["headGroupSpec"], None, cluster)
        for index, group in enumerate(cluster.get("workerGroupSpecs") or []):
            yield GROUP, RuleTarget(obj, context, (*part[0], "workerGroupSpecs", index), group, None, cluster)
    if job := ray_job(obj):
        yield JOB, RuleTarget(obj, context, job[0], job[1], None, cluster)
    for pod in pods:
        yield POD, RuleTarget(obj, context, pod.path, pod.template, pod, cluster)
        for path, container in pod.container_paths():
            yield CONTAINER, RuleTarget(obj, context, path, container, pod, cluster)


def env(container: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The entry of an environment variable of a container; None if it is not set."""
    return next((item for item in container.get("env") or [] if item.get("name") == name), None)


def head_container(cluster: KubeObject) -> KubeObject:
    """The Ray container of the head, which is its first; {} if there is none."""
    containers = cluster["headGroupSpec"]["template"].get("spec", {}).get("containers") or [{}]
    first: KubeObject = containers[0]
    return first


def autoscaled(cluster: KubeObject | None) -> bool:
    """Whether the operator adds the autoscaler to the head."""
    return bool(cluster and cluster.get("enableInTreeAutoscaling"))


def version_of(text: object) -> tuple[int, ...] | None:
    """A version such as 2.60.0 as numbers; None if the text is not a version."""
    parts = str(text).split(".")
    # A development version such as 3.0.0.dev0 has no place in the order of releases, so it yields None.
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None
