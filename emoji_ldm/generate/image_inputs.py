"""Images and masks that users send for image-to-image and inpainting: decoding, checks and scaling. Needs no torch."""

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
MASK_THRESHOLD = 128  # of 255: a mask pixel this transparent, or this white, is repainted

Pixels = NDArray[np.uint8]  # (H, W, 4) straight (not premultiplied) RGBA
Mask = NDArray[np.bool_]  # (H, W), True where the image is repainted


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode the first frame of an image file, upright, as RGBA.

    The size is checked before any pixel is decoded, so that a small file cannot claim a huge canvas.

    Raises:
        ConfigError: The file is not a complete image of a known format, or a side is not within 8 to 4,096 px.
    """
    try:
        return decode_image(data, MAX_SIDE_PX)[0]
    except Rejected as rejected:
        # The part after the semicolon states the limit, which the message below states together with the remedy.
        reason = rejected.reason.partition(";")[0]
        if rejected.outcome in (Outcome.TOO_LARGE, Outcome.TOO_SMALL):
            raise ConfigError(f"{name} is refused: {reason}; give a side of 8 to {MAX_SIDE_PX} px") from None
        raise ConfigError(f"{name} cannot be read: {reason}; give a PNG, JPEG, WebP or GIF file") from None


def fit_to_canvas(image: Image.Image, width: int, height: int) -> Pixels:
    """Scale an image to fit and centre it on padding of zeros (transparent, in RGBA).

    Returns:
        uint8 `(height, width, 4)`, or `(height, width)` for a greyscale image.
    """
    # Padding, not cropping: no part of what the user sent may be lost, and transparent borders are natural for an
    # emoji.
    canvas = Image.new(image.mode, (width, height))
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        # Pillow resizes RGBA premultiplied: the colour of transparent pixels does not bleed into edges.
        image = image.resize(size, Image.Resampling.LANCZOS)
    canvas.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


# The n images of one request start from the same file, which may be large.
@lru_cache(maxsize=8)
def load_init_image(data: bytes, width: int, height: int) -> Pixels:
    """Read-only pixels of a request's image at the request's size. Raises as `open_image`."""
    pixels = fit_to_canvas(open_image(data), width, height)
    # Cached arrays are shared by requests, so a write would corrupt the next one's image.
    pixels.setflags(write=False)
    return pixels


@lru_cache(maxsize=8)
def load_mask(data: bytes, image: bytes, width: int, height: int) -> Mask:
    """The read-only region to repaint: where the mask is transparent or, without an alpha channel, white.

    Raises:
        ConfigError: The mask cannot be read, differs from the image in size, or selects no pixel.
    """
    opened, size = open_image(data, "mask"), open_image(image).size
    if opened.size != size:
        raise ConfigError(f"mask is {opened.width}x{opened.height} px, but image is {size[0]}x{size[1]}: "
                          "give a mask of the size of the image")  # fmt: skip
    alpha = np.asarray(opened.getchannel("A"))
    # OpenAI's image API takes transparent masks, diffusers and the web UIs white ones. A mask with any transparency is
    # read the first way.
    repaint = 255 - alpha if (alpha < 255).any() else np.asarray(opened.convert("L"))
    if not (repaint >= MASK_THRESHOLD).any():
        raise ConfigError("mask selects nothing to repaint: make it transparent, or white if it has no alpha channel, "
                          "where the image is to be repainted")  # fmt: skip
    # The mask is scaled exactly as the image is, so that the two stay aligned; padding gets 0 and is kept.
    mask: Mask = fit_to_canvas(Image.fromarray(repaint), width, height) >= MASK_THRESHOLD
    mask.setflags(write=False)
    return mask


def check_image_inputs(request: GenerationRequest) -> None:
    """Decode a request's image and mask and raise ConfigError if they cannot be used."""
    if request.mask and not request.image:
        raise ConfigError("a mask needs the image that it masks")
    if request.image:
        open_image(request.image)
    if request.mask:
        # The size of the generated image does not matter here, since all checks look at the mask before it is scaled.
        load_mask(request.mask, request.image, 8, 8)


def restore_unmasked(pixels: Pixels, request: GenerationRequest) -> Pixels:
    """Generated pixels `(H, W, 4)` with the original image put back outside the mask.

    The autoencoder changes every pixel a little, also those that inpainting kept in latent space; users expect
    untouched pixels to stay exactly as they were.
    """
    if not request.mask:
        return pixels
    height, width = pixels.shape[:2]
    repaint = load_mask(request.mask, request.image, width, height)
    # The same cached pixels that the sampler encoded, so every kept pixel is exactly that of the scaled image.
    return np.where(repaint[..., None], pixels, load_init_image(request.image, width, height))
