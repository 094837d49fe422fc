"""Lists the pieces of YAML that an overlay is made of, with line numbers, in the order in which they are applied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

Node = yaml.Node


@dataclass(frozen=True)
class YamlSource:
    """One piece of YAML that contributes to some objects."""

    file: Path
    node: Node
    kind: str  # a regular expression, like the targets of kustomize
    name: str
    path: tuple[str, ...] = ()  # where the piece is applied in the object, in kustomize's notation
    origin: tuple[str, str, tuple[str, ...]] | None = None  # of a replacement: kind, name and path of the copied value
    values: dict[str, Path] = field(default_factory=dict)  # of a generator: key -> file

    def applies_to(self, kind: str, name: str) -> bool:
        """Whether this piece contributes to an object."""
        return bool(re.fullmatch(self.kind, kind) and re.fullmatch(self.name, name))


@dataclass(frozen=True)
class ImageOverride:
    """One entry of a kustomization's `images`."""

    file: Path
    line: int
    names: frozenset[str]


def files_of(one: YamlSource | ImageOverride) -> list[Path]:
    """The file that it is written in, and the files that it includes."""
    return [one.file, *(one.values.values() if isinstance(one, YamlSource) else ())]


def sources(folder: Path) -> Iterator[YamlSource | ImageOverride]:
    """All pieces of the kustomization in a folder and of those that it builds on, first to last."""
    # kustomize applies resources, generators, patches, replacements and image overrides in this order, whatever their
    # order in the file. Callers rely on it: the last piece that contains a field is the one that set it.
    file = folder / "kustomization.yaml"
    if not file.is_file():
        return
    for top in documents(file):
        for key in ("resources", "components"):
            for item in _items(top, key):
                yield from _resource(folder / str(item.value)) if isinstance(item, yaml.ScalarNode) else ()
        yield from _generators(file, top)
        yield from _patches(file, top)
        for item in _items(top, "replacements"):
            yield from _replacements(folder, file, item)
        yield from _images(file, top)


def documents(file: Path) -> list[Node]:
    """The documents of a YAML file as trees with line numbers; none if it cannot be read."""
    # An unreadable file is no error here, because kustomize has rendered the overlay before and would have reported it.
    try:
        with file.open(encoding="utf-8") as text:
            return [node for node in yaml.compose_all(text, yaml.CSafeLoader) if node is not None]
    except (OSError, yaml.YAMLError):
        return []


def child(node: Node | None, *keys: str) -> Node | None:
    """The node below some keys; None if there is none."""
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def text_of(node: Node | None, *keys: str) -> str:
    """The scalar below some keys as text; "" if there is none."""
    found = child(node, *keys)
    return str(found.value) if isinstance(found, yaml.ScalarNode) else ""


def _items(node: Node | None, key: str) -> list[Node]:
    found = child(node, key)
    return list(found.value) if isinstance(found, yaml.SequenceNode) else []


def _resource(path: Path) -> Iterator[YamlSource | ImageOverride]:
    if path.is_dir():
        yield from sources(path)
        return
    for top in documents(path):
        # A document of kind List holds several objects. Names are escaped, since `applies_to` takes them as
        # expressions.
        for node in _items(top, "items") or [top]:
            yield YamlSource(path, node, re.escape(text_of(node, "kind")), re.escape(text_of(node, "metadata", "name")))


def _generators(file: Path, top: Node) -> Iterator[YamlSource]:
    for item in _items(top, "configMapGenerator"):
        values = {}
        for entry in _items(item, "files"):
            key, equals, path = str(entry.value).partition("=")
            values[key if equals else Path(key).name] = file.parent / (path if equals else key)
        # kustomize appends a hash of the contents to the name, so that Pods restart when the contents change.
        name = re.escape(text_of(item, "name"))
        yield YamlSource(file, item, "ConfigMap", rf"{name}(-[a-z0-9]{{10}})?", values=values)


def _patches(file: Path, top: Node) -> Iterator[YamlSource]:
    for item in _items(top, "patches"):
        path = text_of(item, "path")
        if path:
            nodes, patch_file = documents(file.parent / path), file.parent / path
        else:
            nodes, patch_file = _inline(item), file
        kind, name = text_of(item, "target", "kind") or ".*", text_of(item, "target", "name") or ".*"
        for node in nodes:
            # A patch is a list of operations (JSON patch) or a part of an object (strategic merge patch). The latter
            # says by its own kind and name what it changes, unless the kustomization names a target.
            if isinstance(node, yaml.SequenceNode):
                yield from _operations(patch_file, node, kind, name)
            elif child(item, "target") is not None:
                yield YamlSource(patch_file, node, kind, name)
            else:
                own_kind, own_name = text_of(node, "kind"), text_of(node, "metadata", "name")
                yield YamlSource(patch_file, node, re.escape(own_kind), re.escape(own_name))


def _inline(item: Node) -> list[Node]:
    """A patch written inside the kustomization; empty lines in front keep its line numbers those of the file."""
    found = child(item, "patch")
    if not isinstance(found, yaml.ScalarNode):
        return []
    # A block scalar begins on the line after its marker, a plain one on the same line.
    shift = found.start_mark.line + (1 if found.style in ("|", ">") else 0)
    try:
        return [node for node in yaml.compose_all("\n" * shift + found.value, yaml.CSafeLoader) if node is not None]
    except yaml.YAMLError:
        return []


def _operations(file: Path, node: yaml.SequenceNode, kind: str, name: str) -> Iterator[YamlSource]:
    """The operations of a JSON patch (RFC 6902)."""
    for operation in node.value:
        value = child(operation, "value")
        steps = text_of(operation, "path").lstrip("/").split("/")
        # JSON pointers (RFC 6901) write a slash in a key as ~1 and a tilde as ~0; in the other order ~01 would become a
        # slash.
        path = tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)
        if value is not None:
            yield YamlSource(file, value, kind, name, path)


def _replacements(folder: Path, file: Path, item: Node) -> Iterator[YamlSource]:
    if path := text_of(item, "path"):
        for top in documents(folder / path):
            for one in top.value if isinstance(top, yaml.SequenceNode) else [top]:
                yield from _replacements(folder, folder / path, one)
        return
    source = child(item, "source")
    origin = text_of(source, "kind"), text_of(source, "name"), _steps(text_of(source, "fieldPath") or "metadata.name")
    for target in _items(item, "targets"):
        kind, name = text_of(target, "select", "kind") or ".*", text_of(target, "select", "name") or ".*"
        for field_path in _items(target, "fieldPaths"):
            yield YamlSource(file, field_path, kind, name, _steps(str(field_path.value)), origin)


def _images(file: Path, top: Node) -> Iterator[ImageOverride]:
    for item in _items(top, "images"):
        names = frozenset(filter(None, (text_of(item, "name"), text_of(item, "newName"))))
        yield ImageOverride(file, item.start_mark.line + 1, names)


def _steps(text: str) -> tuple[str, ...]:
    r"""The steps of a kustomize field path: separated by dots, with `[key=value]` and `\.` kept together."""
    parts = re.findall(r"(?:\[[^\]]*\]|\\.|[^.\\\[])+", text)
    return tuple(part.replace("\\.", ".") for part in parts)
