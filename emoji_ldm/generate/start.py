"""Where a row starts: from noise alone, from a user's picture under noise, or inside a mask only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.noise import Noise, Shape
from emoji_ldm.generate.picture import Mask, start_mask, start_picture
from emoji_ldm.generate.tables import Schedule
from emoji_ldm.latents.codec import downsampling


@dataclass(frozen=True)
class Start:
    """Each `(C, h, w)` float32 on the model's device."""

    x: Tensor  # in the scale of the row's scheduler
    known: Tensor | None = None  # scaled latents of the picture, where a mask keeps part of it
    mask: Tensor | None = None  # (1, h, w): 1 where it is drawn anew
    noise: Tensor | None = None  # what `known` is noised with


@torch.inference_mode()
def start_of(model: Model, draw: Draw, noise: Noise, schedule: Schedule) -> Start:
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
        return Start(schedule.level * noise.next().to(device))
    latents = _encode(model, draw, noise).to(device)
    eps = noise.next().to(device)
    x = schedule.signal * latents + schedule.level * eps
    if not draw.mask:
        return Start(x)
    noise.next()  # for the masked picture, which that pipeline encodes too
    cell = downsampling(model.codec.vae)
    anew = start_mask(draw.mask, draw.image, noise.shape[2] * cell, noise.shape[1] * cell)
    return Start(x, latents, cells(anew, noise.shape).to(device), eps)


def _encode(model: Model, draw: Draw, noise: Noise) -> Tensor:
    """A sample `(C, h, w)` of the picture's posterior, scaled."""
    cell = downsampling(model.codec.vae)
    pixels = start_picture(draw.image, noise.shape[2] * cell, noise.shape[1] * cell)
    mean, logvar = (torch.from_numpy(moment[0]) for moment in model.codec.encode(pixels[None].copy()))
    return model.codec.scaling_factor * (mean + torch.exp(0.5 * logvar) * noise.next())


def cells(anew: Mask, shape: Shape) -> Tensor:
    """`(1, h, w)` float32: 1 for each cell of a latent with a pixel that is drawn anew."""
    height, width = shape[1:]
    blocks = torch.tensor(anew).view(height, anew.shape[0] // height, width, anew.shape[1] // width)
    return blocks.any(dim=3).any(dim=1)[None].float()
