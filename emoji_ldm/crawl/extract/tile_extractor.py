"""The tiles of a page: those that a profile's selectors match, else the listing among its groups of images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from emoji_ldm.crawl.extract.image_groups import GroupPattern, ImageGroup, group_images, join_groups, match_pattern
from emoji_ldm.crawl.extract.page_places import Place
from emoji_ldm.crawl.extract.page_tree import CONTENT, IMAGE, TILE, Candidate, PageNode, PageTree
from emoji_ldm.crawl.extract.titles import TileNames, tile_names, title_slots
from emoji_ldm.crawl.page_types import MAX_TITLE, Tile
from emoji_ldm.crawl.site_profile import SiteProfile

MAX_QUOTE_CHARS = 80
MIN_OTHER_LISTING = 8  # images of a group that replaces the listing known from earlier pages


@dataclass(frozen=True)
class KnownListing:
    """The listing of a tag as earlier pages show it: where its tiles are, and where their names."""

    pattern: GroupPattern
    slots: tuple[str, ...]
    num_tiles: int
    other_images: frozenset[str]  # addresses of the page's other images, which repeat on every page


@dataclass(frozen=True)
class TileElement:
    """An element that shows one image."""

    node: PageNode
    image: Candidate
    tile: Tile


@dataclass(frozen=True)
class ExtractedTiles:
    """The tiles of a page, and how they were found."""

    tree: PageTree
    elements: list[TileElement]
    method: str  # selectors | structure
    missed: str = ""  # the profile's selector that matches nothing
    listing: KnownListing | None = None  # by structure: to find the listing of the next page by
    groups: list[tuple[float, list[TileElement]]] = field(default_factory=list)  # all, with their scores, best first

    @property
    def tiles(self) -> list[Tile]:
        """The tiles in the order of the page."""
        return [element.tile for element in self.elements]

    @property
    def has_missed(self) -> bool:
        """Whether the profile's selectors match nothing although the page shows a listing."""
        return bool(self.missed) and bool(self.groups) and self.groups[0][0] > 0

    def reason(self) -> str:
        """Return the reason of the page's outcome: how many tiles were found, or what the page contains instead."""
        if self.elements:
            return f"{len(self.elements)} tiles"
        selectors = f"the profile's selector {self.missed!r} matches nothing; " if self.missed else ""
        return f"no tiles: {selectors}{describe_page(self)}"


def extract_tiles(tree: PageTree, profile: SiteProfile, known: KnownListing | None = None) -> ExtractedTiles:
    """Extract the tiles of a page.

    A selector is obeyed: if it matches nothing there are no tiles, whatever else the page shows.

    Args:
        tree: The page, on which the profile's selectors are marked.
        profile: Selectors and image proxy.
        known: The listing of earlier pages of the same tag.
    """
    extractor = _Extractor(tree, profile)
    method = "selectors" if profile.tile else "structure"
    if missed := extractor.missed():
        # What the page shows otherwise is only needed to say so.
        groups = extractor.scored(group_images(tree, tree.candidates))
        return ExtractedTiles(tree, [], method, missed, groups=groups)
    if profile.tile:
        elements, listing = extractor.selected(known)
        return ExtractedTiles(tree, elements, method, "" if elements else profile.image, listing)
    return extractor.by_structure(known)


