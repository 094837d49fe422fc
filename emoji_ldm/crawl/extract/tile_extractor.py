"""Extraction of tiles from HTML: by a profile's selectors, else by structure, as repeated elements with an image."""

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
    elements: list[TileElement]
    method: str  # selectors | structure
    selectors_missed: bool  # the profile has selectors, but they matched nothing

    @property
    def tiles(self) -> list[Tile]:
        """The tiles in the order of the page."""
        return [element.tile for element in self.elements]

    def reason(self) -> str:
        """Return the reason of the page's outcome: how many tiles were found, or what the page contains instead."""
        if not self.elements:
            selectors = "selectors matched 0; " if self.selectors_missed else ""
            return f"no tiles: {selectors}{describe_page(self.tree)}"
        return f"{len(self.elements)} tiles" + (f", {STRUCTURE_FALLBACK}" if self.selectors_missed else "")


def extract_tiles(html: str, url: str, profile: SiteProfile) -> ExtractedTiles:
    """Extract the tiles of a page at `url`.

    Raises:
        Rejected: The markup would be too expensive to parse.
    """
    tree = HtmlTree(html, url, content=profile.content)
    # Structure is the fallback: class names of a site change, while its grid stays a grid.
    selected = _by_selectors(tree, profile)
    elements = selected or _by_structure(tree, profile)
    missed = bool(profile.tile) and not selected
    return ExtractedTiles(tree, elements, "selectors" if selected else "structure", missed)


def _by_selectors(tree: HtmlTree, profile: SiteProfile) -> list[TileElement]:
    if not profile.tile:
        return []
    nodes = tree.select(profile.tile)
    if profile.content:
        # A content selector that excludes every tile is more likely outdated than meant.
        nodes = [node for node in nodes if tree.is_inside(node)] or nodes
    images, elements = {node.mem_id for node in tree.select(profile.image)}, []
    for node in nodes:
        # The selector of the image may match the tile itself, which `css_first` would not return.
        image = node if node.mem_id in images else node.css_first(profile.image)
        if image and tree.image_url(image):
            elements.append(_tile_element(tree, node, image, profile))
    return elements


def _by_structure(tree: HtmlTree, profile: SiteProfile) -> list[TileElement]:
    """Find tiles as the largest group of titled images at the same structural position.

    The tile of an image is the largest element that contains no other image. In a grid row with a single image left,
    that element is the whole row. A second pass therefore takes the depth of the largest group for all images.
    """
    groups: dict[str, list[TileElement]] = {}
    for image in tree.images:
        if not tree.is_chrome(image) and tree.image_url(image):
            element = _tile_element(tree, tree.tile_of(image), image, profile)
            # Emoji have names. Images without one are decoration, such as icons of buttons.
            if element.tile.title:
                groups.setdefault(tree.structural_path(element.node), []).append(element)
    if not groups:
        return []
    # The largest group wins: a gallery shows more tiles than a side panel.
    example = max(groups.values(), key=len)[0].node
    path, depth = tree.structural_path(example), len(tree.ancestors_below_root(example))
    elements = []
    for image in tree.images:
        node = tree.tile_at(image, depth)
        if node and tree.structural_path(node) == path and not tree.is_chrome(image) and tree.image_url(image):
            elements.append(_tile_element(tree, node, image, profile))
    return [element for element in elements if element.tile.title]


def _tile_element(tree: HtmlTree, node: Node, image: Node, profile: SiteProfile) -> TileElement:
    # The original behind a proxy: the same image in three sizes is one URL then.
    address = profile.original_url(tree.image_url(image))
    return TileElement(node, image, Tile(address, tree.title(node, image, profile.title)))


def describe_page(tree: HtmlTree) -> str:
    """Describe a page without tiles for people: its title, its images, the beginning of its text."""
    title = tree.html.css_first("title")
    images = tree.html.css("img")
    # Groups of similar images hint at tiles that the structure did not recognize.
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
    """Return a readable selector of an element: its last three levels, such as `aside > div.panel > img`."""
    steps, step = list[str](), node
    while step.tag not in (None, "html", "body") and len(steps) < 3:
        words = (step.attributes.get("class") or "").split()
        steps.append(f"{step.tag}.{words[0]}" if words else str(step.tag))
        if step.parent is None:
            break
        step = step.parent
    return " > ".join(reversed(steps))
