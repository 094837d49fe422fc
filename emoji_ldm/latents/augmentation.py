"""Data augmentation of cached latents: mirrored images, and changes of brightness and contrast.

An image is encoded several times, once unaltered and once per augmentation, and training draws one encoding per step.
The unaltered one is stored under the autoencoder's own key, the others under keys derived from it and from the options:
other options or more augmentations add rows and change none. An augmentation is a function of (image id, number).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config import LatentsConfig, key_of
from emoji_ldm.errors import ConfigError

Pixels = NDArray[np.uint8]
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)


def augmentation_keys(vae_key: str, settings: LatentsConfig) -> list[str]:
    """The keys of an image's encodings, `settings.num_augmentations` of them, the unaltered one first.

    Raises:
        ConfigError: The options ask for augmentations that alter nothing, or for two equal ones.
    """
    is_altered = settings.flip or settings.jitter > 0
    # Either setting alone would be accepted and then do nothing, so both are demanded or neither.
    if is_altered != (settings.num_augmentations > 1):
        raise ConfigError(
            f"latents.num_augmentations={settings.num_augmentations} with latents.flip={settings.flip} and "
            f"latents.jitter={settings.jitter:g}: the first encoding is the image itself, so altered ones need "
            "num_augmentations of 2 or more, and flip or jitter; set both or neither"
        )
    # The number is part of the key, so a greater num_augmentations only adds encodings. Jitter enters as a float, so
    # that 1 and 1.0 give equal keys.
    if settings.jitter:
        options = [settings.flip, float(settings.jitter)]
        return [vae_key, *(key_of(vae_key, number, *options) for number in range(1, settings.num_augmentations))]
    if settings.num_augmentations > 2:
        raise ConfigError(
            f"latents.num_augmentations={settings.num_augmentations} without latents.jitter: only an image and "
            "its mirror image are possible; set latents.num_augmentations=2, or jitter such as 0.1"
        )
    # A mirror image depends on no option, so its key holds a word and no values.
    return [vae_key, *([key_of(vae_key, "mirrored")] if settings.flip else [])]


def augment(pixels: Pixels, image_ids: Sequence[str], number: int, settings: LatentsConfig) -> Pixels:
    """Images uint8 `(N, H, W, 4)` with augmentation `number`; 0 leaves them unaltered. Alpha is only ever mirrored."""
    if number == 0:
        return pixels
    return np.stack(
        [_augment_one(one, image_id, number, settings) for one, image_id in zip(pixels, image_ids, strict=True)]
    )


def _augment_one(pixels: Pixels, image_id: str, number: int, settings: LatentsConfig) -> Pixels:
    """One image; its random numbers are keyed by its id and `number`.

    Without jitter nothing is random: the one augmentation is the mirror image of every image.
    """
    if not settings.jitter:
        return pixels[:, ::-1] if settings.flip else pixels
    # The hash of image and number seeds the generator. An image is therefore altered in the same way whichever worker
    # encodes it, in whatever batch, however often.
    mirror, brightness, contrast = np.random.Generator(np.random.Philox(int(key_of(image_id, number), 16))).random(3)
    if settings.flip and mirror < 0.5:
        pixels = pixels[:, ::-1]
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32)
    # Brightness is clipped before contrast is applied, as torchvision's ColorJitter does, so that the mean grey below
    # is that of an image that can be displayed.
    colour = np.clip(colour * _jitter_factor(brightness, settings.jitter), 0, 255)
    # Contrast changes around the mean grey of the visible pixels: the colour of transparent ones, of which an emoji
    # has many, is arbitrary.
    grey = float((colour @ LUMA_WEIGHTS * alpha[..., 0]).sum() / max(float(alpha.sum()), 1.0))
    colour = np.clip(grey + (colour - grey) * _jitter_factor(contrast, settings.jitter), 0, 255)
    return np.concatenate([np.rint(colour).astype(np.uint8), pixels[..., 3:]], axis=-1)


def _jitter_factor(uniform: float, jitter: float) -> np.float32:
    """Uniform between 1 - jitter and 1 + jitter, from a number in [0, 1)."""
    return np.float32(1 + jitter * (2 * uniform - 1))
