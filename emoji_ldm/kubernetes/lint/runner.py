"""Runs every check on one overlay and turns problems into findings with file and line.

The checks run in stages, so that one mistake gives one finding: rules see only objects whose form is right, and the
admission policies and the network matrix are evaluated only if no object has a problem of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import admission, network_reachability
from emoji_ldm.kubernetes.lint.cel import expression_problems
from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.finding import Finding
from emoji_ldm.kubernetes.lint.kustomize_sources import files_of, sources
from emoji_ldm.kubernetes.lint.network_matrix import load_network_matrix
from emoji_ldm.kubernetes.lint.pods import FieldPath, value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject, name_of, render
from emoji_ldm.kubernetes.lint.rules import RULES, violations
from emoji_ldm.kubernetes.lint.schema import custom_kind, schema_problems
from emoji_ldm.kubernetes.lint.source_map import SourceMap, relative_file
from emoji_ldm.kubernetes.site import Site

Problem = tuple[KubeObject, FieldPath, str]  # the object, the path of the field, what is wrong

PLACEHOLDER = "FILL-ME-IN"  # a value that each site has to fill in
ALLOWED = "components/network/allowed.yaml"


def findings(folder: Path, overlay: str, site: Site | None = None) -> list[Finding]:
    """All findings of one overlay, sorted; see `emoji_ldm.kubernetes.lint.check`."""
    objects = render(folder, overlay)
    context = LintContext(tuple(site.fill(objects) if site else objects), overlay, folder, _allowed(site))
    # Placeholders are reported in any case: a new site wants the whole list of what it has to fill in at once.
    found, result = list(overlay_problems(context)), list(placeholders(folder, overlay, context, site))
    if not found:
        found = [(obj, (), f"admission: {text}") for obj, text in _refusals(context)]
        matrix = f"{folder.resolve().name}/{ALLOWED}"
        result += [Finding(matrix, 1, "network", text) for text in network_problems(context)]
    result += _located(found, SourceMap(folder, overlay) if found else None)
    return sorted(result)


def overlay_problems(context: LintContext) -> Iterator[Problem]:
    """What is wrong with the objects of an overlay: their form first, then the rules for those whose form is right.

    An object of wrong form is reduced to its name for the rules of the others: they may refer to it, but cannot rely on
    any of its fields.
    """
    malformed = [(obj, path, text) for obj in context.objects for path, text in form_problems(obj, context)]
    yield from malformed
    ids = {id(obj) for obj, _, _ in malformed}
    objects = tuple(_name_only(obj) if id(obj) in ids else obj for obj in context.objects)
    reduced = LintContext(objects, context.overlay, context.folder, context.allowed)
    for obj in context.objects:
        if id(obj) not in ids:
            yield from ((obj, path, text) for path, text in rule_problems(obj, reduced))


def form_problems(obj: KubeObject, context: LintContext) -> Iterator[tuple[FieldPath, str]]:
    """What the API server's schemas would refuse, each with the path of the field."""
    return schema_problems(obj, context.folder / "schemas", str(context.versions["kubernetes"]))


def rule_problems(obj: KubeObject, context: LintContext) -> Iterator[tuple[FieldPath, str]]:
    """The CEL rules and the rules of this check that a well-formed object breaks."""
    if kind := custom_kind(obj["apiVersion"], obj["kind"], context.folder / "schemas"):
        yield from expression_problems(obj, kind)
    for rule, path, text in violations(obj, context):
        if rule.name not in context.allowed:
            yield path, f"{text} [{rule.name.replace(' ', '-')}]"


def _allowed(site: Site | None) -> frozenset[str]:
    """The rules that a site breaks on purpose, by name; ConfigError if there is no such rule."""
    names = {name: name.replace("-", " ") for name in (site.allow if site else ())}
    for written, name in names.items():
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, n=1)
            hint = f"; did you mean {near[0].replace(' ', '-')}?" if near else ""
            raise ConfigError(f"allow: there is no rule {written!r}{hint}")
    return frozenset(names.values())


def _name_only(obj: KubeObject) -> KubeObject:
    # The kind stays what it is, so that references to this object still resolve.
    metadata = obj.get("metadata") if isinstance(obj.get("metadata"), dict) else {}
    return {"apiVersion": "v1", "kind": str(obj.get("kind")), "metadata": metadata, "spec": {}}


def _located(found: list[Problem], locator: SourceMap | None) -> Iterator[Finding]:
    """One finding for each line and message: one line of a base often ends up in many objects."""
    groups: dict[tuple[str, int, str], list[tuple[str, FieldPath]]] = {}
    for obj, path, text in found:
        # A placeholder breaks most rules of its field, but it has a finding of its own with the remedy.
        if locator is not None and not _unfilled(value_at(obj, path)):
            groups.setdefault((*locator.locate(obj, path), text), []).append((name_of(obj), path))
    for (file, line, text), fields in groups.items():
        # Any of the fields would do, but the choice must not depend on the order of objects.
        object_name, path = min(fields, key=str)
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        yield Finding(file, line, object_name, _with_path(path, text) + more)


def placeholders(folder: Path, overlay: str, context: LintContext, site: Site | None = None) -> Iterator[Finding]:
    """Values that a site still has to fill in, in any file of the overlay; the comment on the line says how."""
    root, files = folder.resolve() / "overlays" / overlay, set[Path]()
    # Files of the overlay's own folder are searched in any case, those of a base outside of it only if the result holds
    # a placeholder.
    if PLACEHOLDER in str(context.objects):
        files = {part.resolve() for one in sources(root) for part in files_of(one) if part.is_file()}
    # A site fills in values without editing files, so only what the objects still hold is missing.
    unfilled = PLACEHOLDER in str(context.objects) or not site
    for file in sorted(files | set(root.rglob("*.yaml"))) if unfilled else ():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            code, _, remedy = line.partition("#")
            if PLACEHOLDER in code:
                what, _, how = remedy.strip().partition(": ")
                what = what or code.partition(PLACEHOLDER)[0].strip(" -{:\"'")
                yield Finding(relative_file(file, folder), number, "site", f"{what} is missing: {how or 'fill it in'}")


def network_problems(context: LintContext) -> Iterator[str]:
    """Differences between the connections that are possible and those that are declared, if there are policies."""
    if context.of_kinds("NetworkPolicy"):
        yield from network_reachability.problems(context.objects, load_network_matrix(context.folder / ALLOWED))


def _refusals(context: LintContext) -> Iterator[tuple[KubeObject, str]]:
    """What the overlay's own admission policies would refuse; `placeholders` reports values to fill in."""
    for obj, text in admission.refusals(context.objects):
        if PLACEHOLDER not in text:
            yield obj, text


def _unfilled(value: object) -> bool:
    return PLACEHOLDER in str(value)


def _with_path(path: FieldPath, text: str) -> str:
    return f"{'.'.join(map(str, path))}: {text}" if path else text
