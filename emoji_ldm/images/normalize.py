"""Canonical images: equal pixels become equal PNG bytes and one image id, whatever file they came in."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.images.decode import PNG_SIGNATURE, decode_image
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.images.svg import is_svg, render_svg
from emoji_ldm.outcomes import Outcome, Rejected

# Bit depth, colour type RGBA, deflate, adaptive filters, not interlaced (PNG standard, section 11.2.1).
RGBA_8 = (8, 6, 0, 0, 0)
LANCZOS_SUPPORT = 3  # output pixels


@dataclass(frozen=True)
class NormalizedImage:
    """A canonical RGBA PNG; fully transparent pixels are (0, 0, 0, 0)."""

    image_id: str  # `pixel_hash` of the pixels
    png: bytes
    width: int
    height: int
    has_alpha: bool
    num_frames: int  # of the source file; only the first one is kept
    source_format: str
    fingerprint: bytes  # its appearance, see emoji_ldm.images.fingerprint


def normalize_image(data: bytes, *, size_px: int, max_px: int) -> NormalizedImage:
    """Convert an image file to the canonical form: first frame, upright, sRGB, RGBA, longest side at most `size_px`.

    Args:
        data: The file, from an untrusted source.
        size_px: Longest side of the result; smaller images keep their size.
        max_px: Longest side that is still decoded (`crawl.max_px`).

    Raises:
        Rejected: TOO_LARGE above `max_px` (before any pixel is decoded), TOO_SMALL, BLANK, or NOT_AN_IMAGE.
    """
    image, source_format, num_frames = _decode(data, size_px, max_px)
    pixels = np.array(_shrunk(image, size_px))  # (h, w, 4) uint8
    # One 32-bit word per pixel with alpha in the highest byte: words up to 0xFFFFFF are transparent and become zero,
    # so that the colours hidden under full transparency cannot tell two images apart.
    words = pixels.view("<u4")[..., 0]  # (h, w)
    words *= words > 0xFFFFFF
    # One comparison finds both kinds of blank images, since transparent pixels are equal now.
    if (words == words[0, 0]).all():
        raise Rejected(Outcome.BLANK, "fully transparent" if not pixels[0, 0, 3] else "one colour")
    height, width = pixels.shape[:2]
    image_id = pixel_hash(width, height, pixels.tobytes())
    has_alpha = bool((words < 0xFF000000).any())
    appearance = fingerprint(pixels)
    return NormalizedImage(
        image_id, encode_png(pixels), width, height, has_alpha, num_frames, source_format, appearance
    )


def pixel_hash(width: int, height: int, rgba: bytes) -> str:
    """Return the id of an image: hexadecimal SHA-256 of "WxH:" and its RGBA bytes, row by row.

    The size is part of the hash because the same bytes make different images at 2 x 8 and at 4 x 4 pixels.
    """
    return hashlib.sha256(f"{width}x{height}:".encode() + rgba).hexdigest()


def image_row(image: NormalizedImage, *, title: str, tags: Sequence[str], source_url: str,
              page_url: str) -> dict[str, Any]:  # fmt: skip
    """Build the row of the `images` table for an image that was fetched now."""
    return {
        "image_id": image.image_id,
        "image": {"bytes": image.png, "path": f"{image.image_id}.png"},
        "title": title,
        "tags": list(tags),
        "width": image.width,
        "height": image.height,
        "has_alpha": image.has_alpha,
        "num_frames": image.num_frames,
        "source_url": source_url,
        "page_url": page_url,
        "source_format": image.source_format,
        "fetched_at": datetime.now(UTC),
        "fingerprint": image.fingerprint,
    }


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode `(h, w, 4)` uint8 pixels as a PNG file.

    Written by hand because Pillow tries five filters on every row: flat art without filters is smaller and takes half
    the time. Stored images depend on these very bytes, so another encoder must not replace this one.
    """
    height, width = pixels.shape[:2]
    # The first byte of each row names its filter; zero means that the row is stored as it is.
    # One array operation for all rows; a loop in Python would take longer than the compression.
    rows = np.zeros((height, 1 + 4 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, 4 * width)
    header = struct.pack(">IIBBBBB", width, height, *RGBA_8)
    return (
        PNG_SIGNATURE
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(rows.data, 1))
        + _png_chunk(b"IEND", b"")
    )


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    """Frame a chunk: length, type, data, CRC of type and data (PNG standard, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _shrunk(image: Image.Image, size_px: int) -> Image.Image:
    """Scale an RGBA image down to a longest side of `size_px`; a smaller one stays as it is.

    Most of an emoji's frame is empty, and empty it stays: only what lies around the content is computed. The pixels are
    those of `Image.thumbnail` to the last bit. Pillow computes each weight from the position of an output pixel in the
    input, and where the scale is a whole number divided by a power of two, that position is the same number, exactly,
    whether it is counted from the edge of the image or of a part.
    """
    if image.width != image.height or image.width <= size_px or size_px.bit_count() > 1:
        # Pillow premultiplies alpha for resizing, so invisible colours do not bleed into visible edges.
        image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=None)
        return image
    content, scale = image.convert("RGBa"), image.width / size_px
    canvas = Image.new("RGBa", (size_px, size_px))
    if box := content.getbbox():
        # Beyond its support an input pixel has no weight; one pixel more is the margin of rounding.
        left, upper = (max(0, int(low / scale - LANCZOS_SUPPORT) - 1) for low in box[:2])
        right, lower = (min(size_px, math.ceil(high / scale + LANCZOS_SUPPORT) + 1) for high in box[2:])
        source = (left * scale, upper * scale, right * scale, lower * scale)
        part = content.resize((right - left, lower - upper), Image.Resampling.LANCZOS, source)
        canvas.paste(part, (left, upper))
    return canvas.convert("RGBA")


def _decode(data: bytes, size_px: int, max_px: int) -> tuple[Image.Image, str, int]:
    """Decode a raster file, or render an SVG at the size that the result will have."""
    # An SVG is drawn at the size of the result, so that it does not have to be scaled down.
    if is_svg(data):
        png = render_svg(data, min(size_px, max_px))
        return decode_image(png, max_px, limit_name="crawl.max_px")[0], "SVG", 1
    return decode_image(data, max_px, limit_name="crawl.max_px")
