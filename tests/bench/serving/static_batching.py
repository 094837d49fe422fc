"""Static batching: all rows start together, and the batch takes as long as its longest row.

It runs the U-Net as our engine does, split over the cores in the way that was measured to be fastest for each shape.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.encode_decode import RgbaImage
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.unet_runner import UNetRunner
from tests.generation_requests import noise_for_seeds

BATCH_SIZE = 8  # images per forward pass


class StaticBatcher:
    """Requests in, PNG files out, at the exact shape of each batch; counts its forward passes."""

    def __init__(self, model: LatentDiffusionModel) -> None:
        self.model, self.states = model, dict[str, Tensor]()
        self.unet = UNetRunner(model.unet, BATCH_SIZE, deterministic=False)
        self.passes = dict[int, list[int]]()  # {rows: sizes of the passes that compute them the fastest}
        self.forwards: Counter[int] = Counter()  # forward passes by their number of images that were not done yet
        config = model.scheduler_config
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
        self.powers = torch.cumprod(1 - betas, 0)
        for rows in range(1, 2 * BATCH_SIZE + 1):  # before anything is timed
            self.fastest_passes(rows)

    @torch.inference_mode()
    def __call__(self, requests: Sequence[GenerationRequest]) -> list[bytes]:
        """PNG bytes of each request."""
        x = self.denoise(requests)
        pixels = self.model.vae.decode(x / self.model.vae.scaling_factor)
        return [png(image, request, self.model) for image, request in zip(pixels, requests, strict=True)]

    def denoise(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Latents `(N, C, h, w)`. Rows without guidance have no unconditional half; rows that are done wait."""
        device, length = self.model.device, max(request.steps for request in requests)
        guided = torch.tensor(
            [row for row, request in enumerate(requests) if request.guidance_scale != 1],
            dtype=torch.long,
            device=device,
        )
        scale = torch.tensor([request.guidance_scale for request in requests], device=device)[guided, None, None, None]
        by_row = [self.ddim_coefficients(request.steps, length) for request in requests]
        times, keep, add = (torch.stack(columns, 1).float().to(device) for columns in zip(*by_row, strict=True))
        states = torch.cat([self.encode(request.prompt) for request in requests]
                           + [self.encode(requests[row].negative_prompt) for row in guided.tolist()])  # fmt: skip
        x = noise_for_seeds([request.seed for request in requests], self.model.latent_shape).to(device)
        passes = self.fastest_passes(len(states))
        for step in range(length):
            self.forwards[sum(request.steps > step for request in requests)] += 1
            o = self.unet((torch.cat([x, x[guided]]), torch.cat([times[step], times[step, guided]]), states), passes)
            positive, negative = o[: len(requests)], o[len(requests) :]
            positive[guided] = negative + scale * (positive[guided] - negative)
            x = keep[step, :, None, None, None] * x + add[step, :, None, None, None] * positive
        return x

    @torch.inference_mode()
    def fastest_passes(self, rows: int) -> list[int]:
        """Sizes of the passes into which this number of rows is split the fastest."""
        if rows not in self.passes:
            device, states = self.model.device, self.encode("")
            inputs = (torch.randn(rows, *self.model.latent_shape, device=device),
                      torch.ones(rows, device=device), states.expand(rows, -1, -1))  # fmt: skip
            options = [option for option in ([rows], self.unet.pass_sizes(rows)) if sum(option) == rows]
            self.passes[rows] = min(options, key=lambda sizes: min(self._seconds(inputs, sizes) for _ in range(3)))
        return self.passes[rows]

    def _seconds(self, inputs: tuple[Tensor, Tensor, Tensor], passes: list[int]) -> float:
        started = time.perf_counter()
        self.unet(inputs, passes)
        return time.perf_counter() - started

    def ddim_coefficients(self, steps: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps and coefficients `(length,)` of DDIM (Song et al., 2021, equation 12), at rest after `steps`."""
        stride = 1000 // steps
        timesteps = torch.arange(steps).flip(0) * stride + 1
        power = self.powers[timesteps]
        power_next = torch.where(timesteps >= stride, self.powers[(timesteps - stride).clamp(min=0)], self.powers[0])
        keep = (power_next / power).sqrt()
        add = (1 - power_next).sqrt() - keep * (1 - power).sqrt()
        idle = length - steps
        return (torch.cat([timesteps, timesteps.new_zeros(idle)]), torch.cat([keep, keep.new_ones(idle)]),
                torch.cat([add, add.new_zeros(idle)]))  # fmt: skip

    def encode(self, text: str) -> Tensor:
        """Token states of a prompt, cached as our engine caches them."""
        if text not in self.states:
            self.states[text] = self.model.encode_prompt(text)
        return self.states[text]


def png(pixels: RgbaImage, request: GenerationRequest, model: LatentDiffusionModel) -> bytes:
    """What all methods do with a decoded image."""
    return to_png(pixels, request, {"model_key": model.key})
