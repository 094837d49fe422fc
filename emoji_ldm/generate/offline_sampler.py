"""Generating images for a list of requests without a service around the engine: for batch jobs and training previews.

A row that is finished makes room for the next one, so rows with few steps never wait for rows with many. In
deterministic mode the pixels are bit by bit those of the service.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from emoji_ldm.generate.denoising_engine import DenoisingEngine, DenoisingRow
from emoji_ldm.generate.encode_decode import EncoderDecoder, RgbaImage
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import GenerationRequest, LatentShape
from emoji_ldm.generate.warmup import prepare_engine, warm_up

StepCallback = Callable[[int, int], None]  # (steps done, steps in total), summed over all images


class OfflineSampler:
    """Generates images with one model at one batch shape; not thread-safe."""

    def __init__(
        self, model: LatentDiffusionModel, batch_size: int, *, deterministic: bool = True, warmup: bool = False
    ) -> None:
        """Fix the batch shape, which the last bits of every image depend on.

        Args:
            model: The model to sample from.
            batch_size: The largest number of images per tick.
            deterministic: Same seed, same pixels, whatever else is generated.
            warmup: Capture kernels and, in fast mode, measure the best number of images per tick. This delays the
                first image, so it pays only for many images.
        """
        self.model, self.batch_size = model, batch_size
        self._max_batch = batch_size
        if warmup and not deterministic:
            loaded = warm_up(model, batch_size, deterministic=False)
            self.engine, self.encoder_decoder, self._max_batch = (
                loaded.engine, loaded.encoder_decoder, loaded.max_batch,
            )  # fmt: skip
        # The deterministic mode has one batch shape, so measuring could not improve anything; kernels are captured
        # only.
        elif warmup:
            self.engine, self.encoder_decoder = prepare_engine(model, batch_size, deterministic=True)
        else:
            self.engine = DenoisingEngine(model, batch_size, deterministic=deterministic)
            self.encoder_decoder = EncoderDecoder(model, batch_size, deterministic=deterministic)

    def __call__(self, requests: Sequence[GenerationRequest], on_step: StepCallback | None = None) -> list[RgbaImage]:
        """Images `(H, W, 4)` uint8, in the order of the requests.

        Raises:
            ConfigError: The model does not support a request.
        """
        latents = self._denoise(requests, on_step)
        images: dict[int, RgbaImage] = {}
        # Decoding takes latents of one shape at once, and the requests may ask for several sizes.
        for shape in {part.shape for part in latents}:
            indices = [index for index, part in enumerate(latents) if part.shape == shape]
            images |= zip(indices, self.encoder_decoder.decode([latents[index] for index in indices]), strict=True)
        return [images[index] for index in range(len(requests))]

    def latents(self, requests: Sequence[GenerationRequest], on_step: StepCallback | None = None) -> Tensor:
        """Scaled latents `(N, C, h, w)` float32 of requests of one size, on the model's device, before decoding."""
        return torch.stack(self._denoise(requests, on_step))

    def _denoise(self, requests: Sequence[GenerationRequest], on_step: StepCallback | None) -> list[Tensor]:
        for request in requests:
            self.encoder_decoder.check(request)
        # All requests are checked above before the first step: a bad one at the end must not waste the work for the
        # others.
        num_steps = [len(self.encoder_decoder.schedule(request)) for request in requests]
        shapes = [self.encoder_decoder.shape(request) for request in requests]
        # A tick takes rows of one shape only. Long rows first: the tail, where ticks are not full, gets short.
        waiting = deque(sorted(range(len(requests)), key=lambda index: (shapes[index], -num_steps[index])))
        running: dict[int, DenoisingRow] = {}
        latents: dict[int, Tensor] = {}
        steps_done = 0
        while waiting or running:
            # A row of any shape fits when nothing runs, so this loop always leaves at least one row to advance.
            while waiting and self._fits(shapes[waiting[0]], [shapes[index] for index in running]):
                index = waiting.popleft()
                running[index] = self.encoder_decoder.encode(requests[index])
            # Rows that are done leave after the tick, and the loop above refills their places.
            self.engine.tick(list(running.values()))
            steps_done += len(running)
            if on_step is not None:
                on_step(steps_done, sum(num_steps))
            latents |= {index: row.x for index, row in running.items() if not row.steps_left}
            running = {index: row for index, row in running.items() if row.steps_left}
        return [latents[index] for index in range(len(requests))]

    def _fits(self, shape: LatentShape, running: Sequence[LatentShape]) -> bool:
        """Whether a row of this shape may join the running ones."""
        max_rows = min(self._max_batch, self.engine.max_rows(shape))
        return len(running) < max_rows and all(shape == other for other in running)
