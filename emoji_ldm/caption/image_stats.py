"""Measured facts of an image: its dominant colours, its outline and its background.

Pixels are classified into 13 named colours by the nearest of some anchors in CIELAB, where distances are close to
those that people see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 64  # images are scaled down to this
MIN_OPAQUE_ALPHA = 128
MIN_SHARE = 0.12  # of the visible area, for a colour to be named
# Black is mostly outlines, which every emoji of a style has, so it is named only where it covers much more.
MIN_BLACK_SHARE = 0.35
MIN_LAB_DISTANCE = 20.0  # CIE76 distance from the background colour from which on a pixel is foreground

# sRGB anchors of each colour name, taken from the palettes of common emoji sets.
ANCHORS: dict[str, tuple[str, ...]] = {
    "black": ("#000000", "#1c1c1c", "#262626"),
    "gray": ("#4a4a4a", "#6e6e6e", "#8c8c8c", "#a8adb2", "#8a9aa5"),
    "white": ("#ffffff", "#f0f0f0", "#e0e4e8", "#f2efe6"),
    "red": ("#e01020", "#c01818", "#ea5a47", "#8c1010", "#dd2e44"),
    "orange": ("#ff8c00", "#f4900c", "#f1701a", "#e27022"),
    "yellow": ("#ffd700", "#fcea2b", "#ffcc4d", "#f1b31c", "#fcc21b", "#fff59d"),
    "green": ("#2e8b2e", "#5c9e31", "#b1cc33", "#77b255", "#1e5c1e", "#a5d66f"),
    "teal": ("#008080", "#00b8b0", "#61b2a0", "#40c8c0"),
    "blue": ("#1e50c8", "#92d3f5", "#61b2e4", "#3b88c3", "#0a2f6b", "#55acee"),
    "purple": ("#800080", "#8967aa", "#b399c8", "#5a2d82", "#aa8dd8"),
    "pink": ("#ff69b4", "#ffa7c0", "#e67a94", "#f4abba", "#ffc8d8"),
    "brown": ("#6b3e1e", "#a57939", "#8b5a2b", "#4a2a14", "#94651f", "#a0522d", "#6a462f"),
    "beige": ("#f5deb3", "#e8cfa8", "#d2b48c", "#fadcbc", "#debb90"),
}


@dataclass(frozen=True)
class ImageStats:
    """Facts of one image."""

    colors: tuple[str, ...]  # of the foreground, by area, the largest first; at least one
    shape: str  # round | rounded | square | wide | tall | irregular
    background: str  # transparent, or a colour


def measure_image(image: Image.Image) -> ImageStats:
    """Measure an RGBA image."""
    scale = min(1.0, SIDE_PX / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    visible, colours = pixels[..., 3] >= MIN_OPAQUE_ALPHA, pixels[..., :3]
    background, foreground = _background(visible, colours)
    names = name_colors(colours[foreground] if foreground.any() else colours.reshape(-1, 3))
    return ImageStats(_dominant_colors(names), _shape(foreground), background)


def name_colors(srgb: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Colour names `(N,)` of sRGB bytes `(N, 3)`."""
    # The table has 5 bits per channel, so the 3 lowest bits of each are dropped. Names do not depend on such small
    # differences.
    red, green, blue = (srgb.astype(np.intp) >> 3).T
    named: NDArray[np.str_] = _color_name_table()[red, green, blue]
    return named


def _background(visible: NDArray[np.bool_], colours: NDArray[np.uint8]) -> tuple[str, NDArray[np.bool_]]:
    """Name of the background, and the mask `(h, w)` of the foreground.

    An image whose frame is mostly invisible has a transparent background; else the median colour of the frame is it.
    """
    frame = np.ones_like(visible)
    frame[1:-1, 1:-1] = False
    # The outermost pixels show the background, since emoji rarely touch the frame.
    if visible[frame].mean() <= 0.5:
        return "transparent", visible
    colour = np.median(colours[frame & visible], axis=0).astype(np.uint8)
    distance = np.linalg.norm(_lab(colours) - _lab(colour), axis=-1)
    return str(name_colors(colour[None])[0]), visible & (distance > MIN_LAB_DISTANCE)


def _shape(mask: NDArray[np.bool_]) -> str:
    """Nearest simple outline: by aspect ratio, then by how well the box and the ellipse inside it are filled."""
    if not mask.any():
        return "square"
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    # The aspect ratio is examined first: a long shape may fill the ellipse inside its box perfectly, and is not round
    # all the same.
    if width > 1.4 * height or height > 1.4 * width:
        return "wide" if width > height else "tall"
    y, x = ((np.arange(side) + 0.5) / side * 2 - 1 for side in (height, width))
    ellipse = x[None] ** 2 + y[:, None] ** 2 <= 1
    if box.mean() >= 0.93:
        return "square"
    overlap = (box & ellipse).sum() / (box | ellipse).sum()
    return "round" if overlap >= 0.9 else "rounded" if overlap >= 0.8 else "irregular"


def _dominant_colors(names: NDArray[np.str_]) -> tuple[str, ...]:
    values, counts = np.unique(names, return_counts=True)
    ranked = sorted(zip(counts / len(names), values.tolist(), strict=True), reverse=True)
    # Shares are relative to the foreground, so that a small emoji on a large background keeps its colours.
    least = {"black": MIN_BLACK_SHARE}
    large = [name for share, name in ranked if share >= least.get(name, MIN_SHARE)]
    return tuple(large[:3]) or (ranked[0][1],)


@cache
def _color_name_table() -> NDArray[np.str_]:
    """Names `(32, 32, 32)` of all colours of 5 bits a channel: looking up is far quicker than measuring each pixel."""
    levels = np.arange(32) * 8 + 4
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).astype(np.uint8)
    names = np.array([name for name, anchors in ANCHORS.items() for _ in anchors])
    anchors = _lab(np.array([list(bytes.fromhex(a[1:])) for several in ANCHORS.values() for a in several], np.uint8))
    lab = _lab(cells)
    distances = np.stack([np.linalg.norm(lab - anchor, axis=-1) for anchor in anchors])
    cube: NDArray[np.str_] = names[distances.argmin(axis=0)]
    return cube


def _lab(srgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB bytes `(..., 3)`, by IEC 61966-2-1 and CIE 15."""
    value = srgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    # The cube root has an infinite slope at zero, so CIE 15 replaces it by a line for very dark colours.
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
