"""Fingerprints: the appearance of an image in about two kilobytes, stable under resizing, re-encoding and padding.

A fingerprint holds four thumbnails of 24 x 24 cells with premultiplied alpha. The first shows the whole frame; the
second shows a window around the content whose centre and size come from the content's moments, so that padding or
cropping of empty borders does not change it. An opaque background of one colour is removed first and its colour kept:
two images are then compared over that colour, and the same drawing on white and on transparency looks the same.

Once a drawing with a black outline lies on black, nobody can tell the outline from the background, and the content
seems smaller. The third and fourth thumbnail show the window around what is seen on black, and on white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.images.fingerprint_layout import GRID, pack

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Window = tuple[float, float, float]  # centre x, y and half side of a square, in pixels

# Parameters of the measurement. Stored fingerprints depend on all of them: a change makes old and new ones differ.
CONTENT_EXTENT = 2.2  # half the side of the content window, in standard deviations; a disc has a radius of 2 of them
MIN_PIXELS_PER_CELL = 2.6  # on a side
MIN_RIM_ALPHA = 128  # of a pixel at the edge, to tell black from half transparent
MIN_VISIBLE_SHARE = 0.3  # of a silhouette, which must be left of it on black or white
FLAT_TOLERANCE = 14  # levels by which a background may deviate from its colour, for the noise of JPEG
WHITE_BLACK_TOLERANCE = 40  # levels; such backgrounds also occur inside images, so only their outside is removed
MIN_FLAT_BORDER_FRACTION = 0.1  # share of the border that a background must cover; content may touch the rest
FILTER = Image.Resampling.HAMMING  # smooth, so that a shift of less than a pixel changes little


def fingerprint(pixels: Bytes) -> bytes:
    """Measure the appearance of canonical `(h, w, 4)` uint8 RGBA pixels.

    Fingerprints are compared by `emoji_ldm.images.near_duplicate_index`. Because two images are compared over the
    colour of the background that was removed, holes or edges that were removed by mistake make no difference.

    Returns:
        Its stored form, see `fingerprint_layout`.
    """
    colour = background(pixels)
    if colour is not None:
        pixels = _remove_background(pixels, colour)
    # Premultiplied from here on ("RGBa"): colours under transparency must not leak into the averages of cells.
    image = Image.fromarray(pixels, "RGBA").convert("RGBa")
    windows = (_frame(image), *_windows(image))
    header = (0, 0, 0, 0) if colour is None else (1, *colour.tolist())
    return pack(header, _views(image, windows))


def background(pixels: Bytes) -> Bytes | None:
    """Return the colour (R, G, B) of an opaque flat background that at least three corners show; None without one."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    if border[:, 3].min() < 255:
        return None
    # A round button that fills the frame shows its background in the corners alone, so these decide.
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3]
    # The second smallest value per channel: a single corner that differs cannot change it.
    colour: Bytes = np.sort(corners, axis=0)[1]
    if (np.abs(corners.astype(np.int16) - colour) <= FLAT_TOLERANCE).all(1).sum() < len(corners) - 1:
        return None
    near = (np.abs(border[:, :3].astype(np.int16) - colour) <= FLAT_TOLERANCE).all(1)
    return colour if near.mean() >= MIN_FLAT_BORDER_FRACTION else None


def _remove_background(pixels: Bytes, colour: Bytes) -> Bytes:
    """Make the background transparent, and the antialiased edge beside it partly transparent.

    An edge pixel is a mixture of background and content, `p = (1 - a) * background + a * content`. Its alpha is
    estimated as its distance from the background relative to the largest distance nearby, which is pure content; the
    mixture is then solved for the content's colour.
    """
    distance = _distance_from_colour(pixels, colour)
    flat = distance <= FLAT_TOLERANCE
    if colour.max() < WHITE_BLACK_TOLERANCE or colour.min() > 255 - WHITE_BLACK_TOLERANCE:
        flat = _outside(flat)  # white eyes on a white page are content, not holes
    edge = np.flatnonzero(_dilate(_dilate(flat)) & ~flat)
    own, strongest = (np.maximum(values.ravel()[edge], 1) for values in (distance, _local_maximum(distance)))
    alpha = (own / strongest.astype(np.float32))[:, None]
    inner = (pixels.reshape(-1, 4)[edge, :3] - colour * (1 - alpha)) / alpha
    cut = pixels.copy()
    cut[..., 3] = ~flat * np.uint8(255)
    cut.reshape(-1, 4)[edge] = np.rint(np.concatenate([inner, alpha * 255], 1)).clip(0, 255)
    return cut


