"""Enlarging flat art with crisp edges: back-projection, then motion of contours, then averaging down to the size.

Bicubic interpolation makes every edge as wide as a pixel of the small picture. A picture that was drawn large and
averaged down obeys facts that interpolation ignores:

1. Averaging the large picture gives the small one. In the first doubling the difference is interpolated and added, in
   turns with 2 (iterative back-projection: Irani and Peleg, "Improving resolution by image registration", 1991).
2. An edge of flat art lies between two colours that its neighbourhood contains. Values are pushed away from the middle
   of the smallest and largest one nearby, the more so the larger the contrast, so that soft shading is left alone.
3. Contours are smooth, and back-projection leaves steps. Each further doubling blurs by a pixel and then pushes as in
   2, which moves contours by their curvature (threshold dynamics: Merriman, Bence and Osher, 1992): steps go first.

There are at least two doublings, so that a picture of up to twice the size is averaged down from four times the size,
which antialiases its edges. Nothing is darker or lighter than the small picture around it, so there is no ringing. All
of it happens on premultiplied colours, in which a transparent pixel has no colour that could bleed. `python -m
tests.bench upscale` compares it to bicubic on emoji rendered at both sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]  # (h, w, 4), premultiplied, 0 to 1
NUM_ROUNDS = 6  # of back-projection; more rounds amplify what a generator has left as noise
MIN_DOUBLINGS = 2
# (blur, window, factor of the contrast): the blur is a standard deviation in pixels of the enlarged picture, the window
# holds the transition of an edge and what lies on both of its sides. Steps of the source are twice as long after each
# doubling, so that from the third one on the blur is wider, which takes the waves out of round contours.
GENTLE, SECOND, LATER = (0.0, 5, 1.2), (1.0, 5, 2.5), (2.5, 9, 3.5)
# Contrast from which sharpening begins, and from which it is complete: below lies shading.
SOFT_CONTRAST, HARD_CONTRAST = 0.08, 0.3


def premultiply(pixels: NDArray[np.uint8]) -> Pixels:
    """Return uint8 RGBA `(h, w, 4)` as premultiplied floats."""
    values = pixels.astype(np.float32) / np.float32(255)
    values[..., :3] *= values[..., 3:]
    return values


def unpremultiply(values: Pixels) -> NDArray[np.uint8]:
    """Return premultiplied floats `(h, w, 4)` as uint8 RGBA; transparent pixels are zero."""
    alpha = np.clip(values[..., 3:], 0, 1)
    # Below half a step of alpha the pixel becomes fully transparent, and a colour would only enlarge the file.
    colour = np.where(alpha >= 0.5 / 255, values[..., :3] / np.maximum(alpha, 1e-6), 0)
    straight = np.concatenate([np.clip(colour, 0, 1), alpha], -1)
    return np.asarray(np.rint(straight * 255), np.uint8)


def resize(values: Pixels, width_px: int, height_px: int) -> Pixels:
    """Scale a premultiplied picture `(h, w, 4)` to a size: up with crisp edges, down by Lanczos."""
    num_doublings = 0
    enlarged = values.shape[1] < width_px or values.shape[0] < height_px
    while values.shape[1] < width_px or values.shape[0] < height_px or (enlarged and num_doublings < MIN_DOUBLINGS):
        if num_doublings:
            values = _double_smooth_contours(values, SECOND if num_doublings == 1 else LATER)
        else:
            values = _double_by_back_projection(values)
        num_doublings += 1
    if values.shape[:2] == (height_px, width_px):
        return values
    # Lanczos overshoots at edges, which are as sharp here as they can be; a Hamming window does not.
    method = Image.Resampling.HAMMING if enlarged else Image.Resampling.LANCZOS
    return _valid(_interpolate(values, width_px, height_px, method))


def _double_by_back_projection(values: Pixels) -> Pixels:
    height, width = values.shape[:2]
    low, high = _range_around(values)
    large = _double_by_bicubic(values)
    for turn in range(NUM_ROUNDS):
        # The last round only restores the averages, which sharpening has moved.
        if turn < NUM_ROUNDS - 1:
            large = _sharpen(large, GENTLE)
        average = large.reshape(height, 2, width, 2, 4).mean((1, 3))
        large = np.clip(large + _double_by_bicubic(values - average), low, high)
    return _valid(large)


def _double_smooth_contours(values: Pixels, strength: tuple[float, int, float]) -> Pixels:
    # Bicubic overshoots. Clipped before it is blurred, it leaves the extremes that sharpening aims at as they were.
    large = np.clip(_double_by_bicubic(values), *_range_around(values))
    return _valid(_sharpen(large, strength))


def _range_around(values: Pixels) -> tuple[Pixels, Pixels]:
    """Return the smallest and largest values around each pixel of a picture, at twice its size."""
    from scipy import ndimage

    return tuple(each(values, size=(3, 3, 1)).repeat(2, 0).repeat(2, 1)
                 for each in (ndimage.minimum_filter, ndimage.maximum_filter))  # fmt: skip


def _sharpen(values: Pixels, strength: tuple[float, int, float]) -> Pixels:
    """Blur, and push each value away from the middle between the smallest and the largest one around it."""
    from scipy import ndimage

    blur_px, window_px, factor = strength
    if blur_px:
        values = ndimage.gaussian_filter(values, (blur_px, blur_px, 0))
    window = (window_px, window_px, 1)
    low, high = ndimage.minimum_filter(values, size=window), ndimage.maximum_filter(values, size=window)
    contrast = high - low
    middle = (low + high) / 2
    pushed = np.clip(middle + (values - middle) * factor, low, high)
    # Between two colours, all channels change in proportion, so that pushing each by itself mixes the same two. The
    # weight must be one for all, or edges would change their hue.
    strongest = contrast.max(-1, keepdims=True)
    weight = np.clip((strongest - SOFT_CONTRAST) / (HARD_CONTRAST - SOFT_CONTRAST), 0, 1)
    return np.asarray(values + weight * (pushed - values), np.float32)


def _double_by_bicubic(values: Pixels) -> Pixels:
    return _interpolate(values, 2 * values.shape[1], 2 * values.shape[0], Image.Resampling.BICUBIC)


def _interpolate(values: Pixels, width_px: int, height_px: int, method: Image.Resampling) -> Pixels:
    # Pillow resizes floats one channel at a time.
    channels = [Image.fromarray(np.ascontiguousarray(values[..., each])) for each in range(4)]
    return np.stack([np.asarray(each.resize((width_px, height_px), method)) for each in channels], -1)


def _valid(values: Pixels) -> Pixels:
    """Clip to what a premultiplied picture can hold: no colour exceeds its alpha."""
    values = np.clip(values, 0, 1)
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    return values
