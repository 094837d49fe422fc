"""Draws in, pictures out: the engine without a service around it.

A row that is done makes room for the next, so rows with few steps never wait for those with many. In strict mode
pixels are those that the service draws, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.draw import Draw as Draw
from emoji_ldm.generate.engine import Engine, Row
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.stages import Picture as Picture
from emoji_ldm.generate.stages import Stages

OnStep = Callable[[int, int], None]  # (steps of rows done, steps of rows in all)


class Sampler:
    """Draws pictures with one model at one batch shape; not safe to call from two threads at once."""

    def __init__(self, model: Model, batch_size: int, *, strict: bool = True) -> None:
        """Fix the batch shape, which is part of what makes a seed give the same bits."""
        self.model, self.batch_size = model, batch_size
        self.engine = Engine(model, batch_size, strict=strict)
        self.stages = Stages(model, batch_size, strict=strict)
        self.tables = self.stages.tables

    def __call__(self, draws: Sequence[Draw], on_step: OnStep | None = None) -> list[Picture]:
        """Pictures `(H, W, 4)` uint8, in the order of the draws.

        Raises:
            ConfigError: The model cannot make a draw.
        """
        return [self.stages.pictures([latents])[0] for latents in self._latents(draws, on_step)]

    def latents(self, draws: Sequence[Draw], on_step: OnStep | None = None) -> Tensor:
        """Scaled latents `(N, C, h, w)` float32 on the model's device of draws of one size, before decoding."""
        return torch.stack(self._latents(draws, on_step))

    def _latents(self, draws: Sequence[Draw], on_step: OnStep | None) -> list[Tensor]:
        lengths = [len(self.stages.schedule(draw)) for draw in draws]
        for draw in draws:
            self.stages.check(draw)
        # Longest first: what is left at the end is short. Rows of one shape move together.
        order = sorted(range(len(draws)), key=lambda index: (self.stages.shape(draws[index]), -lengths[index]))
        total, done = sum(lengths), 0
        latents: dict[int, Tensor] = {}
        running: dict[int, Row] = {}
        while order or running:
            while order and len(running) < self.batch_size and self._joins(draws[order[0]], running):
                index = order.pop(0)
                running[index] = self.stages.row(draws[index])
            self.engine.tick(list(running.values()))
            done += len(running)
            if on_step is not None:
                on_step(done, total)
            for index in [index for index, row in running.items() if not row.left]:
                latents[index] = running.pop(index).x
        return [latents[index] for index in range(len(draws))]

    def _joins(self, draw: Draw, running: dict[int, Row]) -> bool:
        return all(row.x.shape == self.stages.shape(draw) for row in running.values())
