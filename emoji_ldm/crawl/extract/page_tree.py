"""A page as image candidates with the elements around them: what a browser's script or an HTML parser makes of it.

Both producers build the same tree, so that tiles are chosen and titled by one piece of code. The tree holds only what
lies around images: the ancestors of candidates, texts near them, and links that may lead to further pages. A browser
sees through shadow roots and frames of the same origin, so an ancestor may be a shadow host or a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emoji_ldm.crawl.extract.image_sources import PictureSource, best_address

TILE, CONTENT, IMAGE = "t", "c", "i"  # marks of elements that a selector of the profile matched
SHADOW_ROOT = "r"  # mark of elements right below a shadow root, which no selector reaches across
SELECTED = "selected"  # path of a text that the profile's title selector matched


@dataclass(slots=True, eq=False)
class PageNode:
    """An element around an image, or the image itself."""

    parent: PageNode | None
    tag: str
    classes: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    cell: int = -1  # column of a table cell, from 0
    marks: str = ""
    texts: list[PageText] = field(default_factory=list)
    order: int = -1  # position in the page, of nodes with texts or images

    def ancestors(self) -> Iterator[PageNode]:
        """Yield the elements around this one, the nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    @property
    def step(self) -> str:
        """Tag and, of a table cell, its column: one step of a structural path."""
        return f"{self.tag}:{self.cell}" if self.cell >= 0 else self.tag


@dataclass(frozen=True, slots=True)
class PageText:
    """A text near an image."""

    path: str  # tags from the node that it is attached to down to its own element, or SELECTED
    text: str
    order: int


@dataclass(slots=True, eq=False)
class Candidate:
    """Something that may be a picture: img, background, svg or canvas."""

    node: PageNode
    kind: str
    url: str  # absolute; http(s) or data:
    names: Sequence[str]  # title, alt, aria-label and <title> of the image itself
    rect: tuple[int, int, int, int] | None  # x, y, width, height in document coordinates
    size: tuple[int, int]  # width and height: of `rect`, else of the attributes, else 0
    order: int


@dataclass(frozen=True, slots=True)
class PageLink:
    """A link that may lead to another page of the listing."""

    url: str  # absolute
    rel: str
    text: str
    label: str = ""  # aria-label and title


@dataclass
class PageTree:
    """Candidates of one page in its order."""

    url: str
    title: str
    nodes: list[PageNode]
    candidates: list[Candidate]
    links: list[PageLink]
    num_images: int  # img elements, also those without any address
    text: str  # how the page begins, for messages

    def marked(self, mark: str) -> list[PageNode]:
        """Return the elements that a selector of the profile matched."""
        return [node for node in self.nodes if mark in node.marks]


def tree_from_rows(rows: Mapping[str, Any]) -> PageTree:
    """Build a tree from the rows of `sources/scripts/collect.js` or `static_tree`."""
    nodes: list[PageNode] = []
    for parent, tag, classes, cell, marks, attributes in rows["nodes"]:
        above = nodes[parent] if parent >= 0 else None
        nodes.append(PageNode(above, tag, tuple(classes.split()), attributes, cell, marks))
    for index, path, text, order in rows["texts"]:
        nodes[index].texts.append(PageText(path, text, order))
    candidates = []
    for index, kind, source, names, rect, size, base, order in rows["images"]:
        node = nodes[index]
        node.order = order
        url = best_address(PictureSource.from_row(kind, source, _linked_file(node)), rows["bases"][base])
        if url:
            shown = (int(rect[2]), int(rect[3])) if rect else (int(size[0]), int(size[1]))
            candidates.append(Candidate(node, kind, url, names, tuple(rect) if rect else None, shown, order))
    links = [PageLink(href, rel, text, label) for href, rel, text, label, _ in rows["links"]]
    return PageTree(rows["url"], rows["title"], nodes, candidates, links, rows["num_images"], rows["text"])


def _linked_file(node: PageNode) -> str:
    """Return the address that a link right around an image leads to: galleries link the full picture."""
    for ancestor in list(node.ancestors())[:2]:
        if ancestor.tag == "a":
            return ancestor.attributes.get("href", "")
    return ""
