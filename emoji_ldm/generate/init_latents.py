"""The latents that a denoising row starts from: seeded noise alone, an image under noise, or noise inside a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import MAX_SEED, GenerationRequest, LatentShape, Mask, load_init_image, load_mask
from emoji_ldm.generate.step_coefficients import SamplingSchedule


class NoiseStream:
    """The Gaussian noise of one seed. An image depends on its own stream only, never on its batch.

    Noise is drawn on the CPU wherever the model runs, so that a seed means the same noise on every device. Successive
    calls of `next` return what a diffusers pipeline with `generator=[torch.Generator().manual_seed(seed)]` draws: the
    sample of the image's posterior (image-to-image only), the initial noise, then the noise of each stochastic step.
    """

    def __init__(self, seed: int, shape: LatentShape) -> None:
        """Start the stream; ValueError if `seed` is not within 0 ... 2**63 - 1."""
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seeds must be integers in 0 ... {MAX_SEED}, got {seed}")
        self.shape, self.generator = shape, torch.Generator().manual_seed(seed)

    def next(self) -> Tensor:
        """The next `(C, h, w)` float32 of unit variance, on the CPU."""
        return torch.randn(self.shape, generator=self.generator)


@dataclass(frozen=True)
class InitialLatents:
    """Where a row starts; tensors are `(C, h, w)` float32 on the model's device."""

    x: Tensor  # noisy sample, in the scale of the row's scheduler
    image_latents: Tensor | None = None  # scaled latents of the image, where a mask keeps part of it
    mask: Tensor | None = None  # (1, h, w): 1 where the image is repainted
    noise: Tensor | None = None  # the noise that `image_latents` get after each step


@torch.inference_mode()
def make_initial_latents(
    model: LatentDiffusionModel, request: GenerationRequest, noise: NoiseStream, schedule: SamplingSchedule
) -> InitialLatents:
    """The initial latents of diffusers' StableDiffusionPipeline, ...Img2ImgPipeline or ...InpaintPipeline.

    An image is encoded in a batch of one, so that no neighbour changes a bit of its latents. There are two deliberate
    differences to diffusers: strength 1 keeps nothing of the image, and RGBA models encode RGBA images.

    Args:
        model: Its autoencoder encodes the image.
        request: May have an image and a mask.
        noise: The row's stream, of the shape of the latents; nothing may have been drawn from it yet.
        schedule: The schedule for the request's strength.

    Raises:
        ConfigError: The image or the mask cannot be used.
    """
    device = model.device
    if not request.image:
        # x has the scale of the scheduler: variance-exploding ones start from noise of their largest sigma, not from
        # unit noise.
        return InitialLatents(schedule.noise_level * noise.next().to(device))
    # The posterior sample draws from the stream before the initial noise, as in diffusers. Another order would give
    # other images for the same seed.
    latents = _encode_image(model, request, noise).to(device)
    eps = noise.next().to(device)
    x = schedule.signal * latents + schedule.noise_level * eps
    if not request.mask:
        return InitialLatents(x)
    # diffusers' inpainting pipeline also encodes the masked image and draws a sample for it. The sample is unused with
    # text-to-image weights, but skipping it would shift the noise of every later step.
    noise.next()
    cell_px = model.downsampling_factor
    mask = load_mask(request.mask, request.image, noise.shape[2] * cell_px, noise.shape[1] * cell_px)
    return InitialLatents(x, latents, mask_to_latent_cells(mask, noise.shape).to(device), eps)


def _encode_image(model: LatentDiffusionModel, request: GenerationRequest, noise: NoiseStream) -> Tensor:
    """A scaled sample `(C, h, w)` of the image's posterior."""
    cell_px = model.downsampling_factor
    pixels = load_init_image(request.image, noise.shape[2] * cell_px, noise.shape[1] * cell_px)
    # The cached pixels are read-only, and torch wraps a read-only array only with a warning: hence the copy.
    mean, logvar = (torch.from_numpy(moment[0]) for moment in model.vae.encode(pixels[None].copy()))
    # Reparameterised sample of the posterior N(mean, exp(logvar)), drawn from the row's own stream (Kingma & Welling,
    # 2014).
    return model.vae.scaling_factor * (mean + torch.exp(0.5 * logvar) * noise.next())


def mask_to_latent_cells(mask: Mask, shape: LatentShape) -> Tensor:
    """`(1, h, w)` float32: 1 for each latent cell that covers at least one repainted pixel."""
    height, width = shape[1:]
    blocks = torch.tensor(mask).view(height, mask.shape[0] // height, width, mask.shape[1] // width)
    # A cell with a single repainted pixel is repainted as a whole: the pixels of the cell that are to be kept are put
    # back at the end, but a cell that was kept could not change the one pixel.
    return blocks.any(dim=3).any(dim=1)[None].float()
