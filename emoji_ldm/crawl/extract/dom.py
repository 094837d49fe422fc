"""HTML that costs its parser more than it is worth: nesting is quadratic in time, open formatting in memory.

The tree of an HTML page: what is an image's address and title, where an element stands, which furniture is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from emoji_ldm.crawl.page_types import MAX_TITLE
from emoji_ldm.outcomes import Outcome, Rejected

TAG_PATTERN = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without an end tag, or whose end tag may be left out: their number says nothing about depth.
_VOID_NAMES = """area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup
thead tbody tfoot tr td th colgroup caption rp rt body head html"""
_FORMATTING_NAMES = "a b big code em font i nobr s small strike strong tt u"
VOID_ELEMENTS, FORMATTING_ELEMENTS = frozenset(_VOID_NAMES.split()), frozenset(_FORMATTING_NAMES.split())
MAX_DEPTH = 4_000  # takes 0.1 s; browsers stop at 512
MAX_COPIES = 4_000_000  # each paragraph repeats the formatting that was left open before it


def reject_html_bomb(html: str) -> None:
    """Refused if elements are nested so, or left open so, that parsing them would take minutes or gigabytes."""
    depth = deepest = formatting = most = number = 0
    for end, name in TAG_PATTERN.findall(html):
        name, number, step = name.lower(), number + 1, -1 if end else 1
        if name not in VOID_ELEMENTS:
            depth = max(depth + step, 0)
            deepest = max(deepest, depth)
        if name in FORMATTING_ELEMENTS:
            formatting = max(formatting + step, 0)
            most = max(most, formatting)
    if deepest > MAX_DEPTH or most * number > MAX_COPIES:
        raise Rejected(Outcome.FAILED, f"its markup is no page but a trap: {deepest} elements inside each other")


Node = LexborNode

PAGE_CHROME = "nav, aside, dialog, [role=navigation], [role=complementary], [role=dialog]"
HEADER_AND_FOOTER = (
    "header, footer, [role=banner], [role=contentinfo]"  # only outside of main; inside, tiles may have headers
)
LAZY_SOURCES = ("data-src", "data-original", "data-lazy-src")
SRCSET_CANDIDATE = re.compile(r"(\S*[^,\s])(?:\s+([\d.]+)[wx])?\s*(?:,|$)")  # of a srcset


class HtmlTree:
    """A parsed page. `root` holds the tiles: the profile's content, <main>, or the whole body."""

    def __init__(self, html: str, url: str, *, content: str = "") -> None:
        """Parse; Refused if that would cost too much, ValueError if `content` is no CSS selector."""
        reject_html_bomb(html)
        self.html = LexborHTMLParser(html)
        base = self.html.css_first("base[href]")
        self.base_url = urljoin(url, attribute(base, "href")) if base else url
        self._unwrap_noscript()
        main = (self.select(content) if content else []) or self.html.css("main, [role=main]")
        body = self.html.body
        assert body is not None, "a parsed page has a body"
        self._addresses: dict[int, str] = {}
        self.root: Node = main[0] if main else body
        furniture = self.html.css(PAGE_CHROME if main else f"{PAGE_CHROME}, {HEADER_AND_FOOTER}")
        self._furniture = {node.mem_id for node in furniture}
        self.images = self.root.css("img")
        self._num_images = Counter(node.mem_id for image in self.images for node in self.above(image))

    def select(self, selector: str) -> list[Node]:
        """Elements that match; ValueError if the text is no CSS selector."""
        try:
            return self.html.css(selector)
        except SelectolaxError:
            raise ValueError(f"{selector!r} is no CSS selector") from None

    def above(self, node: Node) -> list[Node]:
        """Elements around one, the nearest first, up to but without `root`."""
        found, parent = [], node.parent
        while parent is not None and parent.mem_id != self.root.mem_id:
            found.append(parent)
            parent = parent.parent
        return found

    def is_inside(self, node: Node) -> bool:
        """Whether it stands below `root`."""
        return any(step.mem_id == self.root.mem_id for step in _ancestors(node))

    def is_furniture(self, node: Node) -> bool:
        """Whether it belongs to the frame of the page: navigation, side panel, dialog."""
        return any(step.mem_id in self._furniture for step in (node, *_ancestors(node)))

    def tile_of(self, image: Node) -> Node:
        """The largest element around an image that holds no other image."""
        tile = image
        for node in self.above(image):
            if self._num_images[node.mem_id] > 1:
                break
            tile = node
        return tile

    def tile_at(self, image: Node, depth: int) -> Node | None:
        """The element around an image that stands `depth` steps below `root`, if it holds no other image."""
        path = [*reversed(self.above(image)), image]
        tile = path[depth] if depth < len(path) else None
        return tile if tile is not None and self._num_images[tile.mem_id] <= 1 else None

    def place_of(self, node: Node) -> str:
        """Where it stands. Class names count within one page only: rows of a grid share theirs, a panel does not."""
        return "<".join([node.tag or "", *(f"{step.tag}.{attribute(step, 'class')}" for step in self.above(node))])

    def address(self, image: Node) -> str:
        """The absolute http(s) address of an image, "" if it has none.

        Lazy pages put a placeholder into src and the address beside it, so what stands beside it comes first.
        """
        if image.mem_id not in self._addresses:
            self._addresses[image.mem_id] = self._address(image)
        return self._addresses[image.mem_id]

    def _address(self, image: Node) -> str:
        plain = [attribute(image, name) for name in (*LAZY_SOURCES, "src")]
        for address in (
            *plain,
            *_largest_srcset_candidate(attribute(image, "srcset") or attribute(image, "data-srcset")),
        ):
            absolute = urljoin(self.base_url, address.strip()) if address.strip() else ""
            if re.match(r"https?://", absolute, re.IGNORECASE):
                return absolute.partition("#")[0]
        return ""

    def title(self, tile: Node, image: Node, selector: str = "") -> str:
        """The best name for a tile's image: of the selector, its title, alt, an inner title, its text; or ""."""
        named = tile.css_first(selector) if selector else None
        inner = tile.css_first("[title], [aria-label]")
        candidates = (
            named.text() if named else "", attribute(image, "title"), attribute(image, "alt"),
            attribute(tile, "title"), attribute(tile, "aria-label"),
            attribute(inner, "title") or attribute(inner, "aria-label") if inner else "", tile.text(),
        )  # fmt: skip
        return next(filter(None, map(collapse_whitespace, candidates)), "")[:MAX_TITLE]

    def _unwrap_noscript(self) -> None:
        """Give a lazy image the address that the page keeps for readers without scripts; drop the copy."""
        for node in self.html.css("noscript"):
            copy, lazy = node.css_first("img"), node.prev
            while lazy is not None and lazy.tag != "img":
                lazy = lazy.prev
            if copy and lazy and (address := attribute(copy, "src")):
                lazy.attrs["data-src"] = address
            node.decompose()


def attribute(node: Node, name: str) -> str:
    """Text of an attribute, "" if it is missing or has none."""
    return node.attributes.get(name) or ""


def collapse_whitespace(text: str) -> str:
    """Text in one line, single spaces."""
    return " ".join(text.split())


def _largest_srcset_candidate(srcset: str) -> list[str]:
    """The candidate of the largest width or density."""
    found = [(float(size or 1), address) for address, size in SRCSET_CANDIDATE.findall(srcset)]
    return [max(found)[1]] if found else []


def _ancestors(node: Node) -> Iterator[Node]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent
