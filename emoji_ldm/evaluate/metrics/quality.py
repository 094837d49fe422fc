"""Quality of transparency: fringes around the outline, a veil away from it, and holes inside the drawing.

Real emoji are the measure: a drawing may have holes and soft parts of its own, so that each figure is read beside that
of real pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emoji_ldm.evaluate.metrics.pixels import RgbaPixels

CLEAR_ALPHA, SOLID_ALPHA = 8, 247  # of 255: below is invisible, above is opaque
MAX_EDGE_PX = 2.0  # an antialiased outline is soft this far from solid and from clear pixels
MAX_HOLE_SHARE = 0.005  # of the picture's area: larger openings, such as that of a ring, belong to the drawing

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class AlphaQuality:
    """Faults of one picture's alpha channel."""

    fringe: float  # mean colour difference of soft outline pixels to the solid ones beside them, 0 to 1
    veil: float  # share of visible pixels that are translucent away from any outline, 0 to 1
    num_holes: int  # small openings inside the drawing
    opaque: bool  # the picture has no transparency at all


def alpha_quality(pixels: RgbaPixels) -> AlphaQuality:
    """Measure a picture `(h, w, 4)` uint8; an empty one has no fringe, veil or holes."""
    alpha = pixels[..., 3]
    solid, clear = alpha >= SOLID_ALPHA, alpha < CLEAR_ALPHA
    soft = ~solid & ~clear
    return AlphaQuality(_fringe(pixels, solid, soft), _veil(solid, clear, soft), _num_holes(alpha), not clear.any())


def _fringe(pixels: RgbaPixels, solid: Mask, soft: Mask) -> float:
    """How far the colours of the soft outline are from those of the nearest solid pixels, weighted by visibility."""
    if not (solid.any() and soft.any()):
        return 0.0
    distance, (rows, columns) = ndimage.distance_transform_edt(~solid, return_indices=True)
    outline = soft & (distance <= MAX_EDGE_PX)
    if not outline.any():
        return 0.0
    own = pixels[outline][:, :3].astype(np.float64)
    beside = pixels[rows[outline], columns[outline]][:, :3].astype(np.float64)
    # A nearly invisible pixel may have any colour: what counts is how much of it is seen.
    weight = pixels[outline][:, 3].astype(np.float64)
    difference = np.abs(own - beside).mean(1) / 255
    return float((difference * weight).sum() / weight.sum())


def _veil(solid: Mask, clear: Mask, soft: Mask) -> float:
    """Share of visible pixels that are soft but no part of an outline, which lies between solid and clear pixels."""
    visible = ~clear
    if not visible.any():
        return 0.0
    near_solid, near_clear = (_distance_to(mask) <= MAX_EDGE_PX for mask in (solid, clear))
    return float((soft & ~(near_solid & near_clear)).sum() / visible.sum())


def _distance_to(mask: Mask) -> NDArray[np.float64]:
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~mask)
    return distance


def _num_holes(alpha: NDArray[np.uint8]) -> int:
    """Small areas that are more transparent than not, enclosed by the drawing."""
    # A frame of transparent pixels joins all that lies outside the drawing, so that its label is the first one.
    see_through = np.pad(alpha < 128, 1, constant_values=True)
    labels, _ = ndimage.label(see_through)
    sizes = np.bincount(labels[see_through])
    inside = np.delete(sizes, [0, labels[0, 0]])
    return int((inside <= MAX_HOLE_SHARE * alpha.size).sum())
