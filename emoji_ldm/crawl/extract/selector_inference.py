"""Inference of a CSS selector for tiles that were found by structure.

The selector is built from names that are likely to survive the next build of the site: attributes that describe a role,
and ids and class names that look like words. Class names that a compiler generated (`FS5UE28h`) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from emoji_ldm.crawl.extract.dom import HtmlTree, Node
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles

# Attributes that name a role in the page, the most specific first. A value counts only if all tiles share it.
STABLE_ATTRIBUTES = ("data-testid", "data-test", "data-type", "data-role", "itemprop", "itemtype", "role", "rel")
# Words written by people: lower-case letters, joined by - or _. Generated names mix cases and digits.
WORD = re.compile(r"[a-z]+(?:[-_]{1,2}[a-z]+)*(?:-\d{1,2})?")
VOWEL = re.compile(r"[aeiouy]")
IDENTIFIER = re.compile(r"-?[A-Za-z_][\w-]*")


def infer_tile_selector(extracted: ExtractedTiles) -> str:
    """Return a CSS selector that matches exactly the extracted tiles, "" if stable names do not suffice.

    Starting at the tiles, the selector grows by one level of ancestors at a time until it matches nothing else.
    """
    nodes = [element.node for element in extracted.elements]
    wanted = {node.mem_id for node in nodes}
    levels = [nodes]
    # All tiles are lifted at the same time; levels end where the first one reaches the root.
    while all(node.parent is not None and node.parent.tag not in ("html", None) for node in levels[-1]):
        levels.append([node.parent for node in levels[-1] if node.parent is not None])
    selector = ""
    for level in levels:
        step = _shared_selector(level)
        selector = f"{step} > {selector}" if selector else step
        # A tag or class name alone may match on this page and match other things on the next one.
        if (">" in selector or "[" in selector) and _selects(extracted.tree, selector, wanted):
            return _shorten(extracted.tree, selector, wanted)
    return ""


def is_stable_name(word: str) -> bool:
    """Whether a name looks like a word that a person chose, rather than a hash that changes with every build."""
    parts = re.split(r"[-_]+", word)
    return WORD.fullmatch(word) is not None and all(len(p) < 4 or p.isdigit() or VOWEL.search(p) for p in parts)


def _shared_selector(nodes: Sequence[Node]) -> str:
    """Return what all these elements share: tag and a stable attribute, else a common id, else class names."""
    first = nodes[0]
    tag = str(first.tag) if all(node.tag == first.tag for node in nodes) else "*"
    for name in STABLE_ATTRIBUTES:
        value = _single_value(node.attributes.get(name) for node in nodes)
        # A quote would end the selector, and long values are rarely names.
        if value and '"' not in value and len(value) <= 60:
            return f'{tag}[{name}="{value}"]'
    name = _single_value(node.attributes.get("id") for node in nodes)
    if name and is_stable_name(name):
        return f"{tag}#{name}"
    words = [set((node.attributes.get("class") or "").split()) for node in nodes]
    common = sorted(word for word in set.intersection(*words) if is_stable_name(word) and IDENTIFIER.fullmatch(word))
    data = sorted(set.intersection(*({n for n in node.attributes if n.startswith("data-")} for node in nodes)))
    # The name of a data attribute is stable even if its values differ from tile to tile.
    if data and not common:
        return f"{tag}[{data[0]}]"
    return tag + "".join(f".{word}" for word in common[:2])


def _single_value(values: Iterable[str | None]) -> str:
    """Return the value that all share, "" if they differ or have none."""
    found = set(values)
    return (found.pop() or "") if len(found) == 1 else ""


def _selects(tree: HtmlTree, selector: str, wanted: set[int]) -> bool:
    return {node.mem_id for node in tree.select(selector)} == wanted


def _shorten(tree: HtmlTree, selector: str, wanted: set[int]) -> str:
    """Return the selector without the levels between its first and last one, if that matches the same elements."""
    steps = selector.split(" > ")
    short = f"{steps[0]} {steps[-1]}" if len(steps) > 2 else selector
    return short if _selects(tree, short, wanted) else selector
