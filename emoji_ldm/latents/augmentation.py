"""Data augmentation of cached latents: mirrored images, and changes of brightness and contrast.

An image is encoded several times, once unaltered and once per augmentation, and training draws one encoding per step.
The unaltered one is stored under the autoencoder's own key, the others under keys derived from it and from the options:
other options or more augmentations add rows and change none. An augmentation is a function of (image id, number).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config import AugmentationOptions, key_of

Pixels = NDArray[np.uint8]
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)


def augmentation_keys(vae_key: str, options: AugmentationOptions | None) -> list[str]:
    """The keys of an image's encodings: that of the unaltered one first, then one per altered copy."""
    if options is None:
        return [vae_key]
    # A mirror image depends on no option, so its key holds a word and no values.
    if not options.jitter:
        return [vae_key, key_of(vae_key, "mirrored")]
    # The number is part of the key, so that more copies only add encodings. Jitter enters as a float, so that 1 and 1.0
    # give equal keys.
    values = [options.flip, float(options.jitter)]
    return [vae_key, *(key_of(vae_key, number, *values) for number in range(1, options.num_copies + 1))]


def augment(pixels: Pixels, image_ids: Sequence[str], number: int, options: AugmentationOptions | None) -> Pixels:
    """Images uint8 `(N, H, W, 4)` as altered copy `number`; 0 leaves them unaltered. Alpha is only ever mirrored."""
    if number == 0:
        return pixels
    assert options is not None, "only augmentations have altered copies"
    return np.stack(
        [_augment_one(one, image_id, number, options) for one, image_id in zip(pixels, image_ids, strict=True)]
    )


def _augment_one(pixels: Pixels, image_id: str, number: int, options: AugmentationOptions) -> Pixels:
    """One image; its random numbers are keyed by its id and `number`.

    Without jitter nothing is random: the one copy is the mirror image of every image.
    """
    if not options.jitter:
        return pixels[:, ::-1]
    # The hash of image and number seeds the generator. An image is therefore altered in the same way whichever worker
    # encodes it, in whatever batch, however often.
    mirror, brightness, contrast = np.random.Generator(np.random.Philox(int(key_of(image_id, number), 16))).random(3)
    if options.flip and mirror < 0.5:
        pixels = pixels[:, ::-1]
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32)
    # Brightness is clipped before contrast is applied, as torchvision's ColorJitter does, so that the mean grey below
    # is that of an image that can be displayed.
    colour = np.clip(colour * _jitter_factor(brightness, options.jitter), 0, 255)
    # Contrast changes around the mean grey of the visible pixels: the colour of transparent ones, of which an emoji
    # has many, is arbitrary.
    grey = float((colour @ LUMA_WEIGHTS * alpha[..., 0]).sum() / max(float(alpha.sum()), 1.0))
    colour = np.clip(grey + (colour - grey) * _jitter_factor(contrast, options.jitter), 0, 255)
    return np.concatenate([np.rint(colour).astype(np.uint8), pixels[..., 3:]], axis=-1)


def _jitter_factor(uniform: float, jitter: float) -> np.float32:
    """Uniform between 1 - jitter and 1 + jitter, from a number in [0, 1)."""
    return np.float32(1 + jitter * (2 * uniform - 1))
