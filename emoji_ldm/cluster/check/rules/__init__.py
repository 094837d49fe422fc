"""The rules that no schema holds: of KubeRay, Kueue, Kubernetes and this project."""

from __future__ import annotations

from collections.abc import Iterator

from emoji_ldm.cluster.check.pods import Path, pods
from emoji_ldm.cluster.check.rendering import Thing
from emoji_ldm.cluster.check.rules import (  # noqa: F401  (each registers its rules)
    autoscaler,
    cluster,
    config,
    faults,
    images,
    job,
    labels,
    links,
    queues,
    quotas,
    references,
    scheduling,
    security,
    service,
    values,
)
from emoji_ldm.cluster.check.rules.place import RULES, Rule, places
from emoji_ldm.cluster.check.world import World

__all__ = ["RULES", "Rule", "broken"]


def broken(thing: Thing, world: World) -> Iterator[tuple[Rule, Path, str]]:
    """The rules that one object of a world breaks, each with the path in the object; its form must be right."""
    by_scope: dict[str, list[Rule]] = {}
    for one in RULES.values():
        if not one.kinds or thing["kind"] in one.kinds:
            by_scope.setdefault(one.scope, []).append(one)
    for scope, place in places(thing, world, list(pods([thing]))):
        for one in by_scope.get(scope, []):
            for path, text in one.find(place):
                yield one, (*place.path, *path), text
