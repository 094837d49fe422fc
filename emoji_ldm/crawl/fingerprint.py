"""The look of a picture in about a kilobyte: what a resize, a re-encoding, padding or another background leaves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GRID = 16  # cells a side
HEADER = 8  # kind of background, its colour (R, G, B), 4 unused
LENGTH = HEADER + GRID * GRID * 4
REACH = 2.3  # half the window in standard deviations of the content: a disc's radius is 2
FILTER = Image.Resampling.HAMMING
TRANSPARENT, FLAT, FULL = 0, 1, 2  # kinds of background: none, one opaque colour, a picture up to the border
FLAT_WITHIN = 14  # levels that a border may stray from its colour, for the noise of JPEG
MIN_CHROMA = 0.01  # mean chroma over the picture, of 1, from which it places the window


def fingerprint(pixels: Bytes) -> bytes:
    """The look of canonical `(h, w, 4)` RGBA pixels as `LENGTH` bytes; compare with `emoji_ldm.crawl.near`.

    A `(GRID, GRID, 4)` thumbnail, alpha premultiplied, of a square window that is placed by where the colour is. Chroma
    of premultiplied colours is the same over white, grey, black or nothing, so the window needs no cut-out.
    """
    kind, colour = background(pixels)
    image = Image.fromarray(pixels, "RGBA").convert("RGBa")
    y, x, half = _window(image, kind, colour)
    margin = max(0, math.ceil(half - min(y, x, image.height - y, image.width - x)))
    fill = (*(int(level) for level in colour), 255) if kind == FLAT else (0, 0, 0, 0)
    canvas = Image.new("RGBa", (image.width + 2 * margin, image.height + 2 * margin), fill)
    canvas.paste(image, (margin, margin))
    box = (x + margin - half, y + margin - half, x + margin + half, y + margin + half)
    cells = canvas.resize((GRID, GRID), FILTER, box=box)
    return bytes((kind, *fill[:3], 0, 0, 0, 0)) + cells.tobytes()


def background(pixels: Bytes) -> tuple[int, Bytes]:
    """Kind of the background and its colour, as the outermost pixels show it; black unless `FLAT`."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    none = np.zeros(3, np.uint8)
    if border[:, 3].min() < 250:
        return TRANSPARENT, none
    colours = border[:, :3].astype(np.int16)
    colour = np.sort(colours, axis=0)[len(colours) // 2]
    strays = (np.abs(colours - colour) > FLAT_WITHIN).any(1)
    return (FLAT, colour.astype(np.uint8)) if strays.mean() < 0.05 else (FULL, none)


def _window(image: Image.Image, kind: int, colour: Bytes) -> tuple[float, float, float]:
    """Centre y, x and half side in pixels of the square that holds the content of a premultiplied image."""
    step = 2 if min(image.size) >= 64 else 1
    small = np.asarray(image.reduce(step)).astype(np.int16)
    if kind == FLAT:
        small[..., :3] -= colour
    red, green, blue, alpha = (small[..., channel] for channel in range(4))
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    weight = high - low
    if kind == FULL or weight.mean() < MIN_CHROMA * 255:
        weight = np.maximum(high, -low) if kind == FLAT else alpha
    total = float(weight.sum()) or 1.0
    y, spread_y = _moments(weight.sum(1) / total)
    x, spread_x = _moments(weight.sum(0) / total)
    half = REACH * max(1.0, (spread_y + spread_x) / 2) ** 0.5
    return y * step, x * step, half * step


def _moments(share: Floats) -> tuple[float, float]:
    """Mean and variance of a distribution over pixels."""
    places = np.arange(len(share)) + 0.5
    mean = float((share * places).sum())
    return mean, float((share * (places - mean) ** 2).sum())