def _distance_from_colour(pixels: Bytes, colour: Bytes) -> Bytes:
    """Return the largest difference of any channel from a colour, `(h, w)` uint8 levels."""
    distance = np.zeros(pixels.shape[:2], np.uint8)
    # Channel by channel in uint8: casting the whole image to a signed type would cost twice the time.
    for channel, level in enumerate(colour):
        values = np.ascontiguousarray(pixels[..., channel])
        np.maximum(distance, np.maximum(values, level) - np.minimum(values, level), out=distance)
    return distance


def _local_maximum(values: Bytes) -> Bytes:
    """Return the maximum over the 5 x 5 neighbourhood of each pixel, `(h, w)`."""
    # A square maximum separates into one along the rows and one along the columns; the transpose swaps the axes.
    for _ in range(2):
        wide = np.pad(values, 2).T
        length = len(wide) - 4
        values = np.maximum.reduce([wide[step : step + length] for step in range(5)])[:, 2:-2]
    return values


def _outside(flat: Mask) -> Mask:
    """Mark background pixels from which a straight line reaches one of the four sides, `(..., h, w)`."""
    return _outside_of_rows(~flat) | _outside_of_rows(~flat.swapaxes(-1, -2)).swapaxes(-1, -2)


def _outside_of_rows(solid: Mask) -> Mask:
    """Mark the pixels left of the first solid pixel of each row, or right of the last one."""
    width = solid.shape[-1]
    rows = np.ascontiguousarray(solid).reshape(-1, width)
    first, last = rows.argmax(1), width - 1 - rows[:, ::-1].argmax(1)
    # argmax gives 0 for a row without solid pixels; all of such a row lies outside.
    first[(first == 0) & ~rows[:, 0]] = width
    # Unsigned differences wrap around: left of the first solid pixel they are large, and one comparison is enough.
    start, length = first.astype(np.uint16)[:, None], (last + 1 - first).astype(np.uint16)[:, None]
    outside: Mask = (_columns(width) - start) >= length
    return outside.reshape(solid.shape)


@cache
def _columns(width: int) -> NDArray[np.uint16]:
    return np.arange(width, dtype=np.uint16)


def _dilate(mask: Mask) -> Mask:
    """Grow a mask `(..., h, w)` by one pixel in the four directions."""
    grown = mask.copy()
    grown[..., 1:, :] |= mask[..., :-1, :]
    grown[..., :-1, :] |= mask[..., 1:, :]
    grown[..., 1:] |= mask[..., :-1]
    grown[..., :-1] |= mask[..., 1:]
    return grown


def _frame(image: Image.Image) -> Window:
    return image.width / 2, image.height / 2, max(image.size) / 2


def _windows(image: Image.Image) -> list[Window]:
    """Return the windows around the content of premultiplied pixels, and around what of it is seen on black, and white.

    A black outline disappears on black, and a white one on white. Whoever cuts the drawing out there gets a smaller
    silhouette, and another window.
    """
    # Everything beyond the box of what is not fully transparent is outside, so only the box is looked at.
    box = image.getbbox() or (0, 0, *image.size)
    # Each channel in one piece: operations on every fourth byte take many times longer.
    red, green, blue, alpha = np.ascontiguousarray(np.moveaxis(np.asarray(image.crop(box)), 2, 0))
    # How far each pixel is from the background on which it lies. With premultiplied colour c and alpha a, what is seen
    # on black is c, and on white c + 255 - a, which is 255 - (a - c). No channel is larger than alpha.
    on_black = np.maximum(np.maximum(red, green), blue)
    on_white = alpha - np.minimum(np.minimum(red, green), blue)
    weight, edge = _silhouette(alpha)
    content = _sums(weight)
    windows = [_window(content, box, image.size)]
    # Where nothing of the rim disappears the window stays as it is, which saves most of the cost. What is nearly black
    # counts: the colour of a background has a tolerance.
    rim = _dilate(edge) & (alpha >= MIN_RIM_ALPHA)
    for shown in (on_black, on_white):
        left = _sums(_silhouette(shown)[0]) if (rim & (shown < WHITE_BLACK_TOLERANCE)).any() else content
        # A drawing of black lines is nothing on black: what is left of it there would look like any other.
        enough = left is not content and left[0].sum() >= MIN_VISIBLE_SHARE * content[0].sum()
        windows.append(_window(left, box, image.size) if enough else windows[0])
    return windows