class _Extractor:
    def __init__(self, tree: PageTree, profile: SiteProfile) -> None:
        self.tree, self.profile = tree, profile
        contents = {id(node) for node in tree.marked(CONTENT)} if profile.content else None
        self.candidates = [
            candidate for candidate in tree.candidates
            if contents is None or any(id(node) in contents for node in (candidate.node, *candidate.node.ancestors()))
        ]  # fmt: skip

    def missed(self) -> str:
        """Return the profile's selector of the content or of tiles if it matches nothing, "" otherwise."""
        if self.profile.content and not self.tree.marked(CONTENT):
            return self.profile.content
        is_found = any(_marked_around(candidate.node, TILE) for candidate in self.candidates)
        return "" if is_found else self.profile.tile

    def selected(self, known: KnownListing | None) -> tuple[list[TileElement], KnownListing | None]:
        """Return the tiles that the profile's selectors match, with one picture each; adverts among them are none."""
        inside = [(c, tile) for c in self.candidates if (tile := _marked_around(c.node, TILE)) and self._is_wanted(c)]
        groups = [group for group in group_images(self.tree, [candidate for candidate, _ in inside])
                  if group.pattern.place is not Place.ADVERT]  # fmt: skip
        # A tile may hold several pictures. That of the tile is of the kind that differs from tile to tile, as this page
        # or an earlier one with more tiles shows.
        groups.sort(key=lambda group: (group.num_distinct, group.shown_px))
        if known and (same := match_pattern(known.pattern, self.tree, [candidate for candidate, _ in inside])):
            groups.append(same)
        rank = {id(image): number for number, group in enumerate(groups) for image in group.images}
        best: dict[int, tuple[Candidate, PageNode]] = {}
        for candidate, tile in inside:
            if id(candidate) in rank:
                taken = best.setdefault(id(tile), (candidate, tile))[0]
                if rank[id(candidate)] > rank[id(taken)]:
                    best[id(tile)] = (candidate, tile)
        if not best:
            return [], None
        images, tiles = [image for image, _ in best.values()], [tile for _, tile in best.values()]
        elements, slots = self._titled(images, tiles, known.slots if known else ())
        return elements, KnownListing(groups[-1].pattern, slots, len(elements), frozenset())

    def _is_wanted(self, candidate: Candidate) -> bool:
        """Whether the profile's selector of images matches a candidate, or an element right around it."""
        if not self.profile.image or IMAGE in candidate.node.marks:
            return True
        return any(IMAGE in node.marks for node in list(candidate.node.ancestors())[:2])

    def groups(self) -> list[ImageGroup]:
        """Return all groups of images."""
        return group_images(self.tree, self.candidates)

    def scored(self, groups: Sequence[ImageGroup]) -> list[tuple[float, list[TileElement]]]:
        """Return (score, tiles) of groups of at least two different images, the most likely listing first."""
        found = []
        for group in groups:
            if group.num_distinct > 1:
                elements, _, share = self._named(group)
                found.append((group.score(share), elements))
        return sorted(found, key=lambda pair: -pair[0])

    def by_structure(self, known: KnownListing | None) -> ExtractedTiles:
        """Return the tiles of the listing among all groups of images."""
        groups = self.groups()
        best = match_pattern(known.pattern, self.tree, self.candidates) if known else None
        slots = known.slots if known and best else ()
        if best is None:
            best = self._best(groups, known)
        if best is None:
            return ExtractedTiles(self.tree, [], "structure", groups=self.scored(groups))
        best = join_groups(best, groups)
        elements, slots = self._titled(best.images, best.tiles, slots)
        own = {element.tile.image_url for element in elements}
        others = frozenset(candidate.url for candidate in self.tree.candidates) - own
        listing = KnownListing(best.pattern, slots, len(elements), others)
        return ExtractedTiles(self.tree, elements, "structure", listing=listing, groups=self.scored(groups))

    def _best(self, groups: Sequence[ImageGroup], known: KnownListing | None) -> ImageGroup | None:
        scores = [(group.score(self._named(group)[2]), group) for group in groups if group.num_distinct > 1]
        score, best = max(scores, key=lambda pair: pair[0], default=(0.0, None))
        if best is None or score <= 0:
            return None
        # The last page of a tag, or one past it, shows few tiles or none, but still everything around them.
        if known and (best.num_distinct < MIN_OTHER_LISTING or 2 * best.num_distinct < known.num_tiles
                      or any(image.url in known.other_images for image in best.images)):  # fmt: skip
            return None
        return best

    def _named(self, group: ImageGroup) -> tuple[list[TileElement], tuple[str, ...], float]:
        """Return the tiles of a group, the slots of their titles, and the share of tiles with one."""
        elements, slots = self._titled(group.images, group.tiles)
        share = sum(bool(element.tile.title) for element in elements) / max(len(elements), 1)
        return elements, slots, share if slots else 0.5 * share

    def _titled(
        self, images: Sequence[Candidate], tiles: Sequence[PageNode], slots: Sequence[str] = ()
    ) -> tuple[list[TileElement], tuple[str, ...]]:
        texts = self._texts_by_tile(tiles)
        names = [tile_names(image, tile, texts[id(tile)]) for image, tile in zip(images, tiles, strict=True)]
        chosen = tuple(slots) or title_slots(names)
        elements = [self._element(*row, chosen) for row in zip(images, tiles, names, strict=True)]
        return elements, chosen

    def _element(self, image: Candidate, tile: PageNode, names: TileNames, slots: Sequence[str]) -> TileElement:
        # The original behind a proxy: the same image in three sizes is one URL then.
        address = self.profile.original_url(image.url)
        return TileElement(tile, image, Tile(address, names.first(slots)[:MAX_TITLE]))

    def _texts_by_tile(self, tiles: Sequence[PageNode]) -> dict[int, list[tuple[PageNode, str, str]]]:
        wanted, found = {id(tile) for tile in tiles}, defaultdict[int, list[tuple[int, PageNode, str, str]]](list)
        for node in self.tree.nodes:
            if node.texts:
                tile = next((n for n in (node, *node.ancestors()) if id(n) in wanted), None)
                if tile is not None:
                    found[id(tile)] += [(text.order, node, text.path, text.text) for text in node.texts]
        in_order = {key: sorted(texts, key=lambda row: row[0]) for key, texts in found.items()}
        return defaultdict(list, {key: [row[1:] for row in texts] for key, texts in in_order.items()})


def _marked_around(node: PageNode, mark: str) -> PageNode | None:
    return next((around for around in (node, *node.ancestors()) if mark in around.marks), None)


def describe_page(extracted: ExtractedTiles) -> str:
    """Describe a page without tiles for people: its title, its images, the beginning of its text."""
    tree = extracted.tree
    # Groups of similar images hint at tiles that the structure did not recognize.
    groups = Counter(short_selector(candidate.node) for candidate in tree.candidates)
    repeated = [f"{count} like {path!r}" for path, count in groups.most_common(2) if count > 1]
    number = max(tree.num_images, len(tree.candidates))
    parts = [
        f"the page {tree.title[:MAX_QUOTE_CHARS]!r}" if tree.title else "the page",
        f"holds {number} image{'' if number == 1 else 's'}" + (", " if number else ""),
        (" and ".join(repeated) or "none repeated") if number else "",
    ]
    return f"{parts[0]} {parts[1]}{parts[2]}" + (f"; it says {tree.text[:MAX_QUOTE_CHARS]!r}" if tree.text else "")


def short_selector(node: PageNode) -> str:
    """Return a readable selector of an element: its last three levels, such as `aside > div.panel > img`."""
    path = [step for step in (node, *node.ancestors()) if step.tag not in ("html", "body")][:3]
    return " > ".join(reversed([f"{step.tag}.{step.classes[0]}" if step.classes else step.tag for step in path]))
