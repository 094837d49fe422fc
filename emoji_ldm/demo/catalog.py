"""What hangs in the gallery: tiles by tag, the files behind them, and the traps among them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from emoji_ldm.demo.sample_images import TAGS, SampleImage, encode_as

PER_PAGE = 60
NUM_DUPLICATES, NUM_DEAD, NUM_PRIVATE = 12, 5, 2

# How a tile's URL answers. All but "good" are traps:
#   duplicate  sound, the pixels of a good one, in the other file format
#   dead       404            error      500
#   slow       trickles and never completes
#   not_image  200, image content type, a web page as body
#   truncated  200, half of an image file
#   private    sound, but robots.txt forbids it
KINDS = ("good", "duplicate", "dead", "error", "slow", "not_image", "truncated", "private")

_LOGIN_PAGE = b"<!doctype html><title>Sign in</title><h1>Please sign in</h1><p>This emoji is for members.</p>"


@dataclass(frozen=True)
class GalleryTile:
    """One emoji of a listing; `path` is the original file's, `copy_of` the path whose pixels a duplicate repeats."""

    title: str
    path: str
    tags: tuple[str, ...]
    kind: str
    data: bytes = b""
    media_type: str = "image/png"
    copy_of: str | None = None

    def url(self, site_url: str) -> str:
        """The address in the listing: the image proxy's, but for private files, which stand bare."""
        if self.kind == "private":
            return site_url + self.path
        return f"{site_url}/_next/image?url={quote(site_url + self.path, safe='')}&w=128&q=75"


def build_tiles(pictures: Sequence[SampleImage], limit_per_tag: int | None, seed: int) -> list[GalleryTile]:
    """All tiles in listing order: at most `limit_per_tag` good ones a tag, and the traps on top.

    The same arguments give the same tiles.
    """
    rng = random.Random(seed)
    shuffled = rng.sample(list(pictures), len(pictures))
    # These four belong to traps alone: who shows their pixels broke robots.txt or took a broken file.
    reserved = [picture for picture in shuffled if "Blobs" in picture.tags][: NUM_PRIVATE + 2]
    good = _limit_per_tag([_tile(p, "good") for p in shuffled if p not in reserved], limit_per_tag)
    tiles = [*good, *_duplicates(good, rng), *_faults(reserved)]
    rng.shuffle(tiles)
    return tiles


def tiles_on_page(tiles: Iterable[GalleryTile], tag: str, page: int) -> tuple[list[GalleryTile], int]:
    """The tiles of one page (from 1; none past the end) and the number of pages of the tag."""
    tagged = [tile for tile in tiles if tag in tile.tags]
    first = (page - 1) * PER_PAGE
    return (tagged[first : first + PER_PAGE] if page >= 1 else []), -(-len(tagged) // PER_PAGE)


def _tile(picture: SampleImage, kind: str) -> GalleryTile:
    path = _path(picture.name, picture.media_type, "private" if kind == "private" else "media")
    return GalleryTile(picture.title, path, picture.tags, kind, picture.data, picture.media_type)


def _path(name: str, media_type: str, folder: str = "media") -> str:
    """An address with an 18-digit number, as chat services give it, fixed by the name."""
    number = 10**17 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % (9 * 10**17)
    return f"/{folder}/emojis/{number}.{media_type.removeprefix('image/')}"


def _limit_per_tag(tiles: list[GalleryTile], limit_per_tag: int | None) -> list[GalleryTile]:
    """The tiles, each under those of its tags that still had room."""
    if limit_per_tag is None:
        return tiles
    room = dict.fromkeys(TAGS, limit_per_tag)
    kept = []
    for tile in tiles:
        tags = tuple(tag for tag in tile.tags if room[tag] > 0)
        room.update({tag: room[tag] - 1 for tag in tags})
        if tags:
            kept.append(replace(tile, tags=tags))
    return kept


def _duplicates(good: list[GalleryTile], rng: random.Random) -> list[GalleryTile]:
    """Copies under other addresses; a third of them are blobs, so that one tag alone shows some."""
    blobs = [tile for tile in good if "Blobs" in tile.tags]
    others = [tile for tile in good if "Blobs" not in tile.tags]
    num_blobs = min(NUM_DUPLICATES // 3, len(blobs))
    sources = rng.sample(blobs, num_blobs) + rng.sample(others, min(NUM_DUPLICATES - num_blobs, len(others)))
    return [_duplicate(tile) for tile in sources]


def _duplicate(tile: GalleryTile) -> GalleryTile:
    media_type = "image/png" if tile.media_type == "image/webp" else "image/webp"
    data, path = encode_as(tile.data, media_type), _path(f"copy of {tile.path}", media_type)
    return replace(tile, path=path, kind="duplicate", data=data, media_type=media_type, copy_of=tile.path)


def _faults(reserved: list[SampleImage]) -> list[GalleryTile]:
    """The tiles that a crawl must not bring home; all of them but four dead ones hang in Blobs."""
    *private, slow, truncated = reserved
    whole = encode_as(truncated.data, "image/png")
    half = replace(truncated, data=whole[: len(whole) // 2], media_type="image/png")
    blobs = ("Blobs",)
    return [
        *(_tile(picture, "private") for picture in private),
        _tile(slow, "slow"),
        _tile(half, "truncated"),
        GalleryTile("Blob for members", _path("members", "image/png"), blobs, "not_image", _LOGIN_PAGE),
        GalleryTile("Blob upload", _path("upload", "image/png"), blobs, "error"),
        *(
            GalleryTile(f"Deleted {tag.lower()}", _path(f"dead {tag}", "image/png"), (tag,), "dead")
            for tag in TAGS[:NUM_DEAD]
        ),
    ]
