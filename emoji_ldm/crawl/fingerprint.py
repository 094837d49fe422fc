"""The look of a picture in about a kilobyte: what a resize, a re-encoding, padding or another background leaves."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

GRID = 12  # cells a side
HEADER = 8  # 1 if a flat background was cut out, its colour (R, G, B), 4 unused
VIEWS = 2  # the whole frame; the content alone, for pictures that were padded
CELLS = VIEWS * GRID * GRID * 4
LENGTH = HEADER + CELLS
REACH = 2.2  # half the content's window in its standard deviations; a disc's radius is 2 of them
FLAT_WITHIN = 14  # levels that a background may stray from its colour, for the noise of JPEG
WHITE_OR_BLACK = 40  # levels: backgrounds that pictures hold themselves, so that only what lies outside is cut
FLAT_BORDER = 0.5  # share of the border that a background must fill at least; content may touch the rest
FILTER = Image.Resampling.HAMMING  # smooth, so that a shift below one pixel hardly tells


def fingerprint(pixels: Bytes) -> bytes:
    """The look of canonical `(h, w, 4)` RGBA pixels as `LENGTH` bytes; compare with `emoji_ldm.crawl.near`.

    Two `(GRID, GRID, 4)` thumbnails with premultiplied alpha, of the whole frame and of its content. An opaque flat
    background is cut out, and its colour is kept: pictures are compared over that colour, so that holes or edges
    that were cut out wrongly make no difference.
    """
    colour = background(pixels)
    if colour is not None:
        pixels = _cut(pixels, colour)
    image = Image.fromarray(pixels, "RGBA").convert("RGBa")
    views = (_view(image, *window) for window in (_frame(image), _content(pixels[..., 3])))
    header = (0,) * HEADER if colour is None else (1, *colour.tolist(), 0, 0, 0, 0)
    return bytes(header) + b"".join(view.tobytes() for view in views)


def background(pixels: Bytes) -> Bytes | None:
    """Colour (R, G, B) of an opaque flat background, as the outermost pixels show it; None if there is none."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    if border[:, 3].min() < 255:
        return None
    colour: Bytes = np.sort(border[:, :3], axis=0)[len(border) // 2]
    near = (np.abs(border[:, :3].astype(np.int16) - colour) <= FLAT_WITHIN).all(1)
    return colour if near.mean() >= FLAT_BORDER else None


def _cut(pixels: Bytes, colour: Bytes) -> Bytes:
    """The picture without its background; the pixel or two that are half background become half transparent."""
    off = np.abs(pixels[..., :3].astype(np.int16) - colour).astype(np.uint8)
    away: Bytes = np.maximum(np.maximum(off[..., 0], off[..., 1]), off[..., 2])
    flat = away <= FLAT_WITHIN
    if colour.max() < WHITE_OR_BLACK or colour.min() > 255 - WHITE_OR_BLACK:
        flat = _outside(flat)  # white eyes on a white page are not holes
    edge = _grown(_grown(flat)) & ~flat
    strongest = np.asarray(Image.fromarray(away).filter(ImageFilter.MaxFilter(5)))
    alpha = np.full(flat.shape, np.float32(1))
    alpha[flat] = 0
    alpha[edge] = np.maximum(away[edge], 1) / np.maximum(strongest[edge], 1).astype(np.float32)
    inner = (pixels[edge, :3] - colour * (1 - alpha[edge, None])) / alpha[edge, None]
    cut = pixels.copy()
    cut[edge, :3] = np.rint(inner).clip(0, 255)
    cut[..., 3] = np.rint(alpha * 255)
    return cut


def _outside(flat: Mask) -> Mask:
    """`(h, w)`: where the background is seen straight from one of the four sides."""
    return _beside(~flat) | _beside(np.ascontiguousarray(~flat.T)).T


def _beside(solid: Mask) -> Mask:
    """What lies left of the first solid pixel of each row, or right of the last."""
    places, width = np.arange(solid.shape[1]), solid.shape[1]
    first, last = solid.argmax(1), width - 1 - solid[:, ::-1].argmax(1)
    first[~solid.any(1)] = width
    beside: Mask = (places < first[:, None]) | (places > last[:, None])
    return beside


def _grown(mask: Mask) -> Mask:
    """The mask and its four neighbours."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _frame(image: Image.Image) -> tuple[float, float, float]:
    """Centre x, y and half side of the square around the picture."""
    return image.width / 2, image.height / 2, max(image.size) / 2


def _content(alpha: Bytes) -> tuple[float, float, float]:
    """Centre x, y and half side of a square around the silhouette, from its moments: exact below a pixel.

    Holes count as filled, since a white one is not told from a white part once the picture lies on white.
    """
    outside = _outside(alpha <= FLAT_WITHIN)
    edge = _grown(_grown(outside))
    weight = np.where(edge, alpha, np.uint8(255))
    weight[outside] = 0
    x, spread_x = _moments(weight.sum(0, dtype=np.int64))
    y, spread_y = _moments(weight.sum(1, dtype=np.int64))
    return x, y, REACH * max(1.0, (spread_x + spread_y) / 2) ** 0.5


def _moments(weights: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and variance of where the weight is."""
    places, total = _places(len(weights)), max(1, int(weights.sum()))
    mean = float(weights @ places) / total
    return mean, float(weights @ (places - mean) ** 2) / total


@cache
def _places(length: int) -> NDArray[np.float64]:
    return np.arange(length, dtype=np.float64) + 0.5


def _view(image: Image.Image, x: float, y: float, half: float) -> Image.Image:
    """`GRID` x `GRID` pixels of a square window, which may reach beyond the picture."""
    margin = max(0, math.ceil(half - min(x, y, image.width - x, image.height - y)))
    if margin:
        canvas = Image.new("RGBa", (image.width + 2 * margin, image.height + 2 * margin))
        canvas.paste(image, (margin, margin))
        image, x, y = canvas, x + margin, y + margin
    return image.resize((GRID, GRID), FILTER, box=(x - half, y - half, x + half, y + half))
