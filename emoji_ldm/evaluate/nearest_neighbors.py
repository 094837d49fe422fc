"""The crawled image nearest to a generated one, so that a memorised image is seen as a copy."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 24


def thumbnail_vectors(pngs: Sequence[bytes]) -> NDArray[np.float32]:
    """Small premultiplied RGBA thumbnails as vectors: float32 `(N, 24 * 24 * 4)`, 0 to 1."""
    return np.stack([_thumbnail(png) for png in pngs])


def nearest_neighbors(
    queries: NDArray[np.float32], candidates: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The index of the closest candidate of each query, and the RMS distance to it (0 equal, 1 opposite).

    Args:
        queries: `(N, d)`.
        candidates: `(M, d)`.
    """
    # |q - c|^2 = |q|^2 - 2 q.c + |c|^2 needs one matrix product instead of an (N, M, d) array of differences.
    squares = (queries**2).sum(1)[:, None] - 2 * queries @ candidates.T + (candidates**2).sum(1)[None]
    best = squares.argmin(1)
    # Rounding may take the squared distance of two equal vectors slightly below 0.
    distance = np.sqrt(np.maximum(squares[np.arange(len(queries)), best], 0) / queries.shape[1])
    return best, distance.astype(np.float64)


def _thumbnail(png: bytes) -> NDArray[np.float32]:
    # Premultiplied ("RGBa"): transparent pixels become zero, so that their arbitrary colour does not count as a
    # difference.
    image = Image.open(io.BytesIO(png)).convert("RGBa")
    # Thumbnails this small still match a copy whose details changed by another size, compression or a shift of a pixel.
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    square = Image.new("RGBa", (THUMBNAIL_PX, THUMBNAIL_PX))
    square.paste(image, ((THUMBNAIL_PX - image.width) // 2, (THUMBNAIL_PX - image.height) // 2))
    return np.asarray(square).astype(np.float32).reshape(-1) / np.float32(255)
