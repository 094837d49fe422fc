"""Inference of a CSS selector that matches exactly the tiles of a listing.

It is built from names that are likely to survive the next build of the site: attributes that describe a role, and ids
and class names that look like words. Class names that a compiler generated (`FS5UE28h`) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emoji_ldm.crawl.extract.page_tree import SHADOW_ROOT, PageNode, PageTree
from emoji_ldm.crawl.extract.tile_extractor import TileElement

# Attributes that name a role in the page, the most specific first. A value counts only if all tiles share it.
STABLE_ATTRIBUTES = ("data-testid", "data-test", "data-type", "data-role", "itemprop", "itemtype", "role", "rel")
# Words written by people: lower-case letters, joined by - or _. Generated names mix cases and digits.
WORD = re.compile(r"[a-z]+(?:[-_]{1,2}[a-z]+)*(?:-\d{1,2})?")
VOWEL = re.compile(r"[aeiouy]")
IDENTIFIER = re.compile(r"-?[A-Za-z_][\w-]*")
# Selectors do not reach into shadow roots and frames, so one cannot begin outside of them.
ROOTS = ("html", "body", "iframe", "frame")
MAX_LEVELS = 5


@dataclass(frozen=True)
class SelectorStep:
    """One compound selector: a tag with an attribute, an id or class names."""

    tag: str
    attribute: str = ""
    value: str | None = None  # None: whatever the attribute holds
    name: str = ""  # id
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as CSS."""
        if self.attribute:
            value = "" if self.value is None else f'="{self.value}"'
            return f"{self.tag}[{self.attribute}{value}]"
        return self.tag + (f"#{self.name}" if self.name else "") + "".join(f".{word}" for word in self.classes)

    def matches(self, node: PageNode) -> bool:
        """Whether it matches an element."""
        if self.tag not in ("*", node.tag) or not set(self.classes) <= set(node.classes):
            return False
        if self.name and node.attributes.get("id") != self.name:
            return False
        found = node.attributes.get(self.attribute) if self.attribute else None
        return not self.attribute or (found is not None and self.value in (None, found))

    @property
    def is_telling(self) -> bool:
        """Whether it says more than a tag."""
        return bool(self.attribute or self.name or self.classes)


def infer_tile_selector(pages: Sequence[tuple[PageTree, Sequence[TileElement]]]) -> str:
    """Return a CSS selector that matches exactly the tiles of all these pages, "" if stable names do not suffice.

    Starting at the tiles, the selector grows by one level of ancestors at a time until it matches nothing else.
    """
    levels = [[element.node for _, elements in pages for element in elements]]
    steps: list[SelectorStep] = []
    while levels[-1] and len(steps) < MAX_LEVELS:
        steps.insert(0, _shared_step(levels[-1]))
        # A tag or class name alone may match on these pages and match other things on the next one.
        is_enough = len(steps) > 1 or bool(steps[0].attribute)
        if is_enough and any(step.is_telling for step in steps) and _selects(steps, pages):
            return " > ".join(map(str, steps))
        # All tiles are lifted at the same time; levels end where the first one reaches the root.
        above = [holder for node in levels[-1] if (holder := _holder(node)) is not None]
        levels.append(above if len(above) == len(levels[-1]) else [])
    return ""


def is_stable_name(word: str) -> bool:
    """Whether a name looks like a word that a person chose, rather than a hash that changes with every build."""
    parts = re.split(r"[-_]+", word)
    return WORD.fullmatch(word) is not None and all(len(p) < 4 or p.isdigit() or VOWEL.search(p) for p in parts)


def _shared_step(nodes: Sequence[PageNode]) -> SelectorStep:
    """Return what all these elements share: tag and a stable attribute, else a common id, else class names."""
    first = nodes[0]
    tag = first.tag if all(node.tag == first.tag for node in nodes) else "*"
    for name in STABLE_ATTRIBUTES:
        value = _single_value(node.attributes.get(name) for node in nodes)
        # A quote would end the selector, and long values are rarely names.
        if value and '"' not in value and len(value) <= 60:
            return SelectorStep(tag, name, value)
    name = _single_value(node.attributes.get("id") for node in nodes)
    if name and is_stable_name(name):
        return SelectorStep(tag, name=name)
    common = set.intersection(*({*node.classes} for node in nodes))
    words = sorted(word for word in common if is_stable_name(word) and IDENTIFIER.fullmatch(word))
    data = sorted(set.intersection(*({n for n in node.attributes if n.startswith("data-")} for node in nodes)))
    # The name of a data attribute is stable even if its values differ from tile to tile; a scope's name is a hash.
    data = [name for name in data if is_stable_name(name.removeprefix("data-")) and name != "data-src"]
    if data and not words:
        return SelectorStep(tag, data[0])
    return SelectorStep(tag, classes=tuple(words[:2]))


def _single_value(values: Iterable[str | None]) -> str:
    """Return the value that all share, "" if they differ or have none."""
    found = set(values)
    return (found.pop() or "") if len(found) == 1 else ""


def _selects(steps: Sequence[SelectorStep], pages: Sequence[tuple[PageTree, Sequence[TileElement]]]) -> bool:
    return all(
        {id(node) for node in tree.nodes if _matches(steps, node)} == {id(element.node) for element in elements}
        for tree, elements in pages
    )


def _holder(node: PageNode) -> PageNode | None:
    """Return the element around a node that the same selector can name; None at the top of a page or shadow root."""
    is_top = node.parent is None or SHADOW_ROOT in node.marks or node.parent.tag in ROOTS
    return None if is_top else node.parent


def _matches(steps: Sequence[SelectorStep], node: PageNode) -> bool:
    current: PageNode | None = node
    for step in reversed(steps):
        if current is None or not step.matches(current):
            return False
        current = _holder(current)
    return True
