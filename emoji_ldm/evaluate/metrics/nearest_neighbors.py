"""The real picture nearest to a generated one, so that a memorised picture is seen as a copy."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 24
CHUNK = 4096  # candidates that are compared at once

Thumbnails = NDArray[np.float32]


def thumbnail_vectors(pngs: Sequence[bytes]) -> Thumbnails:
    """Small premultiplied RGBA thumbnails as vectors: float32 `(N, 24 * 24 * 4)`, 0 to 1."""
    return np.stack([thumbnail_vector(Image.open(io.BytesIO(png))) for png in pngs])


def nearest_neighbors(queries: Thumbnails, candidates: Thumbnails) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The index of the closest candidate of each query, and the RMS distance to it (0 equal, 1 opposite).

    Args:
        queries: `(N, d)`.
        candidates: `(M, d)`.
    """
    best = np.zeros(len(queries), np.int64)
    least = np.full(len(queries), np.inf)
    # In chunks, so that the matrix of distances to all candidates is never in memory.
    for start in range(0, len(candidates), CHUNK):
        squares = _squared_distances(queries, candidates[start : start + CHUNK])
        nearest = squares.argmin(1)
        found = squares[np.arange(len(queries)), nearest]
        best = np.where(found < least, start + nearest, best)
        least = np.minimum(least, found)
    # Rounding may take the squared distance of two equal vectors slightly below 0.
    return best, np.sqrt(np.maximum(least, 0) / queries.shape[1])


def mirrored(vectors: Thumbnails) -> Thumbnails:
    """The thumbnails of the mirror images."""
    return vectors.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX, 4)[:, :, ::-1].reshape(len(vectors), -1)


def thumbnail_vector(image: Image.Image) -> Thumbnails:
    """One thumbnail as a vector `(24 * 24 * 4,)`, see `thumbnail_vectors`."""
    # Premultiplied ("RGBa"): transparent pixels become zero, so that their arbitrary colour does not count as a
    # difference.
    small = image.convert("RGBA").convert("RGBa")
    # Thumbnails this small still match a copy whose details changed by another size, compression or a shift of a pixel.
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    square = Image.new("RGBa", (THUMBNAIL_PX, THUMBNAIL_PX))
    square.paste(small, ((THUMBNAIL_PX - small.width) // 2, (THUMBNAIL_PX - small.height) // 2))
    return np.asarray(square).astype(np.float32).reshape(-1) / np.float32(255)


def _squared_distances(queries: Thumbnails, candidates: Thumbnails) -> NDArray[np.float64]:
    # |q - c|^2 = |q|^2 - 2 q.c + |c|^2 needs one matrix product instead of an (N, M, d) array of differences.
    squares: NDArray[np.float64] = (
        (queries**2).sum(1)[:, None] - 2 * queries @ candidates.T + (candidates**2).sum(1)[None]
    )
    return squares
