"""Everything that is checked of one overlay, gathered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emoji_ldm.cluster.check import Finding
from emoji_ldm.cluster.check.expressions import expression_problems
from emoji_ldm.cluster.check.pods import Path as Steps
from emoji_ldm.cluster.check.rendering import Thing, name_of, render
from emoji_ldm.cluster.check.rules import broken
from emoji_ldm.cluster.check.schema import custom, schema_problems
from emoji_ldm.cluster.check.world import World


def findings(folder: Path, overlay: str) -> list[Finding]:
    """All findings of one overlay, sorted; see `emoji_ldm.cluster.check.check`."""
    world = World(tuple(render(folder, overlay)), overlay, folder)
    place = f"{folder.name}/overlays/{overlay}/kustomization.yaml"
    found = {(name_of(thing), path, text) for thing in world.things for path, text in problems(thing, world)}
    return sorted(Finding(place, 1, owner, _told(path, text)) for owner, path, text in found)


def problems(thing: Thing, world: World) -> Iterator[tuple[Steps, str]]:
    """What is wrong with one object of an overlay: its form first; only where that is right, the rules."""
    form = list(schema_problems(thing, world.folder / "schemas", str(world.versions["kubernetes"])))
    yield from form
    if form:
        return
    if kind := custom(thing["apiVersion"], thing["kind"], world.folder / "schemas"):
        yield from expression_problems(thing, kind)
    for _, path, text in broken(thing, world):
        yield path, text


def _told(path: Steps, text: str) -> str:
    return f"{'.'.join(map(str, path))}: {text}" if path else text
