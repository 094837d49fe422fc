"""Placing an emoji on the canvas of a target: trimmed, as large as fits, optically centred, outlined if wished."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.packs.upscaling import Pixels, premultiply, resize, unpremultiply

VISIBLE_ALPHA = 8  # of 255
# Between the middle of the frame (0) and the centre of mass (1): a frog on a thin stalk looks centred in between.
OPTICAL_WEIGHT = 0.5
PADDING_PX = 2  # of the source
SUPERSAMPLED_PX = 384  # the outline is measured on about this side, since distances to whole pixels are jagged


def trim(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the smallest part of the picture `(h, w, 4)` that has all its visible pixels.

    Raises:
        ValueError: No pixel is visible.
    """
    visible = pixels[..., 3] > VISIBLE_ALPHA
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        raise ValueError("no pixel is visible")
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(pixels: NDArray[np.uint8], size_px: int, *, margin_px: int = 0, outline_px: int = 0) -> NDArray[np.uint8]:
    """Return a trimmed picture on a square canvas: uint8 `(size_px, size_px, 4)`.

    Args:
        pixels: uint8 RGBA `(h, w, 4)`.
        size_px: Side of the canvas.
        margin_px: Left free on all sides.
        outline_px: Width of a white outline; the picture becomes smaller by it.
    """
    border = margin_px + outline_px
    content = _scale(premultiply(pixels), size_px - 2 * border)
    canvas = np.zeros((size_px, size_px, 4), np.float32)
    top, left = (_offset(content[..., 3].sum(1 - axis), size_px, border) for axis in (0, 1))
    canvas[top : top + content.shape[0], left : left + content.shape[1]] = content
    return unpremultiply(add_outline(canvas, outline_px) if outline_px else canvas)


def _scale(values: Pixels, room_px: int) -> Pixels:
    """Return a premultiplied picture whose longer side is `room_px`."""
    height, width = values.shape[:2]
    scale = room_px / max(height, width)
    wanted = [max(1, round(side * scale)) for side in (height, width)]
    if scale <= 1:
        return resize(values, wanted[1], wanted[0])
    # What is trimmed ends at its frame. Transparency around it lets enlarging smooth an edge there, as anywhere else.
    padding = [(PADDING_PX, PADDING_PX)] * 2 + [(0, 0)]
    extra = round(PADDING_PX * scale)
    large = resize(np.pad(values, padding), wanted[1] + 2 * extra, wanted[0] + 2 * extra)
    return large[extra : extra + wanted[0], extra : extra + wanted[1]]


def add_outline(values: Pixels, width_px: int) -> Pixels:
    """Return the premultiplied picture on a white outline, whose outer edge is antialiased."""
    from PIL import Image
    from scipy import ndimage

    size = values.shape[0]
    factor = max(1, SUPERSAMPLED_PX // size)
    alpha = Image.fromarray(np.ascontiguousarray(values[..., 3])).resize((size * factor,) * 2, Image.Resampling.BICUBIC)
    distance = ndimage.distance_transform_edt(np.asarray(alpha) < 0.5) / factor
    # A pixel at the distance of the outline's width is covered by half.
    cover = np.clip((width_px - distance) * factor + 0.5, 0, 1).reshape(size, factor, size, factor).mean((1, 3))
    outline = np.repeat(np.maximum(cover, 0)[..., None], 4, -1)
    return np.asarray(values + (1 - values[..., 3:]) * outline, np.float32)


def _offset(mass: NDArray[np.float32], size_px: int, border: int) -> int:
    """Return where the picture begins along one axis, of which `mass` has the sum of alpha per row or column."""
    length = len(mass)
    middle = (size_px - length) / 2
    centroid = float((mass * (np.arange(length) + 0.5)).sum() / mass.sum())
    optical = middle + OPTICAL_WEIGHT * (length / 2 - centroid)
    # The border stays free, however lopsided the picture is.
    low, high = border, size_px - length - border
    return int(np.clip(round(optical), min(low, high), max(low, high)))
