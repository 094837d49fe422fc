"""HTML -> tiles: by a profile's selectors, else by structure, as repeated elements that hold an image and a title."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from emoji_ldm.crawl.extract.dom import HtmlTree, Node, collapse_whitespace
from emoji_ldm.crawl.page_types import STRUCTURE_FALLBACK, Tile
from emoji_ldm.crawl.site_profile import SiteProfile

MAX_QUOTE_CHARS = 80


@dataclass(frozen=True)
class TileElement:
    """An element that shows one image."""

    node: Node
    image: Node
    tile: Tile


@dataclass(frozen=True)
class ExtractedTiles:
    """The tiles of a page, and how they were found."""

    tree: HtmlTree
    spots: list[TileElement]
    by: str  # selectors | structure
    missed: bool  # the profile has selectors, but they matched nothing

    @property
    def tiles(self) -> list[Tile]:
        """In the order of the page."""
        return [spot.tile for spot in self.spots]

    def reason(self) -> str:
        """How many tiles, and how they were found if that is worth a word; what the page holds if there are none."""
        if not self.spots:
            selectors = "selectors matched 0; " if self.missed else ""
            return f"no tiles: {selectors}{describe_page(self.tree)}"
        return f"{len(self.spots)} tiles" + (f", {STRUCTURE_FALLBACK}" if self.missed else "")


def extract_tiles(html: str, url: str, profile: SiteProfile) -> ExtractedTiles:
    """The tiles of a page at `url`; Refused if its markup is a trap."""
    tree = HtmlTree(html, url, content=profile.content)
    selected = _by_selectors(tree, profile)
    spots = selected or _by_structure(tree, profile)
    return ExtractedTiles(tree, spots, "selectors" if selected else "structure", bool(profile.tile) and not selected)


def describe_page(tree: HtmlTree) -> str:
    """What a page without tiles does hold, for people."""
    title = tree.html.css_first("title")
    images = tree.html.css("img")
    groups = Counter(short_selector(image) for image in images)
    repeated = [f"{count} like {path!r}" for path, count in groups.most_common(2) if count > 1]
    text = collapse_whitespace(tree.root.text(separator=" "))
    parts = [
        f"the page {collapse_whitespace(title.text())[:MAX_QUOTE_CHARS]!r}" if title else "the page",
        f"holds {len(images)} image{'' if len(images) == 1 else 's'}" + (", " if images else ""),
        (" and ".join(repeated) or "none repeated") if images else "",
    ]
    return f"{parts[0]} {parts[1]}{parts[2]}" + (f"; it says {text[:MAX_QUOTE_CHARS]!r}" if text else "")


def short_selector(node: Node) -> str:
    """A short selector of an element: its last three steps, such as `aside > div.panel > img`."""
    steps, step = list[str](), node
    while step.tag not in (None, "html", "body") and len(steps) < 3:
        words = (step.attributes.get("class") or "").split()
        steps.append(f"{step.tag}.{words[0]}" if words else str(step.tag))
        if step.parent is None:
            break
        step = step.parent
    return " > ".join(reversed(steps))


def _by_selectors(tree: HtmlTree, profile: SiteProfile) -> list[TileElement]:
    if not profile.tile:
        return []
    nodes = tree.select(profile.tile)
    if profile.content:
        nodes = [node for node in nodes if tree.is_inside(node)] or nodes
    images, spots = {node.mem_id for node in tree.select(profile.image)}, []
    for node in nodes:
        image = node if node.mem_id in images else node.css_first(profile.image)
        if image and tree.address(image):
            spots.append(_tile_element(tree, node, image, profile))
    return spots


def _by_structure(tree: HtmlTree, profile: SiteProfile) -> list[TileElement]:
    """All tiles that stand where those of the largest group stand.

    A row of a grid that has a single tile left is first taken for a tile itself; the depth of the others mends that.
    """
    groups: dict[str, list[TileElement]] = {}
    for image in tree.images:
        if not tree.is_furniture(image) and tree.address(image):
            spot = _tile_element(tree, tree.tile_of(image), image, profile)
            if spot.tile.title:
                groups.setdefault(tree.place_of(spot.node), []).append(spot)
    if not groups:
        return []
    example = max(groups.values(), key=len)[0].node
    place, depth = tree.place_of(example), len(tree.above(example))
    spots = []
    for image in tree.images:
        node = tree.tile_at(image, depth)
        if node and tree.place_of(node) == place and not tree.is_furniture(image) and tree.address(image):
            spots.append(_tile_element(tree, node, image, profile))
    return [spot for spot in spots if spot.tile.title]


def _tile_element(tree: HtmlTree, node: Node, image: Node, profile: SiteProfile) -> TileElement:
    address = profile.unwrapped(tree.address(image))
    return TileElement(node, image, Tile(address, tree.title(node, image, profile.title)))
