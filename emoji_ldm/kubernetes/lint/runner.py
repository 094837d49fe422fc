"""Everything that is checked of one overlay, gathered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emoji_ldm.kubernetes.lint import admission, network_reachability
from emoji_ldm.kubernetes.lint.cel import expression_problems
from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.finding import Finding
from emoji_ldm.kubernetes.lint.kustomize_sources import files_of, sources
from emoji_ldm.kubernetes.lint.network_matrix import load_network_matrix
from emoji_ldm.kubernetes.lint.pods import FieldPath as Steps
from emoji_ldm.kubernetes.lint.pods import value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject, name_of, render
from emoji_ldm.kubernetes.lint.rules import violations
from emoji_ldm.kubernetes.lint.schema import custom_kind, schema_problems
from emoji_ldm.kubernetes.lint.source_map import SourceMap, relative_file

Problem = tuple[KubeObject, Steps, str]

PLACEHOLDER = "FILL-ME-IN"
ALLOWED = "components/network/allowed.yaml"


def findings(folder: Path, overlay: str) -> list[Finding]:
    """All findings of one overlay, sorted; see `emoji_ldm.kubernetes.lint.check`."""
    world = LintContext(tuple(render(folder, overlay)), overlay, folder)
    found, made = list(overlay_problems(world)), list(placeholders(folder, overlay, world))
    if not found:  # what is wrong in itself is told once
        found = [(thing, (), f"admission: {text}") for thing, text in _refusals(world)]
        made += [Finding(f"{folder.resolve().name}/{ALLOWED}", 1, "network", text) for text in network_problems(world)]
    made += _located(found, SourceMap(folder, overlay) if found else None)
    return sorted(made)


def overlay_problems(world: LintContext) -> Iterator[Problem]:
    """What is wrong with the objects of an overlay; those of wrong form are only names to the rules of the others."""
    wrong = [(thing, path, text) for thing in world.things for path, text in _form(thing, world)]
    yield from wrong
    bad = {id(thing) for thing, _, _ in wrong}
    around = LintContext(
        tuple(_name_only(one) if id(one) in bad else one for one in world.things), world.overlay, world.folder
    )
    for thing in world.things:
        if id(thing) not in bad:
            yield from ((thing, path, text) for path, text in _rule_problems(thing, around))


def problems(thing: KubeObject, world: LintContext) -> Iterator[tuple[Steps, str]]:
    """What is wrong with one object of an overlay: its form first; only where that is right, the rules."""
    form = list(_form(thing, world))
    yield from form or _rule_problems(thing, world)


def _form(thing: KubeObject, world: LintContext) -> Iterator[tuple[Steps, str]]:
    return schema_problems(thing, world.folder / "schemas", str(world.versions["kubernetes"]))


def _rule_problems(thing: KubeObject, world: LintContext) -> Iterator[tuple[Steps, str]]:
    if kind := custom_kind(thing["apiVersion"], thing["kind"], world.folder / "schemas"):
        yield from expression_problems(thing, kind)
    yield from ((path, text) for _, path, text in violations(thing, world))


def _name_only(thing: KubeObject) -> KubeObject:
    metadata = thing.get("metadata") if isinstance(thing.get("metadata"), dict) else {}
    return {"apiVersion": "v1", "kind": str(thing.get("kind")), "metadata": metadata, "spec": {}}


def _located(found: list[Problem], locator: SourceMap | None) -> Iterator[Finding]:
    """One finding for each line and kind of slip: what stands in one place often shapes many objects."""
    groups: dict[tuple[str, int, str], list[tuple[str, Steps]]] = {}
    for thing, path, text in found:
        if locator is not None and not _unfilled(value_at(thing, path)):
            groups.setdefault((*locator.line(thing, path), text), []).append((name_of(thing), path))
    for (file, line, text), places in groups.items():
        owner, path = min(places, key=str)
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        yield Finding(file, line, owner, _with_path(path, text) + more)


def placeholders(folder: Path, overlay: str, world: LintContext) -> Iterator[Finding]:
    """What its user has yet to fill in, in whatever the overlay is made of: the remedy is the comment on the line."""
    place, files = folder.resolve() / "overlays" / overlay, set[Path]()
    if PLACEHOLDER in str(world.things):
        files = {part.resolve() for one in sources(place) for part in files_of(one) if part.is_file()}
    for file in sorted(files | set(place.rglob("*.yaml"))):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            code, _, remedy = line.partition("#")
            if PLACEHOLDER in code:
                what, _, how = remedy.strip().partition(": ")
                what = what or code.partition(PLACEHOLDER)[0].strip(" -{:\"'")
                yield Finding(relative_file(file, folder), number, "site", f"{what} is missing: {how or 'fill it in'}")


def network_problems(world: LintContext) -> Iterator[str]:
    """Differences between who reaches whom and who may, where the overlay has policies."""
    if world.of("NetworkPolicy"):
        yield from network_reachability.problems(world.things, load_network_matrix(world.folder / ALLOWED))


def _refusals(world: LintContext) -> Iterator[tuple[KubeObject, str]]:
    """What the overlay's own admission policies would refuse; values to be filled in are told by `placeholders`."""
    for thing, text in admission.refusals(world.things):
        if PLACEHOLDER not in text:
            yield thing, text


def _unfilled(value: object) -> bool:
    return PLACEHOLDER in str(value)


def _with_path(path: Steps, text: str) -> str:
    return f"{'.'.join(map(str, path))}: {text}" if path else text
