"""The page tree of static HTML: the same rows as the browser's script returns, from a parsed document."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

from emoji_ldm.crawl.extract.html_limits import reject_html_bomb
from emoji_ldm.crawl.extract.page_links import is_page_link
from emoji_ldm.crawl.extract.page_tree import CONTENT, IMAGE, SELECTED, TILE, PageTree, tree_from_rows
from emoji_ldm.crawl.site_profile import SiteProfile

SKIPPED = frozenset(("script", "style", "template", "noscript", "head", "meta", "link", "object", "video", "audio"))
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
NAMED = ("id", "role", "title", "aria-label", "href", "rel", "itemprop", "itemtype")
HIDDEN_STYLE = re.compile(r"display\s*:\s*none", re.IGNORECASE)
MAX_TEXT, MAX_NEAR_IMAGES, MAX_SVG = 300, 8, 100_000
MIN_ICON_PX = 20


def parse_static_page(html: str, url: str, profile: SiteProfile) -> PageTree:
    """Parse a page at `url`.

    Raises:
        Rejected: The markup would be too expensive to parse.
    """
    reject_html_bomb(html)
    return tree_from_rows(_StaticCollector(html, url, profile).rows())


class _StaticCollector:
    """Walks a document; elements and texts are numbered in the order of the page."""

    def __init__(self, html: str, url: str, profile: SiteProfile) -> None:
        self.html, self.url = LexborHTMLParser(html), url
        base = self.html.css_first("base[href]")
        self.base = urljoin(url, _attribute(base, "href")) if base else url
        selectors = {TILE: profile.tile, CONTENT: profile.content, IMAGE: profile.image}
        self.marks: dict[int, str] = {}
        for mark, selector in selectors.items():
            for node in self.html.css(selector) if selector else ():
                self.marks[node.mem_id] = self.marks.get(node.mem_id, "") + mark
        self.titled = {node.mem_id for node in self.html.css(profile.title)} if profile.title else set[int]()
        self.elements: list[LexborNode] = []
        self.parents: list[int] = []
        self.steps: list[str] = []  # tag, with the column of a table cell
        self.texts: list[tuple[int, str, str, int]] = []
        self.images: list[list[Any]] = []
        self.links: list[list[str]] = []
        self.order = 0

    def rows(self) -> dict[str, Any]:
        """Return the rows of `page_tree.tree_from_rows`."""
        if self.html.body is not None:
            self._walk(self.html.body)
        for link in self.html.css("link[rel~=next][href]"):
            self.links.append([urljoin(self.base, _attribute(link, "href")), "next", "", "", self.base])
        title = self.html.css_first("title")
        counts = self._counts()
        beginning = " ".join(text for _, path, text, _ in self.texts[:20] if not path)[:200]
        numbers = {index: number for number, index in enumerate(sorted(counts))}
        return {
            "url": self.url, "title": collapse_whitespace(title.text()) if title else "", "bases": [self.base],
            "num_images": len(self.html.css("img")), "text": beginning,
            "links": self.links, "nodes": [self._node_row(index, numbers) for index in numbers],
            "texts": list(self._near_texts(counts, numbers)),
            "images": [[numbers[index], *rest] for index, *rest in self.images],
        }  # fmt: skip

    def _walk(self, root: LexborNode) -> None:
        # A stack instead of recursion: documents may be nested deeper than Python allows.
        stack: list[tuple[LexborNode, int, int]] = [(root, -1, -1)]
        while stack:
            node, parent, cell = stack.pop()
            if node.tag == "-text":
                self._add_text(parent, node.text_content or "")
                continue
            if not self._is_shown(node):
                continue
            index = self._add_element(node, parent, cell)
            if node.tag in ("img", "svg"):
                self._add_image(node, index)
                continue
            if node.tag == "a":
                self._add_link(node)
            if "url(" in _attribute(node, "style"):
                self._add_background(node, index)
            children, column = list[tuple[LexborNode, int, int]](), 0
            for child in node.iter(include_text=True):
                is_cell = child.tag in ("td", "th")
                children.append((child, index, column if is_cell else -1))
                column += is_cell
            stack += reversed(children)

    def _is_shown(self, node: LexborNode) -> bool:
        if node.tag is None or node.tag.startswith(("-", "_", "!")) or node.tag in SKIPPED:
            return False
        return "hidden" not in node.attributes and not HIDDEN_STYLE.search(_attribute(node, "style"))

    def _add_element(self, node: LexborNode, parent: int, cell: int) -> int:
        self.elements.append(node)
        self.parents.append(parent)
        self.steps.append(f"{node.tag}:{cell}" if cell >= 0 else str(node.tag))
        index = len(self.elements) - 1
        if node.mem_id in self.titled:
            self._add_text(index, node.text(separator=" "), SELECTED)
        return index

    def _add_text(self, index: int, text: str, path: str = "") -> None:
        text = collapse_whitespace(text)
        if text and (path or len(text) <= MAX_TEXT):
            self.order += 1
            self.texts.append((index, path, text[:MAX_TEXT], self.order))

    def _add_image(self, node: LexborNode, index: int) -> None:
        size = [_number(_attribute(node, "width")), _number(_attribute(node, "height"))]
        inner = node.css_first("title") if node.tag == "svg" else None
        names = [_attribute(node, "title"), _attribute(node, "alt"), _attribute(node, "aria-label"),
                 inner.text() if inner else ""]  # fmt: skip
        source = _svg_source(node, size) if node.tag == "svg" else _img_source(node)
        if source:
            self._append_image(index, str(node.tag), source, [collapse_whitespace(name) for name in names], size)

    def _add_background(self, node: LexborNode, index: int) -> None:
        names = [_attribute(node, "title"), "", _attribute(node, "aria-label"), ""]
        self._append_image(index, "background", {"src": _attribute(node, "style")}, names, [0, 0])

    def _append_image(self, index: int, kind: str, source: dict[str, Any], names: list[str], size: list[int]) -> None:
        self.order += 1
        self.images.append([index, kind, source, names, None, size, 0, self.order])

    def _add_link(self, node: LexborNode) -> None:
        href, rel = _attribute(node, "href"), _attribute(node, "rel")
        text = collapse_whitespace(node.text())
        label = collapse_whitespace(f"{_attribute(node, 'aria-label')} {_attribute(node, 'title')}")
        if href and href != "#" and is_page_link(href, rel, text, label):
            self.links.append([urljoin(self.base, href), rel, text[:40], label[:80], self.base])

    def _counts(self) -> dict[int, int]:
        """Return {element: images below it} of the elements around images, and of those that selectors marked."""
        counts: dict[int, int] = {}
        for index, *_ in self.images:
            while index >= 0:
                counts[index] = counts.get(index, 0) + 1
                index = self.parents[index]
        for index, element in enumerate(self.elements):
            above = index if element.mem_id in self.marks else -1
            while above >= 0 and above not in counts:
                counts[above] = 0
                above = self.parents[above]
        return counts

    def _near_texts(self, counts: dict[int, int], numbers: dict[int, int]) -> Any:
        for index, kind, text, order in self.texts:
            is_heading, path = index >= 0 and self.elements[index].tag in HEADINGS, kind
            while index >= 0 and index not in counts:
                path = path if kind else self.steps[index] + (f"/{path}" if path else "")
                index = self.parents[index]
            if index >= 0 and (counts[index] <= MAX_NEAR_IMAGES or is_heading):
                yield [numbers[index], path, text, order]

    def _node_row(self, index: int, numbers: dict[int, int]) -> list[Any]:
        node, parent = self.elements[index], self.parents[index]
        attributes = {name: value or "" for name, value in node.attributes.items()
                      if (name in NAMED and value) or name.startswith("data-")}  # fmt: skip
        cell = int(self.steps[index].partition(":")[2] or -1)
        marks = self.marks.get(node.mem_id, "")
        return [numbers[parent] if parent >= 0 else -1, node.tag, _attribute(node, "class"), cell, marks, attributes]


def collapse_whitespace(text: str) -> str:
    """Return the text in one line with single spaces."""
    return " ".join(text.split())


def _img_source(node: LexborNode) -> dict[str, Any]:
    source: dict[str, Any] = {"src": _attribute(node, "src"), "srcset": _attribute(node, "srcset")}
    source["data"] = {name: value for name, value in node.attributes.items() if name.startswith("data-") and value}
    if node.parent is not None and node.parent.tag == "picture":
        source["sources"] = [_attribute(s, "srcset") or _attribute(s, "data-srcset") for s in node.parent.css("source")]
    copy = node.parent.css_first("noscript img") if node.parent is not None else None
    if copy and not re.match(r"https?:|/", source["src"]):
        source["noscript"] = [_attribute(copy, "src"), _attribute(copy, "srcset")]
    return source


def _svg_source(node: LexborNode, size: list[int]) -> dict[str, Any]:
    use = node.css_first("use")
    target = (_attribute(use, "href") or _attribute(use, "xlink:href")) if use else ""
    # A sprite inside the page has no address, and joining it is what a browser is for.
    if use or (size[0] and size[0] < MIN_ICON_PX):
        return {"src": target} if target and not target.startswith("#") else {}
    text = node.html or ""
    if "xmlns=" not in text[:200]:
        text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return {"src": f"data:image/svg+xml,{quote(text)}"} if len(text) <= MAX_SVG else {}


def _attribute(node: LexborNode, name: str) -> str:
    return node.attributes.get(name) or ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0
