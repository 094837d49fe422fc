"""What a rule is: a small function that looks at one target of one object and tells what is wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, FieldPath, ray_job, ray_part
from emoji_ldm.kubernetes.lint.rendering import KubeObject

Violations = Iterator[tuple[FieldPath, str]]  # paths as seen from the part of the target

OBJECT, CLUSTER, GROUP, JOB, POD, CONTAINER = "object", "cluster", "group", "job", "pod", "container"


@dataclass(frozen=True)
class RuleTarget:
    """One target that rules look at: the part, where it lies, and everything around it."""

    object: KubeObject
    context: LintContext
    path: FieldPath  # of the part in the object
    value: KubeObject
    pod: ExpandedPod | None = None  # for pods and containers
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
        """Whether an operator adds this container."""
        return self.pod is not None and self.value.get("name") in self.pod.injected


@dataclass(frozen=True)
class Rule:
    """One rule, where it comes from, and the kinds it is about (all, if none are named)."""

    name: str
    source: str
    scope: str
    kinds: tuple[str, ...]
    find: Callable[[RuleTarget], Violations]


RULES: dict[str, Rule] = {}


def rule(scope: str, *kinds: str) -> Callable[[Callable[[RuleTarget], Violations]], Callable[[RuleTarget], Violations]]:
    """Register a function as a rule: its name says what must hold, its docstring who demands it."""

    def register(find: Callable[[RuleTarget], Violations]) -> Callable[[RuleTarget], Violations]:
        name = find.__name__.replace("_", " ")
        assert name not in RULES, name
        RULES[name] = Rule(name, find.__doc__ or "", scope, kinds, find)
        return find

    return register


def rule_targets(obj: KubeObject, context: LintContext, pods: list[ExpandedPod]) -> Iterator[tuple[str, RuleTarget]]:
    """Every target of an object, with its scope; `pods` are those of this object."""
    yield OBJECT, RuleTarget(obj, context, (), obj)
    part = ray_part(obj)
    cluster = part[1] if part else None
    if part and cluster is not None:
        yield CLUSTER, RuleTarget(obj, context, part[0], cluster, None, cluster)
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
    """The environment variable of a container, if it is set."""
    return next((item for item in container.get("env") or [] if item.get("name") == name), None)


def head_container(cluster: KubeObject) -> KubeObject:
    """Ray's own container of the head; {} where there is none."""
    containers = cluster["headGroupSpec"]["template"].get("spec", {}).get("containers") or [{}]
    first: KubeObject = containers[0]
    return first


def autoscaled(cluster: KubeObject | None) -> bool:
    """Whether the operator adds the autoscaler."""
    return bool(cluster and cluster.get("enableInTreeAutoscaling"))


def version_of(text: object) -> tuple[int, ...] | None:
    """A version such as 2.60.0 as numbers; None where it is none."""
    parts = str(text).split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None
