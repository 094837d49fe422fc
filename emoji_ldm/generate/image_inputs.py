"""Pictures that users send: to start from, and to say where it is drawn anew."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.images.decode import decode_image
from emoji_ldm.outcomes import Outcome, Rejected

MAX_SIDE_PX = 4096
MASK_THRESHOLD = 128  # of 255: from here on a mask counts as clear, or as white

Pixels = NDArray[np.uint8]  # (H, W, 4) straight RGBA
Mask = NDArray[np.bool_]  # (H, W), True where it is drawn anew


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """The first frame, upright, as RGBA; its size is looked at before any pixel is decoded.

    Raises:
        ConfigError: It is no whole picture in a known format, or a side has other than 8 to 4,096 pixels.
    """
    try:
        return decode_image(data, MAX_SIDE_PX)[0]
    except Rejected as refused:
        reason = refused.reason.partition(";")[0]
        if refused.outcome in (Outcome.TOO_LARGE, Outcome.TOO_SMALL):
            raise ConfigError(f"{name} is refused: {reason}; give a side of 8 to {MAX_SIDE_PX} px") from None
        raise ConfigError(f"{name} cannot be read: {reason}; give a PNG, JPEG, WebP or GIF file") from None


def fit_to_canvas(image: Image.Image, width: int, height: int) -> Pixels:
    """RGBA pixels `(height, width, 4)`: scaled to fit, centred on transparent padding."""
    whole = Image.new(image.mode, (width, height))
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)  # premultiplies RGBA, so that no hidden colour bleeds
    whole.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(whole)


@lru_cache(maxsize=8)  # n images of one request start from one picture; files may be large
def load_init_image(data: bytes, width: int, height: int) -> Pixels:
    """The picture of a draw at the draw's size. Raises as `open_picture`."""
    pixels = fit_to_canvas(open_image(data), width, height)
    pixels.setflags(write=False)
    return pixels


@lru_cache(maxsize=8)
def load_mask(data: bytes, image: bytes, width: int, height: int) -> Mask:
    """Where the draw's picture is drawn anew: where the mask is clear or, if it has no alpha channel, white.

    Raises:
        ConfigError: It cannot be read, is not as large as the picture, or leaves nothing to draw.
    """
    opened, size = open_image(data, "mask"), open_image(image).size
    if opened.size != size:
        raise ConfigError(
            f"mask is {opened.width}x{opened.height} px, but image is {size[0]}x{size[1]}: make it so too"
        )
    alpha = np.asarray(opened.getchannel("A"))
    anew = 255 - alpha if (alpha < 255).any() else np.asarray(opened.convert("L"))
    if not (anew >= MASK_THRESHOLD).any():
        raise ConfigError("mask leaves nothing to draw: make it transparent, or without alpha white, where to draw")
    mask: Mask = fit_to_canvas(Image.fromarray(anew), width, height) >= MASK_THRESHOLD
    mask.setflags(write=False)
    return mask


def check_image_inputs(draw: GenerationRequest) -> None:
    """Raise ConfigError if a draw's picture or mask cannot be used; decodes them."""
    if draw.mask and not draw.image:
        raise ConfigError("a mask needs the image that it masks")
    if draw.image:
        open_image(draw.image)
    if draw.mask:
        load_mask(draw.mask, draw.image, 8, 8)


def restore_unmasked(pixels: Pixels, draw: GenerationRequest) -> Pixels:
    """What was drawn `(H, W, 4)`, with the draw's picture itself wherever its mask says that it stays."""
    if not draw.mask:
        return pixels
    height, width = pixels.shape[:2]
    anew = load_mask(draw.mask, draw.image, width, height)
    return np.where(anew[..., None], pixels, load_init_image(draw.image, width, height))
