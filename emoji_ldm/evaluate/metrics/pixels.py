"""Pictures and their features as arrays, for modules that need no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FEATURES_NAME = "EfficientNet-Lite0"
NUM_POOLED = 1280  # features of the last layer, which say what is shown: sets are compared by these
# Mean and deviation of early layers say how it is drawn. The probes read both kinds: on real held-out emoji they raise
# the share of right concepts from 71 % to 78 %, and of right styles from 61 % to 80 % (docs/evaluation.md).
TEXTURE_LAYERS = {"_blocks.0": 16, "_blocks.2": 24, "_blocks.4": 40, "_blocks.7": 80, "_blocks.10": 112}
NUM_FEATURES = NUM_POOLED + 2 * sum(TEXTURE_LAYERS.values())
GROUND = 255  # gray level behind transparent pixels; white told real emoji apart better than middle gray

Features = NDArray[np.float32]  # (N, NUM_FEATURES), or the pooled part of them
RgbaPixels = NDArray[np.uint8]  # (h, w, 4), straight alpha


def resize_rgba(pixels: RgbaPixels, size_px: int) -> RgbaPixels:
    """The picture scaled into a square of `size_px`, keeping its proportions, with transparent bars where it is not.

    Returns:
        `(size_px, size_px, 4)` uint8. Sides that fit already are left as they are.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size_px, size_px):
        return pixels
    scale = size_px / max(height, width)
    sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Pillow resizes RGBA with premultiplied colours, so that invisible colours do not bleed into the outline.
    resized = Image.fromarray(pixels).resize(sides, Image.Resampling.LANCZOS)
    square = np.zeros((size_px, size_px, 4), np.uint8)
    top, left = (size_px - sides[1]) // 2, (size_px - sides[0]) // 2
    square[top : top + sides[1], left : left + sides[0]] = np.asarray(resized)
    return square


def on_ground(pixels: RgbaPixels, ground: float = GROUND) -> NDArray[np.float32]:
    """RGB `(h, w, 3)` float32, 0 to 255, of a picture before a ground of one gray level."""
    alpha = pixels[..., 3:].astype(np.float32) / np.float32(255)
    before: NDArray[np.float32] = pixels[..., :3] * alpha + np.float32(ground) * (1 - alpha)
    return before
