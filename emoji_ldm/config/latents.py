"""Configuration of the autoencoder and of the cached tensors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from emoji_ldm.config.base import Fraction, Positive, Section, Width
from emoji_ldm.errors import ConfigError


class LatentsConfig(Section):
    """How pictures and captions become the cached tensors that training reads."""

    vae: str = "own"
    """`own`: this run's own; `init`: that of `train.init`; else folder or hub id of an AutoencoderKL or VQModel."""
    text_encoder: str = "minilm"
    """`minilm`: the packaged all-MiniLM-L6-v2; `init`: that of `train.init`; else a folder or hub id of an encoder."""
    max_tokens: Positive = 32
    """Longest caption in tokens; longer ones are cut."""
    size_px: Width = 64
    """Side of the pictures that are encoded."""
    background: str = "white"
    """Colour behind transparent pixels for codecs without alpha."""
    num_augmentations: Positive = 1
    """Encodings per image; those after the first are altered by `flip` and `jitter`, training draws one per step."""
    flip: bool = False
    """Whether altered variants are mirrored: half of them, or, without `jitter`, the one that there can be."""
    jitter: Fraction = 0
    """Largest change of brightness and contrast in altered variants."""
    batch_size: Positive = 64
    """Pictures or captions per forward pass."""
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


def parse_color(colour: str) -> tuple[int, int, int]:
    """Red, green and blue in 0..255 of a colour name or `#rrggbb`; ConfigError if it is neither."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise ConfigError(f"latents.background={colour!r} is no colour; use a name such as white, or #rrggbb") from None
    return red, green, blue
