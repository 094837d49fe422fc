"""Draws in, pictures out: the engine without a service around it.

A row that is done makes room for the next, so rows with few steps never wait for those with many. In strict mode
pixels are those that the service draws, bit by bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.denoising_engine import DenoisingEngine, DenoisingRow
from emoji_ldm.generate.encode_decode import EncoderDecoder
from emoji_ldm.generate.encode_decode import RgbaImage as Picture
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest as Draw
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.warmup import prepare_engine, warm_up

StepCallback = Callable[[int, int], None]  # (steps of rows done, steps of rows in all)


class OfflineSampler:
    """Draws pictures with one model at one batch shape; not safe to call from two threads at once."""

    def __init__(
        self, model: LatentDiffusionModel, batch_size: int, *, strict: bool = True, many: bool = False
    ) -> None:
        """Fix the batch shape, which is part of what makes a seed give the same bits.

        Args:
            model: What draws.
            batch_size: Most pictures per tick.
            strict: Same seed, same pixels in any company.
            many: Whether there are so many pictures to draw that it pays to make the first wait until kernels are
                captured and, in fast mode, the best number of pictures per tick is measured.
        """
        self.model, self.batch_size = model, batch_size
        self._cap = batch_size
        if many and not strict:
            cast = warm_up(model, batch_size, strict=False)
            self.engine, self.stages, self._cap = cast.engine, cast.stages, cast.cap
        elif many:
            self.engine, self.stages = prepare_engine(model, batch_size, strict=True)
        else:
            self.engine = DenoisingEngine(model, batch_size, strict=strict)
            self.stages = EncoderDecoder(model, batch_size, strict=strict)
        self.tables = self.stages.tables

    def __call__(self, draws: Sequence[Draw], on_step: StepCallback | None = None) -> list[Picture]:
        """Pictures `(H, W, 4)` uint8, in the order of the draws.

        Raises:
            ConfigError: The model cannot make a draw.
        """
        latents = self._latents(draws, on_step)
        pictures: dict[int, Picture] = {}
        for shape in {part.shape for part in latents}:
            alike = [index for index, part in enumerate(latents) if part.shape == shape]
            made = self.stages.pictures([latents[index] for index in alike])
            pictures |= zip(alike, made, strict=True)
        return [pictures[index] for index in range(len(draws))]

    def latents(self, draws: Sequence[Draw], on_step: StepCallback | None = None) -> Tensor:
        """Scaled latents `(N, C, h, w)` float32 on the model's device of draws of one size, before decoding."""
        return torch.stack(self._latents(draws, on_step))

    def _latents(self, draws: Sequence[Draw], on_step: StepCallback | None) -> list[Tensor]:
        for draw in draws:
            self.stages.check(draw)
        lengths = [len(self.stages.schedule(draw)) for draw in draws]
        shapes = [self.stages.shape(draw) for draw in draws]
        # Only rows of one shape move together; the longest first, so that what is left at the end is short.
        waiting = deque(sorted(range(len(draws)), key=lambda index: (shapes[index], -lengths[index])))
        running: dict[int, DenoisingRow] = {}
        latents: dict[int, Tensor] = {}
        done = 0
        while waiting or running:
            while (
                waiting
                and len(running) < self._most(shapes[waiting[0]])
                and all(shapes[waiting[0]] == shapes[index] for index in running)
            ):
                index = waiting.popleft()
                running[index] = self.stages.row(draws[index])
            self.engine.tick(list(running.values()))
            done += len(running)
            if on_step is not None:
                on_step(done, sum(lengths))
            latents |= {index: row.x for index, row in running.items() if not row.left}
            running = {index: row for index, row in running.items() if row.left}
        return [latents[index] for index in range(len(draws))]

    def _most(self, shape: LatentShape) -> int:
        """Pictures of a shape per tick."""
        return min(self._cap, self.engine.most(shape))
