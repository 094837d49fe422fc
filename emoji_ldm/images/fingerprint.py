"""The look of a picture in about a kilobyte: what a resize, a re-encoding, padding or another background leaves."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

GRID = 12  # cells a side
HEADER = 8  # 1 if a flat background was cut out, its colour (R, G, B), 4 unused
VIEWS = 2  # the whole frame; the content alone, for pictures that were padded
CELLS = VIEWS * GRID * GRID * 4
LENGTH = HEADER + CELLS
CONTENT_EXTENT = 2.2  # half the content's window in its standard deviations; a disc's radius is 2 of them
FLAT_TOLERANCE = 14  # levels that a background may stray from its colour, for the noise of JPEG
WORKING_SIZE_PX = 64  # pixels a side, up to twice that: views and content need no more, and cost half
WHITE_BLACK_TOLERANCE = 40  # levels: backgrounds that pictures hold themselves, so that only what lies outside is cut
MIN_FLAT_BORDER_FRACTION = 0.1  # share of the border that a background must fill at least; content may touch the rest
FILTER = Image.Resampling.HAMMING  # smooth, so that a shift below one pixel hardly tells


def fingerprint(pixels: Bytes) -> bytes:
    """The look of canonical `(h, w, 4)` RGBA pixels as `LENGTH` bytes; compare with `emoji_ldm.images.near_duplicate_index`.

    Two `(GRID, GRID, 4)` thumbnails with premultiplied alpha, of the whole frame and of its content. An opaque flat
    background is cut out, and its colour is kept: pictures are compared over that colour, so that holes or edges
    that were cut out wrongly make no difference.
    """
    colour = background(pixels)
    if colour is not None:
        pixels = _remove_background(pixels, colour)
    image = Image.fromarray(pixels, "RGBA").convert("RGBa")
    image = image.reduce(max(1, max(image.size) // WORKING_SIZE_PX))
    views = (_view(image, *window) for window in (_frame(image), _content(np.asarray(image.getchannel(3)))))
    header = (0,) * HEADER if colour is None else (1, *colour.tolist(), 0, 0, 0, 0)
    return bytes(header) + b"".join(view.tobytes() for view in views)


def background(pixels: Bytes) -> Bytes | None:
    """Colour (R, G, B) of an opaque flat background, as three corners or all show it; None if there is none."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    if border[:, 3].min() < 255:
        return None
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3]  # of a button that fills the frame they are all that is seen
    colour: Bytes = np.sort(corners, axis=0)[1]
    if (np.abs(corners.astype(np.int16) - colour) <= FLAT_TOLERANCE).all(1).sum() < len(corners) - 1:
        return None
    near = (np.abs(border[:, :3].astype(np.int16) - colour) <= FLAT_TOLERANCE).all(1)
    return colour if near.mean() >= MIN_FLAT_BORDER_FRACTION else None


def _remove_background(pixels: Bytes, colour: Bytes) -> Bytes:
    """The picture without its background; the pixel or two that are half background become half transparent."""
    away = _distance_from_colour(pixels, colour)
    flat = away <= FLAT_TOLERANCE
    if colour.max() < WHITE_BLACK_TOLERANCE or colour.min() > 255 - WHITE_BLACK_TOLERANCE:
        flat = _outside(flat)  # white eyes on a white page are not holes
    edge = np.flatnonzero(_dilate(_dilate(flat)) & ~flat)
    own, strongest = (np.maximum(values.ravel()[edge], 1) for values in (away, _local_maximum(away)))
    alpha = (own / strongest.astype(np.float32))[:, None]
    inner = (pixels.reshape(-1, 4)[edge, :3] - colour * (1 - alpha)) / alpha
    cut = pixels.copy()
    cut[..., 3] = ~flat * np.uint8(255)
    cut.reshape(-1, 4)[edge] = np.rint(np.concatenate([inner, alpha * 255], 1)).clip(0, 255)
    return cut


def _distance_from_colour(pixels: Bytes, colour: Bytes) -> Bytes:
    """How far each pixel is from a colour, in the channel where it is farthest; `(h, w)` levels."""
    away = np.zeros(pixels.shape[:2], np.uint8)
    for channel, level in enumerate(colour):
        values = np.ascontiguousarray(pixels[..., channel])
        np.maximum(away, np.maximum(values, level) - np.minimum(values, level), out=away)
    return away


def _local_maximum(values: Bytes) -> Bytes:
    """The largest value within two pixels, of `(h, w)`."""
    for _ in range(2):
        wide = np.pad(values, 2).T  # once along the rows, once along the columns
        length = len(wide) - 4
        values = np.maximum.reduce([wide[step : step + length] for step in range(5)])[:, 2:-2]
    return values


def _outside(flat: Mask) -> Mask:
    """`(h, w)`: where the background is seen straight from one of the four sides."""
    return _beside(~flat) | _beside(np.ascontiguousarray(~flat.T)).T


def _beside(solid: Mask) -> Mask:
    """What lies left of the first solid pixel of each row, or right of the last."""
    width = solid.shape[1]
    first, last = solid.argmax(1), width - 1 - solid[:, ::-1].argmax(1)
    first[~solid[np.arange(len(solid)), first]] = width
    places, first, last = _columns(width), first.astype(np.int16), last.astype(np.int16)
    beside: Mask = (places < first[:, None]) | (places > last[:, None])
    return beside


@cache
def _columns(width: int) -> NDArray[np.int16]:
    return np.arange(width, dtype=np.int16)


def _dilate(mask: Mask) -> Mask:
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
    outside = _outside(alpha <= FLAT_TOLERANCE)
    edge = _dilate(outside)
    edge[[0, -1]] = edge[:, [0, -1]] = True  # all lies outside of the frame
    weight = np.where(edge, alpha, np.uint8(255))
    weight[outside] = 0
    x, spread_x = _moments(weight.sum(0, dtype=np.int64))
    y, spread_y = _moments(weight.sum(1, dtype=np.int64))
    return x, y, CONTENT_EXTENT * max(1.0, (spread_x + spread_y) / 2) ** 0.5


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
