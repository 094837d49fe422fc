"""What a perfect crawl of a corpus site finds, and how the tiles that a crawl found compare with it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import Image

COMPARE_PX = 32
MAX_DIFFERENCE = 12.0  # of 255, mean over all channels: renderings of one picture differ by 3, other pictures by 30


@dataclass(frozen=True)
class TruthTile:
    """One emoji of a listing: the address of its best image and its title.

    A picture that has no address of its own (inline SVG) has `picture`, a PNG. A `data:` URL that shows the same
    picture is right then.
    """

    url: str
    title: str
    accept: frozenset[str] = frozenset()  # addresses that are as good
    smaller: frozenset[str] = frozenset()  # addresses of the same emoji in smaller sizes: wrong, but told apart
    picture: bytes = b""
    page: int = 1  # the page of the listing that shows it, from 1


@dataclass
class Comparison:
    """How found tiles compare with the truth. A tile that was found twice counts once."""

    num_truth: int
    num_found: int  # distinct images that were found
    num_right: int  # of them in the truth
    num_titled: int  # right ones whose title is right as well
    num_smaller: int = 0  # wrong ones that are an emoji of the listing, but not its best image
    missing: list[TruthTile] = field(default_factory=list)
    extra: list[tuple[str, str]] = field(default_factory=list)  # (URL, title)
    wrong_titles: list[tuple[str, str]] = field(default_factory=list)  # (found, right)

    @property
    def precision(self) -> float:
        """Share of the found images that are emoji of the listing; 1 if nothing was found."""
        return self.num_right / self.num_found if self.num_found else 1.0

    @property
    def recall(self) -> float:
        """Share of the emoji of the listing that were found."""
        return self.num_right / self.num_truth

    @property
    def title_accuracy(self) -> float:
        """Share of the right images that have the right title; 0 if there are none."""
        return self.num_titled / self.num_right if self.num_right else 0.0

    def report(self, limit: int = 5) -> str:
        """Return the figures and some examples of what is wrong, for people."""
        head = f"precision {self.precision:.3f}  recall {self.recall:.3f}  titles {self.title_accuracy:.3f}"
        counts = f"{self.num_right} right of {self.num_found} found, {self.num_smaller} too small"
        lines = [f"{head}  ({counts}; truth has {self.num_truth})"]
        lines += [f"  missing (page {t.page})  {t.title!r}  {t.url[:110]}" for t in self.missing[:limit]]
        lines += [f"  extra    {title[:40]!r}  {url[:110]}" for url, title in self.extra[:limit]]
        lines += [f"  title    {found[:60]!r} should be {right!r}" for found, right in self.wrong_titles[:limit]]
        return "\n".join(lines)


def compare(found: Iterable[tuple[str, str]], truth: Iterable[TruthTile]) -> Comparison:
    """Compare found (image URL, title) pairs with the truth of a site.

    Each emoji of the truth is matched at most once: a second address for the same emoji is a wrong tile.
    """
    expected = list(truth)
    by_url = {_key(url): tile for tile in expected for url in (tile.url, *tile.accept)}
    smaller = {_key(url) for tile in expected for url in tile.smaller}
    first: dict[str, str] = {}
    for url, title in found:
        first.setdefault(_key(url), title)
    matched: dict[str, str] = {}  # {URL of the truth: found title}
    result = Comparison(len(expected), len(first), 0, 0)
    for url, title in first.items():
        tile = by_url.get(url) or _same_picture(url, expected)
        if tile is None or tile.url in matched:
            result.extra.append((url, title))
            result.num_smaller += url in smaller
        else:
            matched[tile.url] = title
    result.num_right = len(matched)
    for tile in expected:
        if tile.url not in matched:
            result.missing.append(tile)
        elif normalize_title(matched[tile.url]) == normalize_title(tile.title):
            result.num_titled += 1
        else:
            result.wrong_titles.append((matched[tile.url], tile.title))
    return result


def normalize_title(title: str) -> str:
    """Return a title in lower case with single spaces."""
    return " ".join(title.casefold().split())


def _key(url: str) -> str:
    """Return an address in one spelling: escapes such as %40 may be written or not."""
    return url if url.startswith("data:") else unquote(url)


def _same_picture(url: str, truth: list[TruthTile]) -> TruthTile | None:
    """Return the tile whose picture a data: URL shows, among those that have no address of their own."""
    candidates = [tile for tile in truth if tile.picture]
    if not candidates or not url.startswith("data:"):
        return None
    pixels = _pixels(decode_data_url(url))
    if pixels is None:
        return None
    differences = [float(np.abs(pixels - _truth_pixels(tile.picture)).mean()) for tile in candidates]
    best = int(np.argmin(differences))
    return candidates[best] if differences[best] <= MAX_DIFFERENCE else None


def decode_data_url(url: str) -> bytes:
    """Return the body of a data: URL."""
    head, _, body = url.partition(",")
    return base64.b64decode(unquote_to_bytes(body)) if head.endswith(";base64") else unquote_to_bytes(body)


@lru_cache(maxsize=1024)
def _truth_pixels(picture: bytes) -> np.ndarray:
    pixels = _pixels(picture)
    assert pixels is not None, "the truth's own picture can be decoded"
    return pixels


def _pixels(data: bytes) -> np.ndarray | None:
    """Return an image or SVG on white as float32 (32, 32, 3); None if it is neither."""
    if b"<svg" in data[:2000]:
        import resvg_py

        try:
            data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=128, height=128, skip_system_fonts=True))
        except ValueError:
            return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgba = image.convert("RGBA").resize((COMPARE_PX, COMPARE_PX), Image.Resampling.BOX)
    except OSError:
        return None
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"), np.float32)
