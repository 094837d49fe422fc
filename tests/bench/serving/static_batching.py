"""The simple way to draw a batch: all rows start together, and the batch takes as long as its longest row.

It calls the network as our engine does, in the split over cores that was measured to be quickest for each shape.
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

CAP = 8  # pictures per forward pass


class StaticBatcher:
    """Draws in, PNG files out, at the exact shape of each batch; counts what it runs."""

    def __init__(self, model: LatentDiffusionModel) -> None:
        self.model, self.states = model, dict[str, Tensor]()
        self.network, self.passes = UNetRunner(model.unet, CAP, strict=False), dict[int, list[int]]()
        self.forwards: Counter[int] = Counter()  # forward passes by the pictures in them that were not done yet
        config = model.scheduler_config
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
        self.powers = torch.cumprod(1 - betas, 0)
        for rows in range(1, 2 * CAP + 1):  # before anything is timed
            self.quickest(rows)

    @torch.inference_mode()
    def __call__(self, draws: Sequence[GenerationRequest]) -> list[bytes]:
        """PNG bytes of each draw."""
        x = self.denoise(draws)
        pixels = self.model.codec.decode(x / self.model.codec.scaling_factor)
        return [png(picture, draw, self.model) for picture, draw in zip(pixels, draws, strict=True)]

    def denoise(self, draws: Sequence[GenerationRequest]) -> Tensor:
        """Latents `(N, C, h, w)`. Rows of guidance 1 have no unconditional half, rows that are done wait."""
        device, length = self.model.device, max(draw.steps for draw in draws)
        guided = torch.tensor(
            [row for row, draw in enumerate(draws) if draw.guidance_scale != 1], dtype=torch.long, device=device
        )
        scale = torch.tensor([draw.guidance_scale for draw in draws], device=device)[guided, None, None, None]
        walks = [self.walk(draw.steps, length) for draw in draws]
        times, keep, add = (torch.stack(columns, 1).float().to(device) for columns in zip(*walks, strict=True))
        states = torch.cat([self.encode(draw.prompt) for draw in draws]
                           + [self.encode(draws[row].negative_prompt) for row in guided.tolist()])  # fmt: skip
        x = noise_for_seeds([draw.seed for draw in draws], self.model.latent_shape).to(device)
        passes = self.quickest(len(states))
        for step in range(length):
            self.forwards[sum(draw.steps > step for draw in draws)] += 1
            o = self.network((torch.cat([x, x[guided]]), torch.cat([times[step], times[step, guided]]), states), passes)
            positive, negative = o[: len(draws)], o[len(draws) :]
            positive[guided] = negative + scale * (positive[guided] - negative)
            x = keep[step, :, None, None, None] * x + add[step, :, None, None, None] * positive
        return x

    @torch.inference_mode()
    def quickest(self, rows: int) -> list[int]:
        """How a forward pass of so many rows is best split over the cores."""
        if rows not in self.passes:
            device, states = self.model.device, self.encode("")
            inputs = (torch.randn(rows, *self.model.latent_shape, device=device),
                      torch.ones(rows, device=device), states.expand(rows, -1, -1))  # fmt: skip
            ways = [way for way in ([rows], self.network.passes(rows)) if sum(way) == rows]
            self.passes[rows] = min(ways, key=lambda way: min(self._seconds(inputs, way) for _ in range(3)))
        return self.passes[rows]

    def _seconds(self, inputs: tuple[Tensor, Tensor, Tensor], passes: list[int]) -> float:
        began = time.perf_counter()
        self.network(inputs, passes)
        return time.perf_counter() - began

    def walk(self, steps: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps and coefficients `(length,)` of DDIM (Song et al., 2021, equation 12), at rest after `steps`."""
        stride = 1000 // steps
        now = torch.arange(steps).flip(0) * stride + 1
        power = self.powers[now]
        then = torch.where(now >= stride, self.powers[(now - stride).clamp(min=0)], self.powers[0])
        keep = (then / power).sqrt()
        rest = length - steps
        return (torch.cat([now, now.new_zeros(rest)]), torch.cat([keep, keep.new_ones(rest)]),
                torch.cat([(1 - then).sqrt() - keep * (1 - power).sqrt(), keep.new_zeros(rest)]))  # fmt: skip

    def encode(self, text: str) -> Tensor:
        """States of a prompt, remembered as our engine does."""
        if text not in self.states:
            self.states[text] = self.model.encode(text)
        return self.states[text]


def png(pixels: RgbaImage, draw: GenerationRequest, model: LatentDiffusionModel) -> bytes:
    """What all rigs do with a decoded picture."""
    return to_png(pixels, draw, {"model_key": model.key})
