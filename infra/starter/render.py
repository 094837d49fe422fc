"""Vector graphics to 64 px RGBA, premultiplied."""

from __future__ import annotations

import io

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

SIZE_PX = 64
OVERSAMPLING = 4


def render(svg: str) -> NDArray[np.uint8]:
    """`(64, 64, 4)` premultiplied RGBA, centred if the graphic is not square: the mean of 4 x 4 smaller pixels."""
    side = SIZE_PX * OVERSAMPLING
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(canvas, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    small = pixels.reshape(SIZE_PX, OVERSAMPLING, SIZE_PX, OVERSAMPLING, 4).mean(axis=(1, 3))
    picture: NDArray[np.uint8] = np.round(small * 255).astype(np.uint8)
    return picture


def straight(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied RGBA as PNG files hold it; `premultiplied` gives back exactly the same pixels.

    The error of a colour here is at most 1/2, and shrinks by alpha on the way back: it is rounded away.
    """
    alpha = np.maximum(picture[..., 3:], 1)
    colors = np.round(picture[..., :3].astype(np.float64) * 255 / alpha)
    return np.concatenate([colors.astype(np.uint8), picture[..., 3:]], -1)


def premultiplied(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA of a PNG file with colours multiplied by alpha, as the autoencoder reads it."""
    colors = np.round(pixels[..., :3].astype(np.float64) * pixels[..., 3:] / 255)
    return np.concatenate([colors.astype(np.uint8), pixels[..., 3:]], -1)
