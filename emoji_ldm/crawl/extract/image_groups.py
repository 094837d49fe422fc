"""Groups of similar images on a page: the tiles of its listing are one of them, avatars and icons are others.

Images belong together if they are the same kind of element at the same place in repeated elements. The tile of an image
is the outermost element around it that holds no other image of its group. In a row of a grid with a single image left,
that would be the whole row, so all tiles of a group have the depth that most of them have.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from emoji_ldm.crawl.extract.page_places import PagePlaces, Place
from emoji_ldm.crawl.extract.page_tree import Candidate, PageNode, PageTree

# Class names of states, which scripts add and remove: images in view are no other kind than those below.
STATE_CLASS = re.compile(r"lazy|load|blur|visible|active|hover|select|fade|show|enter|cached|seen|error", re.IGNORECASE)
MIN_SHARED_CLASS = 3  # elements that share a class name; a rarer one names a single picture
PLACE_WEIGHTS = {Place.CONTENT: 1.0, Place.OUTSIDE: 0.5, Place.BESIDE: 0.25}  # of other places: never a listing
SMALL_PX, BANNER_PX = 32, 700
MIN_SMALL = 24  # images of a group smaller than that, from which on it may be the listing
MIN_BESIDE = 24  # images of a group beside the listing, from which on it may itself be the listing


@dataclass(frozen=True)
class GroupPattern:
    """What the images of a group have in common: it finds the same group on other pages of the site."""

    leaf: tuple[str, ...]  # kind and class names of the image itself
    inner: tuple[str, ...]  # tags from the image out to the tile
    container: tuple[str, ...]  # tag, id and class names of the element that holds the tiles
    place: Place


@dataclass
class ImageGroup:
    """Images that belong together, in the order of the page, with their tiles."""

    pattern: GroupPattern
    images: list[Candidate]
    tiles: list[PageNode]

    @property
    def num_distinct(self) -> int:
        """Number of different addresses."""
        return len({image.url for image in self.images})

    @property
    def shown_px(self) -> float:
        """Median of the shorter sides of its images; a little more than that of an icon if they are unknown."""
        sizes = [min(image.size) for image in self.images if min(image.size) > 1]
        return median(sizes) if sizes else SMALL_PX + 1

    def containers(self) -> set[int]:
        """Return the ids of the elements right around the tiles."""
        return {id(tile.parent) for tile in self.tiles}

    def score(self, titled: float) -> float:
        """Return how likely the group is the listing; `titled` is the share of tiles with a title. 0: it is not."""
        weight, num = PLACE_WEIGHTS.get(self.pattern.place, 0.0), self.num_distinct
        if num < 2 or (self.pattern.place is Place.BESIDE and num < MIN_BESIDE):
            return 0.0
        # Small images are icons, unless there are as many as in a picker of emoji.
        if self.shown_px < SMALL_PX and num < MIN_SMALL:
            return 0.0
        # Repeated addresses are icons and badges rather than things that each have a picture.
        repeated = num / len(self.images)
        return num * weight * (repeated if repeated < 0.5 else 1.0) * (0.3 + 0.7 * titled)


def group_images(tree: PageTree, candidates: Sequence[Candidate]) -> list[ImageGroup]:
    """Group candidates, in the order of the page."""
    places, leaf_of = PagePlaces(tree), _leaf_classes(tree)
    # A background behind an image only shows until that image has loaded.
    framed = {id(candidate.node.parent) for candidate in candidates}
    shown = [
        candidate for candidate in candidates
        if max(candidate.size) < BANNER_PX and not (candidate.kind == "background" and id(candidate.node) in framed)
    ]  # fmt: skip
    by_leaf: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in shown:
        by_leaf[(candidate.kind, *leaf_of[id(candidate.node)])].append(candidate)
    groups: dict[GroupPattern, ImageGroup] = {}
    for leaf, members in by_leaf.items():
        tiles = _tiles_at_common_depth(members, _tiles(members))
        for candidate, tile in zip(members, tiles, strict=True):
            inner, holder = _steps(candidate.node, tile), tile.parent
            pattern = GroupPattern(leaf, inner, _container(holder), places.place(candidate))
            group = groups.setdefault(pattern, ImageGroup(pattern, [], []))
            group.images.append(candidate)
            group.tiles.append(tile)
    for group in groups.values():
        _widen_tiles(group)
    return list(groups.values())


def join_groups(chosen: ImageGroup, groups: Sequence[ImageGroup]) -> ImageGroup:
    """Return the chosen group together with those of the same kind: its other sections, and other tiles of its grid."""
    images = dict(zip(map(id, chosen.images), zip(chosen.images, chosen.tiles, strict=True), strict=True))
    containers, tiles = chosen.containers(), {id(tile) for tile in chosen.tiles}
    for group in groups:
        if group is chosen or group.pattern.place is not chosen.pattern.place:
            continue
        same_grid = group.containers() <= containers and not tiles & {id(tile) for tile in group.tiles}
        if (same_grid and _are_alike(group, chosen)) or _is_section_of(group, chosen):
            images |= dict(zip(map(id, group.images), zip(group.images, group.tiles, strict=True), strict=True))
    pairs = sorted(images.values(), key=lambda pair: pair[0].order)
    return ImageGroup(chosen.pattern, [image for image, _ in pairs], [tile for _, tile in pairs])


def match_pattern(pattern: GroupPattern, tree: PageTree, candidates: Sequence[Candidate]) -> ImageGroup | None:
    """Return the images of a pattern that was learned on another page, however few they are; None without any."""
    places, found = PagePlaces(tree), list[tuple[Candidate, PageNode]]()
    for candidate in candidates:
        # Few images share no class names that could be told from their own, so those of the pattern are looked for.
        is_leaf = candidate.kind == pattern.leaf[0] and {*pattern.leaf[1:]} <= {*candidate.node.classes}
        tile = _tile_at(candidate.node, pattern) if is_leaf else None
        if tile is not None and places.place(candidate) is pattern.place:
            found.append((candidate, tile))
    if not found:
        return None
    group = ImageGroup(pattern, [candidate for candidate, _ in found], [tile for _, tile in found])
    _widen_tiles(group)
    return group


def _tile_at(node: PageNode, pattern: GroupPattern) -> PageNode | None:
    """Return the element around an image at the depth of the pattern, if tags and container are those of it."""
    tile: PageNode | None = node
    for number, step in enumerate(pattern.inner):
        if tile is None or tile.step != step:
            return None
        if number + 1 < len(pattern.inner):
            tile = tile.parent
    holder = tile.parent if tile is not None else None
    return tile if _container(holder) == pattern.container else None


def _leaf_classes(tree: PageTree) -> dict[int, tuple[str, ...]]:
    """Return {element: its class names} without states, and without those that name a single picture."""
    counts = Counter(name for candidate in tree.candidates for name in set(candidate.node.classes))
    return {
        id(candidate.node): tuple(sorted(
            name for name in set(candidate.node.classes)
            if counts[name] >= MIN_SHARED_CLASS and not STATE_CLASS.search(name)
        ))
        for candidate in tree.candidates
    }  # fmt: skip


def _tiles(members: Sequence[Candidate]) -> list[PageNode]:
    """Return the outermost element around each image that holds no other image of these."""
    counts = Counter(id(node) for member in members for node in (member.node, *member.node.ancestors()))
    tiles = []
    for member in members:
        tile = member.node
        for node in member.node.ancestors():
            if counts[id(node)] > 1 or node.tag in ("body", "html", "main", "iframe"):
                break
            tile = node
        tiles.append(tile)
    return tiles


def _tiles_at_common_depth(members: Sequence[Candidate], tiles: Sequence[PageNode]) -> list[PageNode]:
    """Return tiles, those that reach too far out cut to the steps that others in the same kind of container have."""
    known = Counter((_steps(m.node, tile), _container(tile.parent)) for m, tile in zip(members, tiles, strict=True))
    cut = []
    for member, tile in zip(members, tiles, strict=True):
        node, path, best = member.node, _steps(member.node, tile), tile
        # From the inside out: each element up to the tile may be a tile in a container that others have too.
        for depth in range(1, len(path)):
            if known[path[:depth], _container(node.parent)] > known[path, _container(tile.parent)]:
                best = node
                break
            node = node.parent or node
        cut.append(best)
    return cut


def _widen_tiles(group: ImageGroup) -> None:
    """Let tiles grow to the outermost elements that hold one image of the group only, such as rows of a table."""
    if not all(tile.tag in ("td", "th") for tile in group.tiles):
        return
    group.tiles = [tile.parent if tile.parent is not None else tile for tile in group.tiles]


def _steps(node: PageNode, tile: PageNode) -> tuple[str, ...]:
    steps = [node.step]
    while node is not tile and node.parent is not None:
        node = node.parent
        steps.append(node.step)
    return tuple(steps)


def _are_alike(group: ImageGroup, chosen: ImageGroup) -> bool:
    """Whether two groups in one grid differ only in what surrounds each image: a link here and none there."""
    return group.pattern.leaf[0] == chosen.pattern.leaf[0] and group.num_distinct > 0.5 * len(group.images)


def _is_section_of(group: ImageGroup, chosen: ImageGroup) -> bool:
    """Whether a group stands in another container of the same kind, beside that of the chosen one."""
    same = group.pattern.leaf == chosen.pattern.leaf and group.pattern.inner == chosen.pattern.inner
    if not same or group.num_distinct < 2 or group.pattern.container[:1] != chosen.pattern.container[:1]:
        return False
    # Sections share a class name or have none, and are siblings. A rail of other things, made of the same component, is
    # called differently or stands in a part of its own.
    own, other = {*group.pattern.container[2:]}, {*chosen.pattern.container[2:]}
    if (own or other) and not own & other:
        return False
    return bool(_around(group) & _around(chosen))


def _container(node: PageNode | None) -> tuple[str, ...]:
    """Return what tells a container from others: tag, id and class names."""
    return () if node is None else (node.step, node.attributes.get("id", ""), *node.classes)


def _around(group: ImageGroup) -> set[int]:
    return {id(tile.parent.parent) for tile in group.tiles if tile.parent is not None}
