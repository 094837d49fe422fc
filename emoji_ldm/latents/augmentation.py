"""Altered encodings of an image: mirrored, brighter, flatter; each a function of (image, number), made once.

The first encoding of an image is always the unaltered one, under the codec's own key. The others lie
beside it under keys of their own: other options or more variants make new rows and touch none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.config import LatentsConfig, key_of
from emoji_ldm.errors import ConfigError

Pixels = NDArray[np.uint8]
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)


def augmentation_keys(codec_key: str, settings: LatentsConfig) -> list[str]:
    """The codec keys of an image's encodings, `settings.num_augmentations` of them.

    Raises:
        ConfigError: Variants that nothing alters, alterations without variants, or equal variants.
    """
    altered = settings.flip or settings.jitter > 0
    if altered != (settings.num_augmentations > 1):
        raise ConfigError(
            f"latents.num_augmentations={settings.num_augmentations} with latents.flip={settings.flip} and latents.jitter="
            f"{settings.jitter:g}: the first variant is the image itself, so altered ones need variants from 2 on, "
            "and flip or jitter; set both or neither"
        )
    if settings.jitter:  # as a float: equal settings, equal keys, however they were written
        options = [settings.flip, float(settings.jitter)]
        return [codec_key, *(key_of(codec_key, number, *options) for number in range(1, settings.num_augmentations))]
    if settings.num_augmentations > 2:
        raise ConfigError(
            f"latents.num_augmentations={settings.num_augmentations} without latents.jitter: a picture and its mirror image are all "
            "there is; set latents.num_augmentations=2, or jitter such as 0.1"
        )
    return [codec_key, *([key_of(codec_key, "mirrored")] if settings.flip else [])]


def augment(pixels: Pixels, image_ids: Sequence[str], number: int, settings: LatentsConfig) -> Pixels:
    """Pictures `(N, H, W, 4)` as variant `number` has them; 0 gives them back. Alpha is mirrored, never changed."""
    if number == 0:
        return pixels
    return np.stack(
        [_augment_one(one, image_id, number, settings) for one, image_id in zip(pixels, image_ids, strict=True)]
    )


def _augment_one(pixels: Pixels, image_id: str, number: int, settings: LatentsConfig) -> Pixels:
    """One picture; all of its chance comes from its id and the variant's number.

    Without jitter there is none: the one variant beside the picture is its mirror image, not now and then itself.
    """
    if not settings.jitter:
        return pixels[:, ::-1] if settings.flip else pixels
    mirror, brightness, contrast = np.random.Generator(np.random.Philox(int(key_of(image_id, number), 16))).random(3)
    if settings.flip and mirror < 0.5:
        pixels = pixels[:, ::-1]
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32)
    colour = np.clip(colour * _jitter_factor(brightness, settings.jitter), 0, 255)
    # Contrast turns about the mean grey of what is seen.
    grey = float((colour @ LUMA_WEIGHTS * alpha[..., 0]).sum() / max(float(alpha.sum()), 1.0))
    colour = np.clip(grey + (colour - grey) * _jitter_factor(contrast, settings.jitter), 0, 255)
    return np.concatenate([np.rint(colour).astype(np.uint8), pixels[..., 3:]], axis=-1)


def _jitter_factor(chance: float, jitter: float) -> np.float32:
    """Even between 1 - jitter and 1 + jitter."""
    return np.float32(1 + jitter * (2 * chance - 1))
