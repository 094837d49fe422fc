"""RGBA pixels -> PNG. Pillow tries five filters on every row; flat art is smaller without any, in half the time.

Bytes -> canonical picture: equal-looking pictures become equal bytes, whatever file they came in.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.images.decode import decode_image
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.images.svg import is_svg, render_svg
from emoji_ldm.outcomes import Outcome, Rejected

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGBA_8 = (8, 6, 0, 0, 0)  # bits, colour type, deflate, adaptive filters, not interlaced (PNG standard, 11.2.1)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of `(h, w, 4)` pixels."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # the first byte of a row names its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, 4 * width)
    header = struct.pack(">IIBBBBB", width, height, *RGBA_8)
    return (
        PNG_SIGNATURE
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(rows.data, 1))
        + _png_chunk(b"IEND", b"")
    )


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@dataclass(frozen=True)
class NormalizedImage:
    """A canonical RGBA PNG; pixels that are not seen are (0, 0, 0, 0)."""

    image_id: str  # sha256 of size and RGBA pixels
    png: bytes
    width: int
    height: int
    has_alpha: bool
    num_frames: int
    source_format: str
    fingerprint: bytes  # its look, see emoji_ldm.images.fingerprint


def normalize_image(data: bytes, *, size_px: int, max_px: int) -> NormalizedImage:
    """The first frame, upright, at most `size_px` long, as canonical RGBA.

    Raises:
        Refused: TOO_LARGE above `max_px` (before any pixel is decoded), TOO_SMALL, BLANK, or NOT_AN_IMAGE.
    """
    if is_svg(data):
        image, source_format, num_frames = decode_image(render_svg(data, min(size_px, max_px)), max_px)[0], "SVG", 1
    else:
        image, source_format, num_frames = decode_image(data, max_px)
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=None)  # premultiplies alpha itself
    pixels = np.array(image)  # (h, w, 4) uint8
    whole = pixels.view("<u4")[..., 0]  # (h, w), alpha in the highest byte
    whole *= whole > 0xFFFFFF
    if (whole == whole[0, 0]).all():
        raise Rejected(Outcome.BLANK, "fully transparent" if not pixels[0, 0, 3] else "one colour")
    height, width = pixels.shape[:2]
    image_id = hashlib.sha256(f"{width}x{height}:".encode() + pixels.tobytes()).hexdigest()
    has_alpha = bool((pixels[..., 3] < 255).any())
    look = fingerprint(pixels)
    return NormalizedImage(image_id, encode_png(pixels), width, height, has_alpha, num_frames, source_format, look)
