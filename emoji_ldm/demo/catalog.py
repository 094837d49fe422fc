"""The catalog of the gallery: tiles by tag, the files behind them, and the faults among them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from emoji_ldm.demo.sample_images import TAGS, SampleImage, encode_as

TILES_PER_PAGE = 60
NUM_DUPLICATES, NUM_DEAD, NUM_PRIVATE = 12, 5, 2

# How a tile's URL answers. All but "good" are faults that a crawl must handle:
#   duplicate  valid, with the pixels of a good one in the other file format
#   dead       404            error      500
#   slow       sends a byte now and then and never completes
#   not_image  200, content type of an image, a web page as body
#   truncated  200, half of an image file
#   private    valid, but robots.txt forbids it
KINDS = ("good", "duplicate", "dead", "error", "slow", "not_image", "truncated", "private")

_LOGIN_PAGE = b"<!doctype html><title>Sign in</title><h1>Please sign in</h1><p>This emoji is for members.</p>"


@dataclass(frozen=True)
class GalleryTile:
    """One emoji of a listing."""

    title: str
    path: str  # of the original file
    tags: tuple[str, ...]
    kind: str  # one of `KINDS`
    data: bytes = b""
    media_type: str = "image/png"
    copy_of: str | None = None  # path of the tile whose pixels a duplicate repeats

    def url(self, site_url: str) -> str:
        """Return the URL in the listing: that of the image proxy, except for private files."""
        if self.kind == "private":
            return site_url + self.path
        return f"{site_url}/_next/image?url={quote(site_url + self.path, safe='')}&w=128&q=75"


def build_tiles(images: Sequence[SampleImage], limit_per_tag: int | None, seed: int) -> list[GalleryTile]:
    """Return all tiles in listing order: at most `limit_per_tag` good ones per tag, and the faults in addition.

    The same arguments give the same tiles.
    """
    rng = random.Random(seed)
    shuffled = rng.sample(list(images), len(images))
    # These four images occur in faults only: a crawl that has their pixels broke robots.txt or accepted a broken file.
    reserved = [image for image in shuffled if "Blobs" in image.tags][: NUM_PRIVATE + 2]
    # Faults are added after the limit, so that even a small gallery has all of them.
    good = _limit_per_tag([_tile(image, "good") for image in shuffled if image not in reserved], limit_per_tag)
    tiles = [*good, *_duplicates(good, rng), *_faults(reserved)]
    rng.shuffle(tiles)
    return tiles


def tiles_on_page(tiles: Iterable[GalleryTile], tag: str, page: int) -> tuple[list[GalleryTile], int]:
    """Return the tiles of one page (from 1; none past the end) and the number of pages of the tag."""
    tagged = [tile for tile in tiles if tag in tile.tags]
    first = (page - 1) * TILES_PER_PAGE
    return (tagged[first : first + TILES_PER_PAGE] if page >= 1 else []), -(-len(tagged) // TILES_PER_PAGE)


def _tile(image: SampleImage, kind: str) -> GalleryTile:
    path = _path(image.name, image.media_type, "private" if kind == "private" else "media")
    return GalleryTile(image.title, path, image.tags, kind, image.data, image.media_type)


def _path(name: str, media_type: str, folder: str = "media") -> str:
    """Return a path with an 18-digit number, as chat services use, derived from the name."""
    # Derived, not random: the same emoji has the same URL in every gallery.
    number = 10**17 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % (9 * 10**17)
    return f"/{folder}/emojis/{number}.{media_type.removeprefix('image/')}"


def _limit_per_tag(tiles: list[GalleryTile], limit_per_tag: int | None) -> list[GalleryTile]:
    """Return the tiles, each under those of its tags that are not full yet."""
    if limit_per_tag is None:
        return tiles
    left = dict.fromkeys(TAGS, limit_per_tag)
    limited = []
    for tile in tiles:
        tags = tuple(tag for tag in tile.tags if left[tag] > 0)
        left.update({tag: left[tag] - 1 for tag in tags})
        if tags:
            limited.append(replace(tile, tags=tags))
    return limited


def _duplicates(good: list[GalleryTile], rng: random.Random) -> list[GalleryTile]:
    """Return copies under other URLs; a third of them are blobs, so that a crawl of that tag alone meets some."""
    blobs = [tile for tile in good if "Blobs" in tile.tags]
    others = [tile for tile in good if "Blobs" not in tile.tags]
    num_blobs = min(NUM_DUPLICATES // 3, len(blobs))
    sources = rng.sample(blobs, num_blobs) + rng.sample(others, min(NUM_DUPLICATES - num_blobs, len(others)))
    return [_duplicate(tile) for tile in sources]


def _duplicate(tile: GalleryTile) -> GalleryTile:
    # The other format: equal pixels in other bytes, which only a comparison of pixels recognizes.
    media_type = "image/png" if tile.media_type == "image/webp" else "image/webp"
    data, path = encode_as(tile.data, media_type), _path(f"copy of {tile.path}", media_type)
    return replace(tile, path=path, kind="duplicate", data=data, media_type=media_type, copy_of=tile.path)


def _faults(reserved: list[SampleImage]) -> list[GalleryTile]:
    """Return the tiles whose images a crawl must not store. All but four dead ones are in Blobs."""
    *private, slow, truncated = reserved
    complete = encode_as(truncated.data, "image/png")
    half = replace(truncated, data=complete[: len(complete) // 2], media_type="image/png")
    blobs = ("Blobs",)
    return [
        *(_tile(image, "private") for image in private),
        _tile(slow, "slow"),
        _tile(half, "truncated"),
        GalleryTile("Blob for members", _path("members", "image/png"), blobs, "not_image", _LOGIN_PAGE),
        GalleryTile("Blob upload", _path("upload", "image/png"), blobs, "error"),
        *(
            GalleryTile(f"Deleted {tag.lower()}", _path(f"dead {tag}", "image/png"), (tag,), "dead")
            for tag in TAGS[:NUM_DEAD]
        ),
    ]
