"""The look of a picture in about a kilobyte: what a resize, a re-encoding, padding or another background leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GRID = 16  # cells a side
HEADER = 8  # kind of background, its colour (R, G, B), 4 unused
LENGTH = HEADER + GRID * GRID * 4
REACH = 2.3  # half the window in standard deviations of the content: a disc's radius is 2
TRANSPARENT, FLAT, FULL = 0, 1, 2  # kinds of background: none, one opaque colour, a picture up to the border
FLAT_WITHIN = 14  # levels that a border may stray from its colour, for the noise of JPEG
MIN_CHROMA = 0.02  # mean chroma of the content, of 1, from which it places the window


def fingerprint(pixels: Bytes) -> bytes:
    """The look of canonical `(h, w, 4)` RGBA pixels as `LENGTH` bytes; compare with `emoji_ldm.crawl.near`.

    A `(GRID, GRID, 4)` thumbnail, alpha premultiplied, of a square window that is placed by where the colour is. Chroma
    of premultiplied colours is the same over white, grey, black or nothing, so the window needs no cut-out.
    """
    kind, colour = background(pixels)
    values = pixels.astype(np.float32) / 255
    alpha = values[..., 3:]
    values[..., :3] *= alpha
    centre, half = _window(values, kind, colour)
    rows, columns = (_weights(length, middle, half) for length, middle in zip(pixels.shape, centre, strict=False))
    height, width = pixels.shape[:2]
    cells = (rows @ values.reshape(height, width * 4)).reshape(GRID, width, 4).transpose(0, 2, 1) @ columns.T
    cells = cells.transpose(0, 2, 1)
    if kind != TRANSPARENT:
        covered = rows.sum(1)[:, None, None] * columns.sum(1)[None, :, None]
        cells = cells + (1 - covered) * np.append(colour, np.float32(1))
    header = np.zeros(HEADER, np.uint8)
    header[0], header[1:4] = kind, np.rint(colour * 255)
    return header.tobytes() + np.rint(cells * 255).clip(0, 255).astype(np.uint8).tobytes()


def background(pixels: Bytes) -> tuple[int, Floats]:
    """Kind of the background and its colour in [0, 1], as the outermost pixels show it; zeros unless `FLAT`."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    none = np.zeros(3, np.float32)
    if border[:, 3].min() < 250:
        return TRANSPARENT, none
    colours = border[:, :3].astype(np.int16)
    colour = np.median(colours, axis=0)
    strays = np.abs(colours - colour).max(1) > FLAT_WITHIN
    return (FLAT, (colour / 255).astype(np.float32)) if strays.mean() < 0.05 else (FULL, none)


def _window(values: Floats, kind: int, colour: Floats) -> tuple[tuple[float, float], float]:
    """Centre (y, x) and half side in pixels of the square that holds the content."""
    over = values[..., :3] - colour if kind == FLAT else values[..., :3]
    weight = over.max(-1) - over.min(-1)
    if kind == FULL or weight.mean() < MIN_CHROMA * 0.5:
        weight = np.abs(over).max(-1) if kind == FLAT else values[..., 3]
    total = float(weight.sum()) or 1.0
    centre, spread = [], 0.0
    for axis in (1, 0):
        line = weight.sum(axis) / total
        places = np.arange(len(line), dtype=np.float32) + 0.5
        middle = float(line @ places)
        spread += float(line @ (places - middle) ** 2)
        centre.append(middle)
    return (centre[0], centre[1]), REACH * (spread / 2) ** 0.5


def _weights(length: int, middle: float, half: float) -> Floats:
    """`(GRID, length)`: the share of every pixel in every cell's mean; rows sum to 1 inside the picture."""
    edges = (middle + np.linspace(-half, half, GRID + 1)).astype(np.float32)
    pixels = np.arange(length, dtype=np.float32)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(0) / np.float32(2 * half / GRID)
