"""Section `latents`: the VAE, the text encoder and the cache of encoded tensors."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from emoji_ldm.config.base import Fraction, Positive, Section, Width
from emoji_ldm.errors import ConfigError


class AugmentationOptions(Section):
    """The altered copies of an image; without any field set it is one mirror image."""

    num_copies: Positive = 1
    """Altered copies per image."""
    flip: bool = True
    """Whether copies are mirrored: half of them, or without `jitter` the only one."""
    jitter: Fraction = 0
    """Largest relative change of brightness and contrast; 0 changes no colours."""

    @model_validator(mode="after")
    def _refuse_equal_copies(self) -> Self:
        """Refuse copies that equal the image or each other."""
        if not self.flip and not self.jitter:
            raise ConfigError(
                "latents.augmentations.flip=false without jitter alters nothing; set latents.augmentations.jitter=0.1, "
                "or latents.augmentations=null"
            )
        if self.num_copies > 1 and not self.jitter:
            raise ConfigError(
                f"latents.augmentations.num_copies={self.num_copies} without jitter: an image has only one mirror "
                "image; set latents.augmentations.jitter=0.1, or num_copies=1"
            )
        return self


class BucketOptions(Section):
    """Shapes that images are scaled to by their aspect ratio, in place of one square."""

    step_px: Width = 64
    """What the sides of all shapes are multiples of."""
    max_ratio: Annotated[float, Field(ge=1, le=4)] = 2
    """Largest ratio of the longer side to the shorter one."""
    sizes_px: tuple[Width, ...] = ()
    """Smaller resolutions beside `latents.size_px`: an image gets the largest one that it has the pixels for."""
    max_crop: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of an image that may be cut off at two opposite sides; where it would be more, it is padded instead."""


class LatentsConfig(Section):
    """How images and captions become the cached tensors that training reads."""

    vae: str = "own"
    """`own`: the run's own; `init`: that of `train.init`; else a folder or hub id of an AutoencoderKL or VQModel."""
    text_encoder: str = "minilm"
    """`minilm`: the packaged all-MiniLM-L6-v2; `init`: that of `train.init`; else a folder or hub id of an encoder."""
    max_tokens: Positive = 32
    """Longest caption in tokens; longer ones are truncated."""
    size_px: Width = 64
    """Side in pixels of the encoded images."""
    buckets: BucketOptions | None = None
    """Shapes of about `size_px` times `size_px` pixels that images are scaled to; null pads all to squares."""
    background: str = "white"
    """Colour behind transparent pixels for autoencoders without alpha."""
    # Latents are encoded once and cached, so augmentation cannot happen during training. Several encodings are stored
    # instead.
    augmentations: AugmentationOptions | None = None
    """Altered copies of each image that are encoded beside it; training draws one of all at each step. null: none."""
    tag_orders: Annotated[int, Field(ge=0)] = 0
    """Further orders of a caption's tags (`a cat, blue, round`) to encode; training draws one of all per sample."""
    batch_size: Positive = 64
    """Images or captions per forward pass."""
    num_workers: Positive = 2
    """Encoder actors."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per encoder actor."""
    rows_per_shard: Positive = 512
    """Rows per commit."""

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, value: str) -> str:
        parse_color(value)
        return value

    @model_validator(mode="after")
    def _refuse_unfit_buckets(self) -> Self:
        """Refuse resolutions that no bucket fits, and ones above that of the section."""
        if not self.buckets:
            return self
        for side in (self.size_px, *self.buckets.sizes_px):
            if side % self.buckets.step_px:
                raise ConfigError(
                    f"latents.buckets.step_px={self.buckets.step_px} does not divide the resolution {side}; give "
                    "another"
                )
        if any(side >= self.size_px for side in self.buckets.sizes_px):
            raise ConfigError(
                f"latents.buckets.sizes_px={list(self.buckets.sizes_px)} holds a resolution that is not below "
                f"latents.size_px={self.size_px}; give the largest one there"
            )
        return self


def parse_color(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of a colour name or `#rrggbb`; ConfigError if it is neither."""
    from PIL import ImageColor

    try:
        # A colour such as `#rrggbbaa` has a fourth value, which a background cannot use.
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise ConfigError(
            f"latents.background={colour!r} is not a colour; use a name such as white, or #rrggbb"
        ) from None
    return red, green, blue
