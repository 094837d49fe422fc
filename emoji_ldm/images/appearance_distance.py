"""How much two images differ in appearance, judged by their fingerprints.

The comparison is made over the background that was removed from either image, else over black and over white: two
backgrounds together tell alpha apart, as one alone would not.

Copies differ by more than noise: resizing, cropping and padding move the content by a part of a cell, scale it by a
percent and blur it a little. Cell by cell that looks like a difference at every edge. The part of the difference that
such a change explains is therefore removed first: to first order it is a sum of four images, the derivatives of the
picture by its position, size and sharpness, and their weights follow from least squares (tangent distance; Simard, Le
Cun, Denker, "Efficient Pattern Recognition Using a New Transformation Distance", NIPS 1992).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.images.fingerprint import BLACK_VIEW, GRID, HEADER, VIEWS, WHITE_BLACK_TOLERANCE, WHITE_VIEW

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# How far a copy may be moved (in cells, to the right and down), scaled, and blurred: more is another picture.
MAX_CHANGES = np.array([0.6, 0.6, 0.06, 0.4], np.float32)
CELL_VALUES = 2 * GRID * GRID * 3  # of a view over two backgrounds
RIDGE = 1.0  # keeps the equations of a picture without edges solvable
FROM_CENTRE = (np.arange(GRID) - (GRID - 1) / 2).astype(np.float32)  # of each cell, in cells


def rough_differences(ones: Bytes, others: Bytes, cells: Ints) -> Floats:
    """Compare some cells of all views of pairs of fingerprints, `(N, LENGTH)` each, with nothing removed.

    Returns:
        Mean difference in levels, `(N, VIEWS)`; infinite for a view that says nothing about a pair.
    """
    # Channels come first, so that each operation below runs over one contiguous array.
    first, second = (
        np.moveaxis(_views(part)[:, :, cells], 3, 0).astype(np.float32, order="C") for part in (ones, others)
    )
    delta = first - second
    worst = np.zeros(delta.shape[1:], np.float32)
    # Composed over b, premultiplied colour c and alpha a give c + (255 - a) * b: the difference is dc - da * b.
    for ground in _backgrounds(ones, others).transpose(1, 2, 0)[..., None, None]:
        for channel in range(3):
            np.maximum(worst, np.abs(delta[channel] - delta[3] * ground[channel]), out=worst)
    rough: Floats = worst.mean(-1)
    rough[~_speaking_views(ones, others)] = np.inf
    return rough


def differences(ones: Bytes, others: Bytes, views: Ints) -> tuple[Floats, Floats]:
    """Compare one view of each pair of fingerprints, after removing what a small change of position and size explains.

    Args:
        ones: `(N, LENGTH)`.
        others: `(N, LENGTH)`.
        views: `(N,)`, which view of each pair.

    Returns:
        Largest and mean difference of the cells, in levels, `(N,)` each.
    """
    pairs, colours = np.arange(len(views)), _backgrounds(ones, others)[:, :, None]  # (N, 2, 1, 3)
    first, second = (_over(_views(part)[pairs, views][:, None], colours) for part in (ones, others))
    shape = (len(views), 2, GRID, GRID, 3)
    rest = _unexplained((first - second).reshape(shape), ((first + second) * np.float32(0.5)).reshape(shape))
    apart = np.abs(rest).max(1).reshape(len(views), GRID * GRID, 3)
    # Channel by channel: a reduction over an axis of three is many times slower.
    worst = np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2])
    return worst.max(-1), worst.mean(-1)


def _unexplained(delta: Floats, middle: Floats) -> Floats:
    """Return differences without the part that a small movement, scaling and blur explain.

    Args:
        delta: `(N, 2, GRID, GRID, 3)`, over two backgrounds.
        middle: The mean of both pictures, of the same shape.
    """
    down, right = np.gradient(middle, axis=(2, 3))
    scaled = right * FROM_CENTRE[:, None] + down * FROM_CENTRE[:, None, None]
    padded = np.pad(middle, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    blurred = around - 4 * middle  # the Laplace operator
    changes = np.stack([right, down, scaled, blurred], 1).reshape(len(delta), len(MAX_CHANGES), CELL_VALUES)
    flat = delta.reshape(len(delta), CELL_VALUES)
    equations = changes @ changes.transpose(0, 2, 1) + RIDGE * np.eye(len(MAX_CHANGES), dtype=np.float32)
    weights = np.linalg.solve(equations, changes @ flat[..., None])[..., 0].clip(-MAX_CHANGES, MAX_CHANGES)
    rest: Floats = (flat - (weights[:, None] @ changes)[:, 0]).reshape(delta.shape)
    return rest


def _views(values: Bytes) -> Bytes:
    return values[:, HEADER:].reshape(len(values), VIEWS, GRID * GRID, 4)


def _over(cells: Bytes, colours: Floats) -> Floats:
    """Composite premultiplied cells over backgrounds from 0 to 1: colour c and alpha a give c + (255 - a) * b."""
    values = cells.astype(np.float32)
    composed: Floats = values[..., :3] + (255 - values[..., 3:]) * colours
    return composed


def _speaking_views(ones: Bytes, others: Bytes) -> Mask:
    """Return which views count for each pair, `(N, VIEWS)`: what is seen on black counts if one image lies on black."""
    speaking = np.ones((len(ones), VIEWS), bool)
    for view, is_near in ((BLACK_VIEW, _is_black), (WHITE_VIEW, _is_white)):
        speaking[:, view] = ((ones[:, 0] == 1) & is_near(ones[:, 1:4])) | (
            (others[:, 0] == 1) & is_near(others[:, 1:4])
        )
    return speaking


def _is_black(colours: Bytes) -> Mask:
    near: Mask = colours.max(1) < WHITE_BLACK_TOLERANCE
    return near


def _is_white(colours: Bytes) -> Mask:
    near: Mask = colours.min(1) > 255 - WHITE_BLACK_TOLERANCE
    return near


def _backgrounds(ones: Bytes, others: Bytes) -> Floats:
    """Choose two backgrounds for each pair, `(N, 2, 3)`, from 0 to 1."""
    first, second = (part[:, 1:4] / np.float32(255) for part in (ones, others))
    first_cut, second_cut = (part[:, :1] == 1 for part in (ones, others))
    black, white = np.zeros_like(first), np.ones_like(first)
    one = np.where(second_cut, second, np.where(first_cut, first, black))
    other = np.where(first_cut, first, np.where(second_cut, second, white))
    return np.stack([one, other], 1)
