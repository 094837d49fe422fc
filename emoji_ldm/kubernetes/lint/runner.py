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
    context = LintContext(tuple(render(folder, overlay)), overlay, folder)
    found, made = list(overlay_problems(context)), list(placeholders(folder, overlay, context))
    if not found:  # what is wrong in itself is told once
        found = [(obj, (), f"admission: {text}") for obj, text in _refusals(context)]
        made += [Finding(f"{folder.resolve().name}/{ALLOWED}", 1, "network", text) for text in network_problems(context)]
    made += _located(found, SourceMap(folder, overlay) if found else None)
    return sorted(made)


def overlay_problems(context: LintContext) -> Iterator[Problem]:
    """What is wrong with the objects of an overlay; those of wrong form are only names to the rules of the others."""
    wrong = [(obj, path, text) for obj in context.objects for path, text in _form(obj, context)]
    yield from wrong
    bad = {id(obj) for obj, _, _ in wrong}
    around = LintContext(
        tuple(_name_only(one) if id(one) in bad else one for one in context.objects), context.overlay, context.folder
    )
    for obj in context.objects:
        if id(obj) not in bad:
            yield from ((obj, path, text) for path, text in _rule_problems(obj, around))


def problems(obj: KubeObject, context: LintContext) -> Iterator[tuple[Steps, str]]:
    """What is wrong with one object of an overlay: its form first; only where that is right, the rules."""
    form = list(_form(obj, context))
    yield from form or _rule_problems(obj, context)


def _form(obj: KubeObject, context: LintContext) -> Iterator[tuple[Steps, str]]:
    return schema_problems(obj, context.folder / "schemas", str(context.versions["kubernetes"]))


def _rule_problems(obj: KubeObject, context: LintContext) -> Iterator[tuple[Steps, str]]:
    if kind := custom_kind(obj["apiVersion"], obj["kind"], context.folder / "schemas"):
        yield from expression_problems(obj, kind)
    yield from ((path, text) for _, path, text in violations(obj, context))


def _name_only(obj: KubeObject) -> KubeObject:
    metadata = obj.get("metadata") if isinstance(obj.get("metadata"), dict) else {}
    return {"apiVersion": "v1", "kind": str(obj.get("kind")), "metadata": metadata, "spec": {}}


def _located(found: list[Problem], locator: SourceMap | None) -> Iterator[Finding]:
    """One finding for each line and kind of slip: what stands in one place often shapes many objects."""
    groups: dict[tuple[str, int, str], list[tuple[str, Steps]]] = {}
    for obj, path, text in found:
        if locator is not None and not _unfilled(value_at(obj, path)):
            groups.setdefault((*locator.locate(obj, path), text), []).append((name_of(obj), path))
    for (file, line, text), places in groups.items():
        owner, path = min(places, key=str)
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        yield Finding(file, line, owner, _with_path(path, text) + more)


def placeholders(folder: Path, overlay: str, context: LintContext) -> Iterator[Finding]:
    """What its user has yet to fill in, in whatever the overlay is made of: the remedy is the comment on the line."""
    place, files = folder.resolve() / "overlays" / overlay, set[Path]()
    if PLACEHOLDER in str(context.objects):
        files = {part.resolve() for one in sources(place) for part in files_of(one) if part.is_file()}
    for file in sorted(files | set(place.rglob("*.yaml"))):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            code, _, remedy = line.partition("#")
            if PLACEHOLDER in code:
                what, _, how = remedy.strip().partition(": ")
                what = what or code.partition(PLACEHOLDER)[0].strip(" -{:\"'")
                yield Finding(relative_file(file, folder), number, "site", f"{what} is missing: {how or 'fill it in'}")


def network_problems(context: LintContext) -> Iterator[str]:
    """Differences between who reaches whom and who may, where the overlay has policies."""
    if context.of_kinds("NetworkPolicy"):
        yield from network_reachability.problems(context.objects, load_network_matrix(context.folder / ALLOWED))


def _refusals(context: LintContext) -> Iterator[tuple[KubeObject, str]]:
    """What the overlay's own admission policies would refuse; values to be filled in are told by `placeholders`."""
    for obj, text in admission.refusals(context.objects):
        if PLACEHOLDER not in text:
            yield obj, text


def _unfilled(value: object) -> bool:
    return PLACEHOLDER in str(value)


def _with_path(path: Steps, text: str) -> str:
    return f"{'.'.join(map(str, path))}: {text}" if path else text
