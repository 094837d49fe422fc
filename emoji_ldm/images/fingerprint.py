"""Fingerprints: the appearance of an image in about two kilobytes, stable under resizing, re-encoding and padding.

A fingerprint holds four thumbnails of 12 x 12 cells with premultiplied alpha. The first shows the whole frame; the
second shows a window around the content whose centre and size come from the content's moments, so that padding or
cropping of empty borders does not change it. An opaque background of one colour is removed first and its colour kept:
two images are then compared over that colour, and the same drawing on white and on transparency looks the same.

Once a drawing with a black outline lies on black, nobody can tell the outline from the background, and the content
seems smaller. The third and fourth thumbnail show the window around what is seen on black, and on white.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Layout of a fingerprint.
GRID = 12  # cells per side
HEADER = 8  # 1 if a flat background was removed, its colour (R, G, B), the version, 3 unused
VERSION = 2  # of the measurement; 0 had two views
VIEWS = 4  # the whole frame; the content; what of it is seen on black, and on white
BLACK_VIEW, WHITE_VIEW = 2, 3
CELLS = VIEWS * GRID * GRID * 4
LENGTH = HEADER + CELLS

BLACK, WHITE = np.zeros(3, np.uint8), np.full(3, 255, np.uint8)

# Parameters of the measurement. Stored fingerprints depend on all of them: a change makes old and new ones differ.
CONTENT_EXTENT = 2.2  # half the side of the content window, in standard deviations; a disc has a radius of 2 of them
MIN_PIXELS_PER_CELL = 5  # on a side
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
        `LENGTH` bytes: the header, then two `(GRID, GRID, 4)` thumbnails of the frame and of its content.
    """
    colour = background(pixels)
    if colour is not None:
        pixels = _remove_background(pixels, colour)
    # Premultiplied from here on ("RGBa"): colours under transparency must not leak into the averages of cells.
    image = Image.fromarray(pixels, "RGBA").convert("RGBa")
    silhouette = _silhouette(pixels[..., 3])
    shown = [_silhouette_on(image, colour) for colour in (BLACK, WHITE)]
    # A drawing of black lines is nothing on black: what is left of it there would look like any other.
    enough = MIN_VISIBLE_SHARE * silhouette.sum(dtype=np.int64)
    shown = [silhouette if part.sum(dtype=np.int64) < enough else part for part in shown]
    views = (_view(image, *window) for window in (_frame(image), *map(_window, (silhouette, *shown))))
    header = (0, 0, 0, 0) if colour is None else (1, *colour.tolist())
    return bytes((*header, VERSION, 0, 0, 0)) + b"".join(view.tobytes() for view in views)


def is_current(value: bytes) -> bool:
    """Whether a fingerprint was measured as `fingerprint` does it: older ones cannot be compared with it."""
    return len(value) == LENGTH and value[4] == VERSION


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
    """Mark background pixels from which a straight line reaches one of the four sides, `(h, w)`."""
    return _outside_of_rows(~flat) | _outside_of_rows(np.ascontiguousarray(~flat.T)).T


def _outside_of_rows(solid: Mask) -> Mask:
    """Mark the pixels left of the first solid pixel of each row, or right of the last one."""
    width = solid.shape[1]
    first, last = solid.argmax(1), width - 1 - solid[:, ::-1].argmax(1)
    # argmax gives 0 for a row without solid pixels; all of such a row lies outside.
    first[~solid[np.arange(len(solid)), first]] = width
    columns, first, last = _columns(width), first.astype(np.int16), last.astype(np.int16)
    outside: Mask = (columns < first[:, None]) | (columns > last[:, None])
    return outside


@cache
def _columns(width: int) -> NDArray[np.int16]:
    return np.arange(width, dtype=np.int16)


def _dilate(mask: Mask) -> Mask:
    """Grow a mask by one pixel in the four directions."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _frame(image: Image.Image) -> tuple[float, float, float]:
    """Return centre x, y and half side of the square around the whole image."""
    return image.width / 2, image.height / 2, max(image.size) / 2


def _silhouette_on(image: Image.Image, colour: Bytes) -> Bytes:
    """Return the silhouette of what is seen of premultiplied pixels on a background.

    A black outline disappears on black, and a white one on white. Whoever cuts the drawing out there gets a smaller
    silhouette, and another window.
    """
    # Channel by channel: a reduction over an axis of three is many times slower.
    red, green, blue, alpha = (np.asarray(image.getchannel(channel)) for channel in range(4))
    # How far each pixel is from the background on which it lies. With premultiplied colour c and alpha a, what is seen
    # on black is c, and on white c + 255 - a, which is 255 - (a - c).
    if colour is BLACK:
        return _silhouette(np.maximum(np.maximum(red, green), blue))
    return _silhouette(alpha - np.minimum(np.minimum(red, green), blue))


def _silhouette(alpha: Bytes) -> Bytes:
    """Return the weight of each pixel, `(h, w)`: 255 inside, its alpha at the edge, and 0 outside.

    Holes count as filled, because a white hole and a white part look the same once the image lies on white.
    """
    outside = _outside(alpha <= FLAT_TOLERANCE)
    edge = _dilate(outside)
    edge[[0, -1]] = edge[:, [0, -1]] = True  # everything beyond the frame is outside
    weight = np.where(edge, alpha, np.uint8(255))
    weight[outside] = 0
    return weight


def _window(weight: Bytes) -> tuple[float, float, float]:
    """Return centre x, y and half side of the square around a silhouette, from its moments, in fractions of a pixel."""
    x, spread_x = _moments(weight.sum(0, dtype=np.int64))
    y, spread_y = _moments(weight.sum(1, dtype=np.int64))
    return x, y, CONTENT_EXTENT * max(1.0, (spread_x + spread_y) / 2) ** 0.5


def _moments(weights: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean and variance of the pixel position, weighted."""
    positions, total = _pixel_centres(len(weights)), max(1, int(weights.sum()))
    mean = float(weights @ positions) / total
    return mean, float(weights @ (positions - mean) ** 2) / total


@cache
def _pixel_centres(length: int) -> NDArray[np.float64]:
    return np.arange(length, dtype=np.float64) + 0.5


def _view(image: Image.Image, x: float, y: float, half: float) -> Image.Image:
    """Resample a square window to `GRID` x `GRID` pixels."""
    # A few pixels per cell are enough, and fewer are faster. Small content in a large frame keeps all its pixels.
    factor = max(1, int(2 * half / (MIN_PIXELS_PER_CELL * GRID)))
    if factor > 1:
        image, x, y, half = image.reduce(factor), x / factor, y / factor, half / factor
    # The window may reach beyond the image, which Pillow does not allow: extend the canvas with transparency.
    margin = max(0, math.ceil(half - min(x, y, image.width - x, image.height - y)))
    if margin:
        canvas = Image.new("RGBa", (image.width + 2 * margin, image.height + 2 * margin))
        canvas.paste(image, (margin, margin))
        image, x, y = canvas, x + margin, y + margin
    return image.resize((GRID, GRID), FILTER, box=(x - half, y - half, x + half, y + half))
