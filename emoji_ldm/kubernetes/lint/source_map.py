"""Finds the file and line in the sources of an overlay that a field of a rendered object comes from.

kustomize keeps no positions, so its output has to be traced back. `kustomize_sources` lists every piece of YAML that
the overlay is made of, in the order in which kustomize applies them: resources, generators, patches, replacements,
images. For a field path, each piece that applies to the object is descended as far as the path leads; the deepest match
wins, and of equally deep ones the last, because later patches override earlier pieces.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from emoji_ldm.kubernetes.lint.k8s_enums import IMAGE
from emoji_ldm.kubernetes.lint.kustomize_sources import ImageOverride, Node, YamlSource, child, documents, sources
from emoji_ldm.kubernetes.lint.pods import FieldPath, value_at
from emoji_ldm.kubernetes.lint.rendering import KubeObject

# The fields by which an item of a list is recognized, as kustomize and strategic merge patches do.
# Lists of objects are merged by these fields rather than by position, so a patch may hold one item of a long list.
IDENTITIES = ("name", "groupName", "mountPath", "containerPort", "key", "topologyKey", "port", "alert", "record")
SourceLocation = tuple[int, Path, int]  # steps of the path that were found, file, line


class SourceMap:
    """Locates fields in the sources of one overlay."""

    def __init__(self, folder: Path, overlay: str) -> None:
        self.folder = folder
        self.overlay = folder / "overlays" / overlay
        found = list(sources(self.overlay))
        self.sources = [one for one in found if isinstance(one, YamlSource)]
        self.images = [one for one in found if isinstance(one, ImageOverride)]

    def locate(self, obj: KubeObject, path: FieldPath) -> tuple[str, int]:
        """File (such as k8s/base/train.yaml) and line of a field; otherwise the first line of the overlay."""
        image = value_at(obj, path) if path and path[-1] == "image" else None
        # An override under `images` is applied after all patches, so it is where an image's tag or digest was written.
        if isinstance(image, str) and (entry := self._image(image)):
            return relative_file(entry.file, self.folder), entry.line
        found = self._find(str(obj.get("kind")), str(obj["metadata"].get("name")), obj, path)
        if found is None:
            return relative_file(self.overlay / "kustomization.yaml", self.folder), 1
        return relative_file(found[1], self.folder), found[2]

    def _find(self, kind: str, name: str, value: Any, path: FieldPath) -> SourceLocation | None:
        """The deepest match, of equally deep ones the last applied."""
        best: SourceLocation | None = None
        for source in self.sources:
            if source.applies_to(kind, name):
                found = self._within(source, value, path)
                # With >= rather than >, the last of equally deep matches wins.
                if found is not None and (best is None or found[0] >= best[0]):
                    best = found
        return best

    def _within(self, source: YamlSource, value: Any, path: FieldPath) -> SourceLocation | None:
        # The keys of a generated ConfigMap come from files, and its name carries a hash, so it is located by its own
        # function.
        if source.values or (source.kind == "ConfigMap" and child(source.node, "files")):
            return _generated(source, path)
        lead = _matched_steps(source.path, value, path)
        if lead is None:
            return None
        inner, rest = value_at(value, path[:lead]), path[lead:]
        if source.origin is not None:
            # A replacement copies a value from another object, where the value is written.
            kind, name, steps = source.origin
            found = self._find(kind, name, _nested(steps, inner), (*steps, *rest))
            return (found[0] - len(steps) + lead, found[1], found[2]) if found and found[0] >= len(steps) else None
        depth, line = _descend(source.node, inner, rest)
        return lead + depth, source.file, line

    def _image(self, text: str) -> ImageOverride | None:
        found = IMAGE.fullmatch(text)
        name = found["name"] if found else text.partition("@")[0]
        return next((one for one in reversed(self.images) if name in one.names), None)


def relative_file(file: Path, folder: Path) -> str:
    """A file relative to the folder that contains `folder` (k8s/); a base may lie outside of it."""
    return Path(os.path.relpath(file.resolve(), folder.resolve().parent)).as_posix()


def _generated(source: YamlSource, path: FieldPath) -> SourceLocation:
    """The location in a generated ConfigMap: a line of the file that a key was read from, if that is YAML."""
    key = path[1] if len(path) > 1 and path[0] == "data" else None
    file = source.values.get(str(key))
    if file is None:
        return 0, source.file, source.node.start_mark.line + 1
    nodes = documents(file) if file.suffix in (".yaml", ".yml") else []
    if not nodes:
        return 2, file, 1
    depth, line = _descend(nodes[0], None, path[2:])
    return 2 + depth, file, line


def _matched_steps(steps: tuple[str, ...], value: Any, path: FieldPath) -> int | None:
    """How many steps of the path lead to where a piece is applied; None if it is applied elsewhere."""
    if len(steps) > len(path):
        return None
    for number, (step, real) in enumerate(zip(steps, path, strict=False)):
        if isinstance(value_at(value, path[:number]), list):
            # In a list, kustomize selects an item by a field of it, `[name=ray]`, by its index, or all by `*`; `-`
            # appends one.
            item = value_at(value, path[: number + 1])
            key, _, expected = step.strip("[]").partition("=")
            selected = isinstance(item, dict) and expected and str(item.get(key)) == expected
            if not (selected or step in ("*", "-", str(real))):
                return None
        elif step not in ("*", str(real)):
            return None
    return len(steps)


def _nested(steps: tuple[str, ...], value: Any) -> Any:
    for step in reversed(steps):
        value = {step: value}
    return value


def _descend(node: Node, value: Any, path: FieldPath) -> tuple[int, int]:
    """How many steps of a path lead into a YAML tree, and the line of the last node reached."""
    line = node.start_mark.line + 1
    for depth, step in enumerate(path):
        item = value_at(value, (step,))
        found = _step(node, step, item)
        if found is None:
            return depth, line
        line, node, value = found[0], found[1], item
    return len(path), line


def _step(node: Node, step: str | int, item: Any) -> tuple[int, Node] | None:
    """The line and node one step further; list items are matched by name, as their order and number may differ."""
    if isinstance(node, yaml.MappingNode):
        pair = next(((name, value) for name, value in node.value if name.value == str(step)), None)
        return (pair[0].start_mark.line + 1, pair[1]) if pair else None
    if not isinstance(node, yaml.SequenceNode) or not isinstance(step, int):
        return None
    # An item that has an identity but no match was added by another piece; its position would lead to a wrong line.
    same = next((one for one in node.value if _same(one, item)), None)
    named = isinstance(item, dict) and any(key in item for key in IDENTITIES)
    if same is None and not named and step < len(node.value):
        same = node.value[step]
    return (same.start_mark.line + 1, same) if same is not None else None


def _same(node: Node, item: Any) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value) == str(item)
    if not isinstance(item, dict):
        return False
    for key in IDENTITIES:
        if key in item and (found := child(node, key)) is not None:
            return isinstance(found, yaml.ScalarNode) and str(found.value) == str(item[key])
    return bool(_node_values(node) == _as_strings(item))


def _node_values(node: Node) -> Any:
    """A YAML tree as plain values, with every scalar as a string."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _node_values(value) for key, value in node.value}
    return [_node_values(one) for one in node.value] if isinstance(node, yaml.SequenceNode) else str(node.value)


def _as_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_strings(item) for key, item in value.items()}
    return [_as_strings(one) for one in value] if isinstance(value, list) else str(value)
