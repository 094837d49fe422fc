"""What is measured of single pictures, wherever they are: rows that add up by standing in one table.

Workers measure shards of pictures; a set of pictures is the concatenation of their rows. Nothing here depends on which
worker measured what.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.caption.image_stats import measure_image
from emoji_ldm.evaluate.metrics.nearest_neighbors import Thumbnails, thumbnail_vector
from emoji_ldm.evaluate.metrics.pixels import NUM_POOLED, Features, RgbaPixels, resize_rgba

LEGIBLE_PX = 32  # the side at which chats show emoji within text
ALPHA_COLUMNS = ("fringe", "veil", "num_holes", "opaque")

SCHEMA = pa.schema([
    ("name", pa.string()),
    ("features", pa.binary()),        # float32
    ("small_features", pa.binary()),  # of the picture reduced to LEGIBLE_PX; null where nobody reads them
    ("thumbnail", pa.binary()),       # uint8
    *((name, pa.float32()) for name in ALPHA_COLUMNS),
    ("colors", pa.list_(pa.string())),
    ("clip", pa.float32()),           # null without a CLIP model
])  # fmt: skip

Extractor = Callable[[Sequence[RgbaPixels]], Features]
ClipScorer = Callable[[Sequence[RgbaPixels], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class PictureSet:
    """The measures of N pictures."""

    names: list[str]
    features: Features  # (N, NUM_FEATURES)
    small_features: Features  # (N, NUM_FEATURES), not a number where they were not measured
    thumbnails: Thumbnails  # (N, d)
    alpha: NDArray[np.float32]  # (N, 4), in the order of ALPHA_COLUMNS
    colors: list[list[str]]
    clip: list[float | None]

    @classmethod
    def from_rows(cls, rows: pa.Table, names: Sequence[str]) -> PictureSet:
        """The set of these pictures, in this order; rows may come in any order."""
        positions = {name: position for position, name in enumerate(rows["name"].to_pylist())}
        ordered = rows.take(pa.array([positions[name] for name in names], pa.int64()))
        return cls(
            list(names),
            _matrix(ordered["features"], np.float32),
            _matrix(ordered["small_features"], np.float32),
            _matrix(ordered["thumbnail"], np.uint8).astype(np.float32) / np.float32(255),
            np.stack([ordered[column].to_numpy() for column in ALPHA_COLUMNS], axis=1),
            ordered["colors"].to_pylist(),
            ordered["clip"].to_pylist(),
        )

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int]) -> PictureSet:
        """The set of the pictures at these positions."""
        index = np.asarray(rows, np.int64)
        return PictureSet(
            [self.names[row] for row in index], self.features[index], self.small_features[index],
            self.thumbnails[index], self.alpha[index], [self.colors[row] for row in index],
            [self.clip[row] for row in index],
        )  # fmt: skip

    @property
    def pooled(self) -> Features:
        """The features by which sets are compared, `(N, NUM_POOLED)`."""
        return self.features[:, :NUM_POOLED]


def measure_pictures(  # noqa: PLR0913  # the networks are passed in, so that tests need none
    names: Sequence[str], pngs: Sequence[bytes], prompts: Sequence[str], *, size_px: int, extract: Extractor,
    clip: ClipScorer | None = None, legibility: bool = True,
) -> pa.Table:  # fmt: skip
    """Measure pictures at a common size.

    Args:
        names: Distinct names.
        pngs: Image files that Pillow opens.
        prompts: What each was drawn for; only CLIP reads them.
        size_px: Side that all pictures are brought to first.
        extract: The feature extractor.
        clip: Scores pictures against prompts.
        legibility: Whether features of the reduced pictures are taken too, which doubles the time.

    Returns:
        A table of `SCHEMA`.
    """
    # Only workers measure, and only they need scipy.
    from emoji_ldm.evaluate.metrics.quality import alpha_quality

    pictures = [resize_rgba(np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")), size_px) for png in pngs]
    quality = [alpha_quality(pixels) for pixels in pictures]
    scores = clip(pictures, prompts) if clip else [None] * len(pictures)
    return pa.table(
        {
            "name": list(names),
            "features": _cells(extract(pictures)),
            "small_features": _cells(extract([resize_rgba(pixels, LEGIBLE_PX) for pixels in pictures]))
            if legibility
            else [None] * len(pictures),
            "thumbnail": [_thumbnail(pixels).tobytes() for pixels in pictures],
            **{column: [float(getattr(one, column)) for one in quality] for column in ALPHA_COLUMNS},
            "colors": [list(measure_image(Image.fromarray(pixels)).colors) for pixels in pictures],
            "clip": list(scores),
        },
        schema=SCHEMA,
    )


def _thumbnail(pixels: RgbaPixels) -> NDArray[np.uint8]:
    return np.rint(thumbnail_vector(Image.fromarray(pixels)) * 255).astype(np.uint8)


def _cells(features: Features) -> list[bytes]:
    return [row.astype(np.float32).tobytes() for row in features]


def _matrix(column: pa.ChunkedArray, kind: type) -> NDArray[Any]:
    cells: list[NDArray[Any] | None] = [
        None if cell is None else np.frombuffer(cell, kind) for cell in column.to_pylist()
    ]
    width = next((len(cell) for cell in cells if cell is not None), 0)
    # Rows that nobody reads; a mistake would show as a figure that is not a number.
    missing: NDArray[Any] = np.full(width, np.nan if kind is np.float32 else 0, np.float32).astype(kind)
    return np.stack([missing if cell is None else cell for cell in cells])