def _silhouette(alpha: Bytes) -> tuple[Bytes, Mask]:
    """Return the weight of each pixel, `(h, w)`: 255 inside, its alpha at the edge, and 0 outside; and the edge.

    Holes count as filled, because a white hole and a white part look the same once the image lies on white.
    """
    outside = _outside(alpha <= FLAT_TOLERANCE)
    edge = _dilate(outside)
    edge[[0, -1]] = edge[:, [0, -1]] = True  # everything beyond the frame is outside
    # Where there is no edge, 0 - 1 wraps to 255. Arithmetic on bytes takes a fifth of the time of `where`.
    weight: Bytes = (alpha | (edge.view(np.uint8) - np.uint8(1))) * ~outside
    return weight, edge


def _sums(weight: Bytes) -> tuple[Floats, Floats]:
    """Return the sums of the columns, `(w,)`, and of the rows, `(h,)`."""
    # Sums of whole numbers up to 2^24 are exact in float32, whose products are many times faster than sums of integers.
    values = weight.astype(np.float32)
    return np.ones(len(values), np.float32) @ values, values @ np.ones(values.shape[1], np.float32)


def _window(sums: tuple[Floats, Floats], box: tuple[int, int, int, int], size: tuple[int, int]) -> Window:
    """Return centre x, y and half side of the square around a silhouette, from its moments, in fractions of a pixel.

    Args:
        sums: Of the columns and the rows of the box.
        box: Its left, upper, right and lower pixel in the image.
        size: Width and height of the image.
    """
    moments = []
    for axis, values in enumerate(sums):
        # Over the whole length, since the result is defined to the last bit.
        weights = np.zeros(size[axis], np.float32)
        weights[box[axis] : box[axis + 2]] = values
        moments.append(_moments(weights))
    (x, spread_x), (y, spread_y) = moments
    return x, y, CONTENT_EXTENT * max(1.0, (spread_x + spread_y) / 2) ** 0.5


def _moments(weights: Floats) -> tuple[float, float]:
    """Return mean and variance of the pixel position, weighted."""
    positions, total = _pixel_centres(len(weights)), max(1.0, float(weights.sum(dtype=np.float64)))
    mean = float(weights @ positions) / total
    return mean, float(weights @ (positions - mean) ** 2) / total


@cache
def _pixel_centres(length: int) -> NDArray[np.float64]:
    return np.arange(length, dtype=np.float64) + 0.5


def _views(image: Image.Image, windows: Sequence[Window]) -> bytes:
    """Resample square windows to `GRID` x `GRID` pixels each."""
    reduced = {1: image}  # by factor
    views = dict[Window, bytes]()  # equal windows show the same
    for window in windows:
        if window in views:
            continue
        # A few pixels per cell are enough, and fewer are faster. Small content in a large frame keeps all its pixels.
        factor = max(1, int(2 * window[2] / (MIN_PIXELS_PER_CELL * GRID)))
        if factor not in reduced:
            reduced[factor] = image.reduce(factor)
        part, (x, y, half) = reduced[factor], (value / factor for value in window)
        # The window may reach beyond the image, which Pillow does not allow: extend the canvas with transparency.
        margin = max(0, math.ceil(half - min(x, y, part.width - x, part.height - y)))
        if margin:
            canvas = Image.new("RGBa", (part.width + 2 * margin, part.height + 2 * margin))
            canvas.paste(part, (margin, margin))
            part, x, y = canvas, x + margin, y + margin
        # The margin covers the window but for rounding, by which Pillow refuses a box beyond the image.
        box = (max(0.0, x - half), max(0.0, y - half), min(part.width, x + half), min(part.height, y + half))
        views[window] = part.resize((GRID, GRID), FILTER, box=box).tobytes()
    return b"".join(views[window] for window in windows)
