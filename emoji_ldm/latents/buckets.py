"""Aspect-ratio buckets: a few shapes of about equal area, one of which each image is scaled to.

A square for every image would spend half of the pixels of a wide one on padding. All images of a training batch must
have one shape, so the shapes are few, and a batch has images of one of them (see `emoji_ldm.train.tasks.bucket_order`).

An image gets the largest resolution that it fills, and of its shapes the one whose aspect ratio is nearest to its own.
It is scaled to cover that shape, and what juts out at two opposite sides is cut off. If that would be more than
`latents.buckets.max_crop` of the image, it is scaled to fit instead, and padded with transparency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config.latents import BucketOptions

Shape = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Placement:
    """Where images go; all arrays have one entry per image."""

    bucket: NDArray[np.int16]  # index into the shapes
    scaled: NDArray[np.int32]  # (n, 2): height and width after scaling
    offset: NDArray[np.int32]  # (n, 2): rows cut off at the top and columns at the left; negative where padded instead
    lost: NDArray[np.float64]  # (n,): share of the image that is cut off


def bucket_shapes(options: BucketOptions, size_px: int) -> tuple[Shape, ...]:
    """All shapes, the resolution of `latents.size_px` first.

    Sides are multiples of `step_px`, and no shape has more pixels than the square of its resolution.
    """
    found: list[Shape] = []
    for side in (size_px, *options.sizes_px):
        area, step = side**2, options.step_px
        for width in range(step, int(side * options.max_ratio**0.5) + step, step):
            height = area // width // step * step
            if height and max(width / height, height / width) <= options.max_ratio:
                found.append((height, width))
    return tuple(dict.fromkeys(found))


def place(heights: NDArray[np.int32], widths: NDArray[np.int32], options: BucketOptions, size_px: int) -> Placement:
    """The bucket of images of these sizes, and how each is scaled and cut."""
    shapes = np.array(bucket_shapes(options, size_px))
    sizes = np.stack([heights, widths], axis=1).astype(np.float64)
    bucket = _nearest(sizes, shapes, np.array([size_px, *sorted(options.sizes_px, reverse=True)]))
    target = shapes[bucket]
    factors = target / sizes
    cover, fit = factors.max(axis=1, keepdims=True), factors.min(axis=1, keepdims=True)
    lost = 1 - (fit / cover)[:, 0]
    # Rounding alone would leave a very thin image without a single row, and one that covers short of its shape.
    covered = np.maximum(np.rint(sizes * cover), target)
    fitted = np.clip(np.rint(sizes * fit), 1, target)
    is_padded = lost > options.max_crop
    scaled = np.where(is_padded[:, None], fitted, covered).astype(np.int32)
    offset = np.floor_divide(scaled - target, 2).astype(np.int32)
    return Placement(bucket.astype(np.int16), scaled, offset, np.where(is_padded, 0.0, lost))


def _nearest(sizes: NDArray[np.float64], shapes: NDArray[np.int64], sides: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each image's shape: of the largest resolution that the image fills, the one of the nearest ratio."""
    areas = shapes.prod(axis=1)
    # The resolution of a shape is the smallest whose square it fits into.
    resolution = np.array([min(side for side in sides.tolist() if side**2 >= area) for area in areas.tolist()])
    filled = sizes.prod(axis=1)[:, None] >= (sides**2)[None]
    own = np.where(filled.any(axis=1), sides[filled.argmax(axis=1)], sides[-1])
    distance = np.abs(np.log(sizes[:, :1] / sizes[:, 1:]) - np.log(shapes[:, 0] / shapes[:, 1])[None])
    distance[own[:, None] != resolution[None]] = np.inf
    return np.asarray(distance.argmin(axis=1))


def size_inputs(sizes: NDArray[np.int32], placement: Placement, shapes: Sequence[Shape]) -> NDArray[np.int32]:
    """`(n, 6)`: size of the image, rows and columns cut off at its top left, size of its bucket; as SDXL takes them."""
    return np.concatenate(
        [sizes, np.maximum(placement.offset, 0), np.array(shapes)[placement.bucket]], axis=1, dtype=np.int32
    )
