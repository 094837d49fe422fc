"""Image files that stay below a byte limit: the best step of a ladder that fits, from lossless downwards."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.errors import PackError
from emoji_ldm.packs.target_limits import PictureFormat

PALETTE_SIZES = (256, 128, 64, 32)
WEBP_QUALITIES = (95, 90, 85, 80, 70, 60, 50, 40)


def encode(pixels: NDArray[np.uint8], form: PictureFormat, max_bytes: int | None) -> tuple[bytes, str]:
    """Return an image file smaller than `max_bytes`, and how it was made to fit; "" if lossless.

    Equal pixels give equal bytes.

    Raises:
        PackError: Even the smallest step is too large.
    """
    data = b""
    for data, step in _png_steps(pixels) if form == "png" else _webp_steps(pixels):
        if max_bytes is None or len(data) < max_bytes:
            return data, step
    raise PackError(f"needs {len(data):,} bytes even at the lowest quality, and the limit is {max_bytes:,}")


def _png_steps(pixels: NDArray[np.uint8]) -> Iterator[tuple[bytes, str]]:
    image = Image.fromarray(pixels)
    yield _save(image, "PNG", optimize=True), ""
    for size in PALETTE_SIZES:
        # The octree is the method of Pillow's own that keeps alpha. Without dithering, since flat areas stay flat.
        reduced = image.quantize(size, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        yield _save(reduced, "PNG", optimize=True), f"{size} colours"


def _webp_steps(pixels: NDArray[np.uint8]) -> Iterator[tuple[bytes, str]]:
    image = Image.fromarray(pixels)
    # Alpha stays lossless: a blurred edge is seen first. Transparent pixels are zero already.
    yield _save(image, "WEBP", lossless=True, method=4), ""
    for quality in WEBP_QUALITIES:
        yield _save(image, "WEBP", quality=quality, alpha_quality=100, method=4), f"WebP quality {quality}"


def _save(image: Image.Image, form: str, **options: int | bool) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
