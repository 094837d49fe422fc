"""Selectors for tiles that were found by structure: built of what lasts, so that the next build of a site fits them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from emoji_ldm.crawl.extract.dom import HtmlTree, Node
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles

# Attributes that name a role in the page, the most telling first. Their values count only where all tiles share them.
STABLE_ATTRIBUTES = ("data-testid", "data-test", "data-type", "data-role", "itemprop", "itemtype", "role", "rel")
# Words people write: small letters, parts joined by - or _. Compilers' words mix cases and digits.
WORD = re.compile(r"[a-z]+(?:[-_]{1,2}[a-z]+)*(?:-\d{1,2})?")
VOWEL = re.compile(r"[aeiouy]")
IDENTIFIER = re.compile(r"-?[A-Za-z_][\w-]*")


def infer_tile_selector(found: ExtractedTiles) -> str:
    """A CSS selector of exactly the tiles that were found; "" if none of lasting words can be built."""
    nodes = [spot.node for spot in found.spots]
    wanted = {node.mem_id for node in nodes}
    levels = [nodes]
    while all(node.parent is not None and node.parent.tag not in ("html", None) for node in levels[-1]):
        levels.append([node.parent for node in levels[-1] if node.parent is not None])
    selector = ""
    for level in levels:
        step = _shared_selector(level)
        selector = f"{step} > {selector}" if selector else step
        # A bare tag or class name may be right here and hit other things on the next page.
        if (">" in selector or "[" in selector) and _selects(found.tree, selector, wanted):
            return _shorten(found.tree, selector, wanted)
    return ""


def is_stable_name(word: str) -> bool:
    """Whether a class name looks like a word that somebody chose, not like a hash that changes at every build."""
    parts = re.split(r"[-_]+", word)
    return WORD.fullmatch(word) is not None and all(len(p) < 4 or p.isdigit() or VOWEL.search(p) for p in parts)


def _shared_selector(nodes: Sequence[Node]) -> str:
    """What all these elements share: tag, lasting attributes, id of a single one, lasting class names."""
    first = nodes[0]
    tag = str(first.tag) if all(node.tag == first.tag for node in nodes) else "*"
    for name in STABLE_ATTRIBUTES:
        value = _single_value(node.attributes.get(name) for node in nodes)
        if value and '"' not in value and len(value) <= 60:
            return f'{tag}[{name}="{value}"]'
    name = _single_value(node.attributes.get("id") for node in nodes)
    if name and is_stable_name(name):
        return f"{tag}#{name}"
    words = [set((node.attributes.get("class") or "").split()) for node in nodes]
    common = sorted(word for word in set.intersection(*words) if is_stable_name(word) and IDENTIFIER.fullmatch(word))
    data = sorted(set.intersection(*({n for n in node.attributes if n.startswith("data-")} for node in nodes)))
    if data and not common:
        return f"{tag}[{data[0]}]"
    return tag + "".join(f".{word}" for word in common[:2])


def _single_value(values: Iterable[str | None]) -> str:
    found = set(values)
    return (found.pop() or "") if len(found) == 1 else ""


def _selects(tree: HtmlTree, selector: str, wanted: set[int]) -> bool:
    return {node.mem_id for node in tree.select(selector)} == wanted


def _shorten(tree: HtmlTree, selector: str, wanted: set[int]) -> str:
    """The selector without the steps between its first and last one, if it does as well without."""
    steps = selector.split(" > ")
    short = f"{steps[0]} {steps[-1]}" if len(steps) > 2 else selector
    return short if _selects(tree, short, wanted) else selector
