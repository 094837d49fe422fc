"""Gaussian noise keyed by seed: a picture depends on its own seed, never on its batch.

Where a row starts: from noise alone, from a user's picture under noise, or inside a mask only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emoji_ldm.generate.image_inputs import Mask, load_init_image, load_mask
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import MAX_SEED, GenerationRequest, LatentShape
from emoji_ldm.generate.step_coefficients import SamplingSchedule
from emoji_ldm.latents.vae import downsampling_factor


class NoiseStream:
    """The stream of one seed, drawn on the CPU wherever the model runs: a seed means the same noise on every device.

    Each call of `next` draws what a diffusers pipeline with `generator=[torch.Generator().manual_seed(seed)]` draws
    next: the sample of the picture's posterior in image-to-image, the noise that the walk starts from, then the noise
    of each step that needs some.
    """

    def __init__(self, seed: int, shape: LatentShape) -> None:
        """Begin a stream; ValueError if `seed` is not in 0 ... 2**63 - 1."""
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seeds must be integers in 0 ... {MAX_SEED}, got {seed}")
        self.shape, self.generator = shape, torch.Generator().manual_seed(seed)

    def next(self) -> Tensor:
        """The next `(C, h, w)` float32 on the CPU."""
        return torch.randn(self.shape, generator=self.generator)


@dataclass(frozen=True)
class InitialLatents:
    """Each `(C, h, w)` float32 on the model's device."""

    x: Tensor  # in the scale of the row's scheduler
    known: Tensor | None = None  # scaled latents of the picture, where a mask keeps part of it
    mask: Tensor | None = None  # (1, h, w): 1 where it is drawn anew
    noise: Tensor | None = None  # what `known` is noised with


@torch.inference_mode()
def make_initial_latents(
    model: LatentDiffusionModel, draw: GenerationRequest, noise: NoiseStream, schedule: SamplingSchedule
) -> InitialLatents:
    """What StableDiffusionPipeline, ...Img2ImgPipeline and ...InpaintPipeline of diffusers start from.

    The picture is encoded alone, so that no neighbour changes a bit. Unlike in diffusers' image-to-image,
    strength 1 keeps nothing of the picture at all, and RGBA pictures are encoded by RGBA models.

    Args:
        model: Its codec encodes the picture.
        draw: With or without picture and mask.
        noise: The row's stream at its beginning, of the latents' shape.
        schedule: Of the draw's strength.

    Raises:
        ConfigError: Picture or mask cannot be used.
    """
    device = model.device
    if not draw.image:
        return InitialLatents(schedule.level * noise.next().to(device))
    latents = _encode_image(model, draw, noise).to(device)
    eps = noise.next().to(device)
    x = schedule.signal * latents + schedule.level * eps
    if not draw.mask:
        return InitialLatents(x)
    noise.next()  # for the masked picture, which that pipeline encodes too
    cell = downsampling_factor(model.codec.vae)
    anew = load_mask(draw.mask, draw.image, noise.shape[2] * cell, noise.shape[1] * cell)
    return InitialLatents(x, latents, mask_to_latent_cells(anew, noise.shape).to(device), eps)


def _encode_image(model: LatentDiffusionModel, draw: GenerationRequest, noise: NoiseStream) -> Tensor:
    """A sample `(C, h, w)` of the picture's posterior, scaled."""
    cell = downsampling_factor(model.codec.vae)
    pixels = load_init_image(draw.image, noise.shape[2] * cell, noise.shape[1] * cell)
    mean, logvar = (torch.from_numpy(moment[0]) for moment in model.codec.encode(pixels[None].copy()))
    return model.codec.scaling_factor * (mean + torch.exp(0.5 * logvar) * noise.next())


def mask_to_latent_cells(anew: Mask, shape: LatentShape) -> Tensor:
    """`(1, h, w)` float32: 1 for each cell of a latent with a pixel that is drawn anew."""
    height, width = shape[1:]
    blocks = torch.tensor(anew).view(height, anew.shape[0] // height, width, anew.shape[1] // width)
    return blocks.any(dim=3).any(dim=1)[None].float()
