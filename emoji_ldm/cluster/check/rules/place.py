"""What a rule is: a small function that looks at one place of one object and tells what is wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from emoji_ldm.cluster.check.pods import Path, Pod, ray_job, ray_part
from emoji_ldm.cluster.check.rendering import Thing
from emoji_ldm.cluster.check.world import World

Found = Iterator[tuple[Path, str]]  # paths as seen from the part of the place

OBJECT, CLUSTER, GROUP, JOB, POD, CONTAINER = "object", "cluster", "group", "job", "pod", "container"


@dataclass(frozen=True)
class Place:
    """One place that rules look at: the part, where it lies, and everything around it."""

    thing: Thing
    world: World
    path: Path  # of the part in the object
    part: Thing
    pod: Pod | None = None  # for pods and containers
    cluster: Thing | None = None  # for everything inside a Ray kind

    @property
    def kind(self) -> str:
        return str(self.thing["kind"])

    @property
    def spec(self) -> Thing:
        return self.thing.get("spec") or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.thing["metadata"].get("annotations") or {}

    @property
    def labels(self) -> dict[str, str]:
        return self.thing["metadata"].get("labels") or {}

    @property
    def injected(self) -> bool:
        """Whether an operator adds this container."""
        return self.pod is not None and self.part.get("name") in self.pod.injected


@dataclass(frozen=True)
class Rule:
    """One rule, where it comes from, and the kinds it is about (all, if none are named)."""

    name: str
    source: str
    scope: str
    kinds: tuple[str, ...]
    find: Callable[[Place], Found]


RULES: dict[str, Rule] = {}


def rule(scope: str, *kinds: str) -> Callable[[Callable[[Place], Found]], Callable[[Place], Found]]:
    """Register a function as a rule: its name says what must hold, its docstring who demands it."""

    def register(find: Callable[[Place], Found]) -> Callable[[Place], Found]:
        name = find.__name__.replace("_", " ")
        assert name not in RULES, name
        RULES[name] = Rule(name, find.__doc__ or "", scope, kinds, find)
        return find

    return register


def places(thing: Thing, world: World, pods: list[Pod]) -> Iterator[tuple[str, Place]]:
    """Every place of an object, with its scope; `pods` are those of this object."""
    yield OBJECT, Place(thing, world, (), thing)
    part = ray_part(thing)
    cluster = part[1] if part else None
    if part and cluster is not None:
        yield CLUSTER, Place(thing, world, part[0], cluster, None, cluster)
        yield GROUP, Place(thing, world, (*part[0], "headGroupSpec"), cluster["headGroupSpec"], None, cluster)
        for index, group in enumerate(cluster.get("workerGroupSpecs") or []):
            yield GROUP, Place(thing, world, (*part[0], "workerGroupSpecs", index), group, None, cluster)
    if job := ray_job(thing):
        yield JOB, Place(thing, world, job[0], job[1], None, cluster)
    for pod in pods:
        yield POD, Place(thing, world, pod.path, pod.template, pod, cluster)
        for path, container in pod.places():
            yield CONTAINER, Place(thing, world, path, container, pod, cluster)


def env(container: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The environment variable of a container, if it is set."""
    return next((item for item in container.get("env") or [] if item.get("name") == name), None)


def head_container(cluster: Thing) -> Thing:
    """Ray's own container of the head; {} where there is none."""
    containers = cluster["headGroupSpec"]["template"].get("spec", {}).get("containers") or [{}]
    first: Thing = containers[0]
    return first


def autoscaled(cluster: Thing | None) -> bool:
    """Whether the operator adds the autoscaler."""
    return bool(cluster and cluster.get("enableInTreeAutoscaling"))


def version_of(text: object) -> tuple[int, ...] | None:
    """A version such as 2.60.0 as numbers; None where it is none."""
    parts = str(text).split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None
