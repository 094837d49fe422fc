"""How much two images differ in appearance, judged by their fingerprints.

The comparison is made over the background that was removed from either image, else over black and over white: two
backgrounds together tell alpha apart, as one alone would not.

Copies differ by more than noise: resizing, cropping and padding move the content by about a cell, scale it by a few
percent and blur it a little. Cell by cell that looks like a difference at every edge. The part of the difference that
such a change explains is therefore removed first: to first order it is a sum of four images, the derivatives of the
picture by its position, size and sharpness, and their weights follow from least squares (tangent distance; Simard, Le
Cun, Denker, "Efficient Pattern Recognition Using a New Transformation Distance", NIPS 1992).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.images.fingerprint import WHITE_BLACK_TOLERANCE
from emoji_ldm.images.fingerprint_layout import BLACK_VIEW, GRID, HEADER, VIEWS, WHITE_VIEW

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# How far a copy may be moved (in cells, to the right and down), scaled, and blurred: more is another picture.
MAX_CHANGES = np.array([1.2, 1.2, 0.06, 1.6], np.float32)
NUM_CHANGES = len(MAX_CHANGES)
RIDGE = 1.0  # keeps the equations of a picture without edges solvable
FROM_CENTRE = (np.arange(GRID) - (GRID - 1) / 2).astype(np.float32)  # of each cell, in cells


def rough_differences(ones: Bytes, others: Bytes) -> Floats:
    """Compare all views of pairs of overviews, or of the same cells of them, with nothing removed.

    Args:
        ones: A header and the cells of all views, `(N, HEADER + VIEWS * cells * 4)`.
        others: The same.

    Returns:
        Mean difference in levels, `(N, VIEWS)`; infinite for a view that says nothing about a pair.
    """
    # Channels come first, so that each operation below runs over one contiguous array.
    first, second = (np.moveaxis(_views(part), 3, 0).astype(np.float32, order="C") for part in (ones, others))
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
        Largest difference of the mean of 2 x 2 neighbouring cells, and mean difference of all cells, in levels, `(N,)`
        each. An edge that a copy draws a little differently changes single cells, another mouth several side by side.
    """
    first, second = (_channels(part, views) for part in (ones, others))
    backgrounds = _backgrounds(ones, others)
    rest = _unexplained(first - second, (first + second) * np.float32(0.5), backgrounds)
    # Composed over b, premultiplied colour c and alpha a give c + (255 - a) * b: the difference is dc - da * b.
    apart = rest[:, None, :3] - rest[:, None, 3:] * backgrounds[..., None, None]  # (N, 2, 3, GRID, GRID)
    rows = apart[..., 1:, :] + apart[..., :-1, :]
    blocks = np.abs(rows[..., 1:] + rows[..., :-1]).max((1, 2)).reshape(len(views), (GRID - 1) ** 2)
    worst: Floats = np.abs(apart).max((1, 2)).reshape(len(views), GRID * GRID)
    return blocks.max(1) / 4, worst.mean(1)


def _unexplained(delta: Floats, middle: Floats, backgrounds: Floats) -> Floats:
    """Return differences without the part that a small movement, scaling and blur explain over both backgrounds.

    Composition is linear. So all is computed once, in colour and alpha, and only the products of two pictures know the
    backgrounds: the sum over these of `(xc - b * xa) * (yc - b * ya)`.

    Args:
        delta: `(N, 4, GRID, GRID)`.
        middle: The mean of both pictures, of the same shape.
        backgrounds: `(N, 2, 3)`.
    """
    num, pictures = len(delta), np.empty((len(delta), NUM_CHANGES + 1, 4, GRID, GRID), np.float32)
    right, down = pictures[:, 0], pictures[:, 1]
    _slope(middle, right)
    _slope(middle.swapaxes(2, 3), down.swapaxes(2, 3))
    pictures[:, 2] = right * FROM_CENTRE + down * FROM_CENTRE[:, None]  # of the picture when it is scaled
    _laplace(middle, pictures[:, 3])  # when it is blurred
    pictures[:, NUM_CHANGES] = delta
    products = _products(pictures.reshape(num, (NUM_CHANGES + 1) * 4, GRID * GRID), backgrounds)
    equations = products[..., :-1] + RIDGE * np.eye(NUM_CHANGES, dtype=np.float32)
    weights = np.linalg.solve(equations, products[..., -1:])[..., 0].clip(-MAX_CHANGES, MAX_CHANGES)
    explained = weights[:, None] @ pictures.reshape(num, NUM_CHANGES + 1, 4 * GRID * GRID)[:, :-1]
    rest: Floats = delta - explained.reshape(delta.shape)
    return rest


def _products(channels: Floats, backgrounds: Floats) -> Floats:
    """Return the products of all pictures but the last with all of them over both backgrounds, `(N, M - 1, M)`.

    Args:
        channels: Colour and alpha of M pictures, `(N, M * 4, cells)`.
        backgrounds: `(N, 2, 3)`.
    """
    # One product of matrices, which takes a small part of the time of arithmetic on all pictures; what the backgrounds
    # make of colour and alpha is worked out on its few numbers.
    num_pictures = channels.shape[1] // 4
    shape = (len(channels), num_pictures - 1, 4, num_pictures, 4)
    parts = (channels[:, :-4] @ channels.transpose(0, 2, 1)).reshape(shape)
    ways = np.zeros((len(channels), 4, 4), np.float32)
    ways[:, range(3), range(3)] = 2
    ways[:, :3, 3] = ways[:, 3, :3] = -backgrounds.sum(1)
    ways[:, 3, 3] = (backgrounds**2).sum((1, 2))
    products: Floats = (parts * ways[:, None, :, None]).sum((2, 4))
    return products


def _slope(pictures: Floats, out: Floats) -> None:
    """Write the slopes along the last axis: half the difference of both neighbours, and one-sided at the edges."""
    np.multiply(pictures[..., 2:] - pictures[..., :-2], np.float32(0.5), out=out[..., 1:-1])
    out[..., 0] = pictures[..., 1] - pictures[..., 0]
    out[..., -1] = pictures[..., -1] - pictures[..., -2]


def _laplace(pictures: Floats, out: Floats) -> None:
    """Write the difference of each cell from its four neighbours; what lies beyond an edge is like the edge."""
    np.multiply(pictures, np.float32(-4), out=out)
    for part, result in ((pictures, out), (pictures.swapaxes(2, 3), out.swapaxes(2, 3))):
        result[..., 1:] += part[..., :-1]
        result[..., :-1] += part[..., 1:]
        result[..., 0] += part[..., 0]
        result[..., -1] += part[..., -1]


def _channels(values: Bytes, views: Ints) -> Floats:
    """Return one view of each fingerprint, channels first: `(N, 4, GRID, GRID)`."""
    chosen = _views(values)[np.arange(len(views)), views].reshape(len(views), GRID, GRID, 4)
    return np.moveaxis(chosen, 3, 1).astype(np.float32, order="C")


def _views(values: Bytes) -> Bytes:
    num_cells = (values.shape[1] - HEADER) // (VIEWS * 4)
    return values[:, HEADER:].reshape(len(values), VIEWS, num_cells, 4)


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
