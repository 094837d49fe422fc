"""Draws in, pictures out: classifier-free guided steps at one fixed batch shape.

The network always sees `2 * batch_size` rows. Kernels, and with them the last bits of
a result, are chosen by shape, so a draw gives the same pixels alone, in any slot and
beside any neighbours, with whatever steps and guidance they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emoji_ldm.generate.draw import Draw as Draw
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.noise import noise_for_seeds
from emoji_ldm.generate.tables import Tables

Picture = NDArray[np.uint8]  # (H, W, 4) RGBA
OnStep = Callable[[int, int], None]  # (network calls done, network calls in all)


class Sampler:
    """Draws pictures with one model at one batch shape; not safe to call from two threads at once."""

    def __init__(self, model: Model, batch_size: int) -> None:
        """Fix the batch shape, which is part of what makes a seed give the same bits."""
        self.model, self.batch_size = model, batch_size
        self.tables = Tables(model.scheduler_config)
        self._states: dict[str, Tensor] = {}

    def __call__(self, draws: Sequence[Draw], on_step: OnStep | None = None) -> list[Picture]:
        """Pictures `(H, W, 4)` uint8, in the order of the draws.

        Raises:
            ConfigError: A draw takes more steps than the model was trained with.
            ValueError: A seed is out of range.
        """
        latents = self.latents(draws, on_step)
        return [picture for start in range(0, len(draws), self.batch_size)
                for picture in self._decode(latents[start : start + self.batch_size])]  # fmt: skip

    @torch.inference_mode()
    def latents(self, draws: Sequence[Draw], on_step: OnStep | None = None) -> Tensor:
        """Scaled latents `(N, C, h, w)` float32 on the model's device, before decoding."""
        # Rows of alike length go together: a batch takes as long as its longest row.
        order = sorted(range(len(draws)), key=lambda index: draws[index].steps)
        groups = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        total, done = sum(draws[group[-1]].steps for group in groups), 0
        latents = torch.empty((len(draws), *self.model.latent_shape), device=self.model.device)

        def tick() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, total)

        for group in groups:
            latents[group] = self._denoise([draws[index] for index in group], tick)[: len(group)]
        return latents

    def _denoise(self, draws: list[Draw], tick: Callable[[], None]) -> Tensor:
        """Latents `(batch_size, C, h, w)` of up to `batch_size` draws; what follows them is padding."""
        device = self.model.device
        draws = draws + draws[-1:] * (
            self.batch_size - len(draws)
        )  # padding that costs nothing more and breaks nothing
        schedule = self.tables.batch([draw.steps for draw in draws])
        timesteps = schedule.timesteps.repeat(1, 2).to(device)
        keep, add = (column[..., None, None, None].to(device) for column in (schedule.keep, schedule.add))
        guidance = torch.tensor([draw.guidance_scale for draw in draws], device=device)[:, None, None, None]
        states = torch.cat([self._encode(text) for text in
                            [*(draw.negative_prompt for draw in draws), *(draw.prompt for draw in draws)]])  # fmt: skip
        x = noise_for_seeds([draw.seed for draw in draws], self.model.latent_shape).to(device)
        for step in range(len(schedule)):
            output = self.model.unet(
                torch.cat([x, x]), timesteps[step], encoder_hidden_states=states, return_dict=False
            )[0]
            negative, positive = output.chunk(2)
            guided = negative + guidance * (positive - negative)  # Ho & Salimans, 2022, equation (6)
            x = keep[step] * x + add[step] * guided
            tick()
        return x

    def _encode(self, text: str) -> Tensor:
        """States `(1, tokens, width)` of one prompt, encoded alone so that no neighbour changes a bit."""
        if text not in self._states:
            if len(self._states) >= 1024:
                self._states.clear()
            self._states[text] = self.model.encode(text)
        return self._states[text]

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> list[Picture]:
        """Pictures of up to `batch_size` latents, decoded at that very shape."""
        count = len(latents)
        padding = latents[-1:].expand(self.batch_size - count, -1, -1, -1)
        pixels = self.model.codec.decode(torch.cat([latents, padding]) / self.model.codec.scaling_factor)
        return list(pixels[:count])
