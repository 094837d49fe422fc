"""A picture as a stack of outlines in single colours, for fonts that scale: its colours are few, its edges smooth.

    choose colours (palette of the visible pixels, weighted by alpha)
    -> order them, the largest area at the bottom
    -> of each the area of this and all later colours, as a smooth field -> contour at one half -> fewer points

A layer reaches below those above it, so no gap shows where two colours meet. The lowest one follows the alpha channel
itself, whose values between 0 and 255 say where an edge runs inside a pixel. The contours are contourpy's, which
matplotlib draws with. Shading becomes steps: how far that is from the picture is measured in tests.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_COLOURS = 24
MIN_AREA_PX = 6  # colours of fewer pixels join the nearest other one
TOLERANCE_PX = 0.25  # by which an outline may leave the contour
BLUR = np.array([1, 2, 1]) / 4  # of areas, which have no edges inside pixels

Outline = NDArray[np.float64]  # (N, 2) x and y in pixels, closed without a repeated point


@dataclass(frozen=True)
class ColourLayer:
    """An area of one colour; outlines of holes run the other way round."""

    rgb: tuple[int, int, int]
    outlines: list[Outline]


def trace(pixels: NDArray[np.uint8]) -> list[ColourLayer]:
    """Return the layers of a picture, `(h, w, 4)` RGBA, the lowest first; none if nothing is visible."""
    most = int(pixels[..., 3].max(initial=0))
    if not most:
        return []
    # Of a picture that is half transparent everywhere the outlines are those of an opaque one: fonts have no shades.
    alpha = pixels[..., 3].astype(np.float64) / most
    visible = alpha >= 0.5
    labels, colours = _palette(pixels[..., :3], visible)
    layers = []
    for number, rgb in enumerate(colours):
        # The lowest layer is the whole picture.
        field = alpha if number == 0 else np.minimum(_smooth(visible & (labels >= number)), alpha + 0.5)
        outlines = _contours(field)
        if outlines:
            layers.append(ColourLayer((int(rgb[0]), int(rgb[1]), int(rgb[2])), outlines))
    return layers


def _palette(rgb: NDArray[np.uint8], visible: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each pixel's colour, `(h, w)`, and the colours `(K, 3)`, that of the largest area first."""
    chosen = rgb[visible]
    strip = Image.fromarray(chosen[None])
    # Median cut first, then k-means, which moves the colours to where the pixels are.
    quantized = np.asarray(strip.quantize(MAX_COLOURS, Image.Quantize.MEDIANCUT, kmeans=2))[0]
    counts = np.bincount(quantized, minlength=int(quantized.max()) + 1)
    kept = np.flatnonzero(counts >= min(MIN_AREA_PX, counts.max()))
    means = np.stack([chosen[quantized == each].mean(0) for each in kept])
    kept_order = np.argsort(-counts[kept], kind="stable")
    colours = means[kept_order]
    labels = np.zeros(visible.shape, np.int64)
    labels[visible] = ((chosen[:, None].astype(np.float64) - colours[None]) ** 2).sum(2).argmin(1)
    return labels, np.rint(colours).astype(np.int64)


def _smooth(area: NDArray[np.bool_]) -> NDArray[np.float64]:
    padded = np.pad(area.astype(np.float64), 1, mode="edge")
    rows = BLUR[0] * padded[:-2] + BLUR[1] * padded[1:-1] + BLUR[2] * padded[2:]
    smooth: NDArray[np.float64] = BLUR[0] * rows[:, :-2] + BLUR[1] * rows[:, 1:-1] + BLUR[2] * rows[:, 2:]
    return smooth


def _contours(field: NDArray[np.float64]) -> list[Outline]:
    """Return the outlines of where a field is above one half; values are those at the centres of pixels."""
    # A frame of nothing closes areas that touch the edge of the picture.
    framed = np.pad(field, 1)
    generator = contourpy.contour_generator(z=framed, fill_type=contourpy.FillType.OuterOffset)
    # What contourpy returns depends on the kind of filling: here polygons, and where each one's outlines begin.
    found = cast(tuple[list[Outline], list[NDArray[np.uint32]]], generator.filled(0.5, np.inf))
    outlines = []
    for points, offsets in zip(*found, strict=True):
        for start, end in itertools.pairwise(offsets):
            outline = _simplified(points[start : end - 1] - 0.5)
            if len(outline) >= 3:
                outlines.append(outline)
    return outlines


def _simplified(points: Outline) -> Outline:
    """Return fewer points of a closed outline, none of which is further than the tolerance from it (Ramer, 1972)."""
    if len(points) < 4:
        return points
    # Split at the point that is furthest from the first: both halves are open lines then.
    far = int(((points - points[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([points, points[:1]])
    kept = np.zeros(len(closed), bool)
    kept[[0, far, len(points)]] = True
    pending = [(0, far), (far, len(points))]
    while pending:
        start, end = pending.pop()
        if end - start < 2:
            continue
        away = _distances(closed[start + 1 : end], closed[start], closed[end])
        worst = int(away.argmax())
        if away[worst] > TOLERANCE_PX:
            middle = start + 1 + worst
            kept[middle] = True
            pending += [(start, middle), (middle, end)]
    return points[kept[:-1]]


def _distances(points: Outline, start: Outline, end: Outline) -> NDArray[np.float64]:
    """Return the distances of points from the line between two others."""
    along = end - start
    length = float(np.hypot(along[0], along[1]))
    away = points - start
    if length == 0:
        return np.hypot(away[:, 0], away[:, 1])
    distances: NDArray[np.float64] = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / length
    return distances
