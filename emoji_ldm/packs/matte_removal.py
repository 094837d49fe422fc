"""Cleaning of the alpha channel: a veil, specks, pin holes, and the fringe that a former ground leaves on edges.

The fringe: a picture that was cut out of a white page has edge pixels that are mixed with white, F + s (1 - a) (B - F),
where F is the emoji's colour, a the alpha, B the ground and s its share, 1 for a naive cut. On a dark page they shine.
For B white and black, s is fitted to all edge pixels at once; where one of them explains the edges, it is taken out
again. A picture that was drawn on transparency has no common s, and its edges are left as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rgba = NDArray[np.uint8]  # (h, w, 4), straight alpha
VEIL, SOLID = 12, 243  # alpha up to here is transparent, from here on opaque; decoders rarely hit 0 and 255
SPECK_SHARE = 0.001  # of the picture's area: 4 pixels at 64 px, where the smallest tear has 12
SPECK_OF_LARGEST = 0.02  # and of the largest part, since pictures of a few pixels consist of small parts
FRINGE_PX = 2  # at 64 px: how far edge pixels lie from the opaque ones whose colour they should have
MIN_EDGE_PIXELS = 12
MIN_SHARE, MIN_EXPLAINED = 0.25, 0.6  # of s, and of the variance of edge colours, to call it a fringe
GROUNDS = {"white": 1.0, "black": 0.0}


def clean(pixels: Rgba) -> tuple[Rgba, list[str]]:
    """Return the picture without veil, specks, pin holes and fringe, and what was changed, in words."""
    changes: list[str] = []
    pixels = _stretch_alpha(pixels)
    for step in (_remove_specks, _close_pin_holes, _remove_fringe):
        pixels, change = step(pixels)
        changes += [change] if change else []
    # Colours under full transparency are invisible; zero makes equal pictures equal files.
    return np.where(pixels[..., 3:] > 0, pixels, np.uint8(0)), changes


def _stretch_alpha(pixels: Rgba) -> Rgba:
    alpha = (pixels[..., 3].astype(np.float32) - VEIL) / (SOLID - VEIL)
    return np.dstack([pixels[..., :3], np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)])


def _remove_specks(pixels: Rgba) -> tuple[Rgba, str]:
    from scipy import ndimage  # takes 0.1 s to import

    labels, count = ndimage.label(pixels[..., 3] > 0, np.ones((3, 3)))
    if count < 2:
        return pixels, ""
    # The sum of alpha rather than the number of pixels: a faint smudge is a speck too.
    masses = ndimage.sum_labels(pixels[..., 3] / 255, labels, np.arange(1, count + 1))
    limit = min(SPECK_SHARE * labels.size, SPECK_OF_LARGEST * masses.max())
    specks = 1 + np.flatnonzero(masses <= limit)
    if not len(specks):
        return pixels, ""
    kept = ~np.isin(labels, specks)
    return np.where(kept[..., None], pixels, np.uint8(0)), f"specks removed: {len(specks)}"


def _close_pin_holes(pixels: Rgba) -> tuple[Rgba, str]:
    from scipy import ndimage

    labels, count = ndimage.label(pixels[..., 3] < 128)
    if not count:
        return pixels, ""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    holes = np.setdiff1d(1 + np.flatnonzero(sizes <= SPECK_SHARE * labels.size), border)
    if not len(holes):
        return pixels, ""
    filled = pixels.copy()
    # The hole's rim is half transparent, so it is filled as well.
    inside = ndimage.binary_dilation(np.isin(labels, holes)) & (pixels[..., 3] < 255)
    nearest = ndimage.distance_transform_edt(pixels[..., 3] < 255, return_distances=False, return_indices=True)
    filled[inside] = pixels[tuple(nearest)][inside]
    return filled, f"pin holes closed: {len(holes)}"


def _remove_fringe(pixels: Rgba) -> tuple[Rgba, str]:
    """Take out the ground that edge pixels are mixed with, if one explains them."""
    from scipy import ndimage

    values = pixels.astype(np.float32) / 255
    colour, alpha = values[..., :3], values[..., 3:]
    opaque = alpha[..., 0] >= 1
    if not opaque.any():
        return pixels, ""
    distance, nearest = ndimage.distance_transform_edt(~opaque, return_indices=True)
    partial = (alpha[..., 0] > 0) & ~opaque
    rim = partial & (distance <= FRINGE_PX * max(1, max(pixels.shape) / 64))
    # Almost transparent pixels have colours that are rounded too coarsely to tell anything.
    edge = rim & (alpha[..., 0] > 0.1)
    # Where most of what is translucent lies far from anything opaque, it is glass or thin lines, and no edge.
    if edge.sum() < MIN_EDGE_PIXELS or 2 * rim.sum() < partial.sum():
        return pixels, ""
    inner = colour[tuple(nearest)][edge]
    shift, clear = colour[edge] - inner, 1 - alpha[edge]
    fits = {name: _fit(shift, clear * (ground - inner)) for name, ground in GROUNDS.items()}
    name = max(fits, key=lambda each: fits[each][1])
    share, explained = fits[name]
    if share < MIN_SHARE or explained < MIN_EXPLAINED:
        return pixels, ""
    mixed = np.minimum(share, 1.0) * (1 - alpha)
    own = np.clip((colour - mixed * GROUNDS[name]) / np.maximum(1 - mixed, 1e-3), 0, 1)
    own = np.where(rim[..., None], own, colour)
    return np.rint(np.concatenate([own, alpha], -1) * 255).astype(np.uint8), f"{name} fringe removed"


def _fit(shift: NDArray[np.float32], direction: NDArray[np.float32]) -> tuple[float, float]:
    """Return s of the least squares `shift = s direction`, and the explained share of the squares of `shift`."""
    squares, total = float((direction**2).sum()), float((shift**2).sum())
    # A mean square below that of rounding means that the edges have the colour of what they bound.
    if squares == 0 or total < 1e-3 * shift.size:
        return 0.0, 0.0
    share = float((direction * shift).sum()) / squares
    return share, 1 - float(((shift - share * direction) ** 2).sum()) / total
