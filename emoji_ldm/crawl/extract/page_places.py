"""Where on a page an element stands: in the listing's part of it, in the page's frame, in an advert, beside it."""

from __future__ import annotations

import re
from bisect import bisect_left
from enum import StrEnum

from emoji_ldm.crawl.extract.page_tree import Candidate, PageNode, PageTree

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
CHROME_TAGS = ("nav", "aside", "dialog")
CHROME_ROLES = ("navigation", "complementary", "dialog", "alertdialog", "search", "banner", "contentinfo", "tooltip")
SECTION_TAGS = ("main", "article", "section", "li", "figure", "td")
# Class names and ids are sites' own words, but these are used all over the web.
ADVERT_NAME = re.compile(r"(?:^|[-_])(?:ads?|adverts?|advertisement|adsbygoogle|sponsor(?:ed)?|promo)(?:[-_]|$)")
BESIDE_NAME = re.compile(
    r"(?:^|[-_])(?:related|recommend(?:ed|ations?)?|similar|sidebar|side-bar|comments?|avatars?|authors?|footer|"
    r"navbar|breadcrumbs?|cookies?|newsletter|partners?)(?:[-_]|$)"
)
BESIDE_HEADING = re.compile(
    r"related|similar|you (?:may|might) (?:also )?like|more like|more from|also like|recommend|trending|popular|"
    r"comments?\b|creators?|authors?|contributors?|members|who to follow|other (?:packs|emoji)|sponsor|partner|"
    r"ähnliche|verwandte|kommentare|similaires|commentaires|relacionad|comentarios",
    re.IGNORECASE,
)
ADVERT_TEXT = re.compile(r"^(?:sponsored|advert(?:isement)?|anzeige|publicité|publicidad)\b", re.IGNORECASE)
ADVERT_LEVELS = 4  # above an image, within which a sponsored link counts


class Place(StrEnum):
    """Where a candidate stands."""

    CONTENT = "content"
    BESIDE = "beside"  # under a heading such as "Related", or in a box of that name
    OUTSIDE = "outside"  # outside of the main part, on a page that has one
    CHROME = "chrome"  # navigation, header, footer, dialog: never a listing
    ADVERT = "advert"


class PagePlaces:
    """Tells the place of the candidates of one page."""

    def __init__(self, tree: PageTree) -> None:
        self._has_main = any(node.tag == "main" or node.attributes.get("role") == "main" for node in tree.nodes)
        self._places: dict[int, Place] = {}
        # Parents precede their children, so that no recursion is needed: pages may be thousands of elements deep.
        for node in tree.nodes:
            self._places[id(node)] = self._find_place(node)
        self._headings = _headings(tree)

    def place(self, candidate: Candidate) -> Place:
        """Return the place of a candidate."""
        if _is_advert(candidate):
            return Place.ADVERT
        place = self._places[id(candidate.node)]
        if place in (Place.CONTENT, Place.OUTSIDE) and BESIDE_HEADING.search(self.heading(candidate)):
            return Place.BESIDE
        return place

    def heading(self, candidate: Candidate) -> str:
        """Return the nearest heading before a candidate, in a part of the page that holds both; "" for the title."""
        best = (-1, "", "")
        for node in candidate.node.ancestors():
            found = self._headings.get(id(node), [])
            before = bisect_left(found, (candidate.order, "", ""))
            if before:
                best = max(best, found[before - 1])
        # The title of the page says nothing about one of its parts.
        return best[1] if best[2] != "h1" else ""

    def _find_place(self, node: PageNode) -> Place:
        role, names = node.attributes.get("role", ""), [*node.classes, node.attributes.get("id", "")]
        if node.tag in CHROME_TAGS or role in CHROME_ROLES:
            return Place.CHROME
        if node.tag in ("header", "footer") and not any(a.tag in SECTION_TAGS for a in node.ancestors()):
            return Place.CHROME
        above = Place.OUTSIDE if self._has_main else Place.CONTENT
        if node.parent is not None:
            above = self._places[id(node.parent)]
        if above in (Place.CHROME, Place.ADVERT):
            return above
        if any(ADVERT_NAME.search(name.lower()) for name in names):
            return Place.ADVERT
        if any(BESIDE_NAME.search(name.lower()) for name in names):
            return Place.BESIDE
        return Place.CONTENT if node.tag == "main" or role == "main" else above


def _headings(tree: PageTree) -> dict[int, list[tuple[int, str, str]]]:
    """Return {element: (position, text, tag) of the headings below it}, in the order of the page."""
    found: dict[int, list[tuple[int, str, str]]] = {}
    for node in tree.nodes:
        for text in node.texts:
            tag = text.path.split("/")[-1] if text.path else node.tag
            if tag in HEADINGS:
                found.setdefault(id(node), []).append((text.order, text.text, tag))
    return {key: sorted(headings) for key, headings in found.items()}


def _is_advert(candidate: Candidate) -> bool:
    if any(ADVERT_TEXT.search(name) for name in candidate.names):
        return True
    for level, node in enumerate(candidate.node.ancestors()):
        if level == ADVERT_LEVELS:
            break
        if node.tag == "a" and "sponsored" in node.attributes.get("rel", ""):
            return True
    return False
