"""The DOM of an HTML page: URLs and titles of images, the structural position of elements, page chrome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from emoji_ldm.crawl.page_types import MAX_TITLE
from emoji_ldm.outcomes import Outcome, Rejected

Node = LexborNode

# Images of navigation, side panels and dialogs are not tiles. A header or footer is page chrome outside of <main>
# only: inside, each tile may have its own.
PAGE_CHROME = "nav, aside, dialog, [role=navigation], [role=complementary], [role=dialog]"
HEADER_AND_FOOTER = "header, footer, [role=banner], [role=contentinfo]"
LAZY_SOURCES = ("data-src", "data-original", "data-lazy-src")
SRCSET_CANDIDATE = re.compile(r"(\S*[^,\s])(?:\s+([\d.]+)[wx])?\s*(?:,|$)")  # URL, width or density

# Limits on the markup, see `reject_html_bomb`.
TAG_PATTERN = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without an end tag, or whose end tag may be omitted: their number says nothing about depth.
_VOID_NAMES = """area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup
thead tbody tfoot tr td th colgroup caption rp rt body head html"""
_FORMATTING_NAMES = "a b big code em font i nobr s small strike strong tt u"
VOID_ELEMENTS, FORMATTING_ELEMENTS = frozenset(_VOID_NAMES.split()), frozenset(_FORMATTING_NAMES.split())
MAX_DEPTH = 4_000  # parses in 0.1 s; browsers stop at 512
MAX_COPIES = 4_000_000  # open formatting elements times tags


class HtmlTree:
    """A parsed page. `root` is the element that holds the tiles: the profile's content, <main>, or the whole body."""

    def __init__(self, html: str, url: str, *, content: str = "") -> None:
        """Parse a page.

        Args:
            html: The text of the page.
            url: Its address, to which relative URLs refer.
            content: CSS selector of the element that holds the tiles; empty takes <main> or the body.

        Raises:
            Rejected: Parsing would cost too much.
            ValueError: `content` is not a CSS selector.
        """
        reject_html_bomb(html)
        self.html = LexborHTMLParser(html)
        base = self.html.css_first("base[href]")
        self.base_url = urljoin(url, attribute(base, "href")) if base else url
        self._resolve_noscript()
        main = (self.select(content) if content else []) or self.html.css("main, [role=main]")
        body = self.html.body
        assert body is not None, "a parsed page has a body"
        self.root: Node = main[0] if main else body
        chrome = self.html.css(PAGE_CHROME if main else f"{PAGE_CHROME}, {HEADER_AND_FOOTER}")
        # Nodes are wrappers that are created anew at every access; `mem_id` identifies the element behind them.
        self._chrome_ids = {node.mem_id for node in chrome}
        self._image_urls: dict[int, str] = {}
        self.images = self.root.css("img")
        # How many images each element below `root` contains.
        self._num_images = Counter(node.mem_id for image in self.images for node in self.ancestors_below_root(image))

    def select(self, selector: str) -> list[Node]:
        """Return the elements that match; ValueError if the text is not a CSS selector."""
        try:
            return self.html.css(selector)
        except SelectolaxError:
            raise ValueError(f"{selector!r} is not a CSS selector") from None

    def ancestors_below_root(self, node: Node) -> list[Node]:
        """Return the elements around a node, nearest first, up to but without `root`."""
        found, parent = [], node.parent
        while parent is not None and parent.mem_id != self.root.mem_id:
            found.append(parent)
            parent = parent.parent
        return found

    def is_inside(self, node: Node) -> bool:
        """Whether a node is below `root`."""
        return any(ancestor.mem_id == self.root.mem_id for ancestor in _ancestors(node))

    def is_chrome(self, node: Node) -> bool:
        """Whether a node belongs to the page's frame: navigation, side panel, dialog, header or footer."""
        return any(element.mem_id in self._chrome_ids for element in (node, *_ancestors(node)))

    def tile_of(self, image: Node) -> Node:
        """Return the largest element around an image that contains no other image."""
        tile = image
        for node in self.ancestors_below_root(image):
            if self._num_images[node.mem_id] > 1:
                break
            tile = node
        return tile

    def tile_at(self, image: Node, depth: int) -> Node | None:
        """Return the element around an image at `depth` levels below `root`, if it contains no other image."""
        path = [*reversed(self.ancestors_below_root(image)), image]
        tile = path[depth] if depth < len(path) else None
        return tile if tile is not None and self._num_images[tile.mem_id] <= 1 else None

    def structural_path(self, node: Node) -> str:
        """Return the tags and class names of the elements around a node, as a key for its position in the page.

        Class names may be hashes that change with every build of the site. Within one page they are reliable: the rows
        of a grid share theirs, and a side panel has others.
        """
        ancestors = self.ancestors_below_root(node)
        return "<".join([node.tag or "", *(f"{step.tag}.{attribute(step, 'class')}" for step in ancestors)])

    def image_url(self, image: Node) -> str:
        """Return the absolute http(s) URL of an image, "" if it has none."""
        if image.mem_id not in self._image_urls:
            self._image_urls[image.mem_id] = self._find_image_url(image)
        return self._image_urls[image.mem_id]

    def title(self, tile: Node, image: Node, selector: str = "") -> str:
        """Return the first of these that is not empty: the selector's text, titles and alt text, the tile's text."""
        named = tile.css_first(selector) if selector else None
        inner = tile.css_first("[title], [aria-label]")
        candidates = (
            named.text() if named else "", attribute(image, "title"), attribute(image, "alt"),
            attribute(tile, "title"), attribute(tile, "aria-label"),
            attribute(inner, "title") or attribute(inner, "aria-label") if inner else "", tile.text(),
        )  # fmt: skip
        return next(filter(None, map(collapse_whitespace, candidates)), "")[:MAX_TITLE]

    def _find_image_url(self, image: Node) -> str:
        # Pages that load images lazily put a placeholder into src and the URL into another attribute, so that comes
        # first.
        candidates = [attribute(image, name) for name in (*LAZY_SOURCES, "src")]
        candidates += _largest_srcset_candidate(attribute(image, "srcset") or attribute(image, "data-srcset"))
        for address in candidates:
            absolute = urljoin(self.base_url, address.strip()) if address.strip() else ""
            if re.match(r"https?://", absolute, re.IGNORECASE):
                return absolute.partition("#")[0]
        return ""

    def _resolve_noscript(self) -> None:
        """Give each lazy image the URL of its copy for readers without scripts, and delete the copy.

        The copy stands in a <noscript> element behind the image. It would count as a second image of the tile.
        """
        for node in self.html.css("noscript"):
            copy, lazy = node.css_first("img"), node.prev
            while lazy is not None and lazy.tag != "img":
                lazy = lazy.prev
            if copy and lazy and (address := attribute(copy, "src")):
                lazy.attrs["data-src"] = address
            node.decompose()


def reject_html_bomb(html: str) -> None:
    """Reject markup whose parsing would take minutes or gigabytes, by counting tags in the text.

    Nesting costs the parser quadratic time. A formatting element that is left open (<b>, <font>, ...) is repeated in
    every later paragraph (HTML standard, section 13.2.4.3, "The list of active formatting elements"), so the memory
    grows with the product of both numbers.
    """
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
        raise Rejected(Outcome.FAILED, f"the markup is too expensive to parse: {deepest} nested elements")


def attribute(node: Node, name: str) -> str:
    """Return the text of an attribute, "" if it is missing or empty."""
    return node.attributes.get(name) or ""


def collapse_whitespace(text: str) -> str:
    """Return the text in one line with single spaces."""
    return " ".join(text.split())


def _largest_srcset_candidate(srcset: str) -> list[str]:
    """Return the URL of the candidate with the largest width or density, if there is one."""
    found = [(float(size or 1), address) for address, size in SRCSET_CANDIDATE.findall(srcset)]
    return [max(found)[1]] if found else []


def _ancestors(node: Node) -> Iterator[Node]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent
