"""What comes before and after the denoising: a draw becomes a row, latents become pictures."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import MAX_SIDE_FACTOR, side_step_px
from emoji_ldm.generate.denoising_engine import DenoisingRow
from emoji_ldm.generate.init_latents import NoiseStream, make_initial_latents
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import MAX_SEED, GenerationRequest, LatentShape
from emoji_ldm.generate.step_coefficients import SamplingSchedule, SamplingSchedules
from emoji_ldm.latents.vae import downsampling_factor

RgbaImage = NDArray[np.uint8]  # (H, W, 4) RGBA
MAX_DECODE_BATCH = 8  # most pictures that are decoded at once: the first waits for the last
MAX_DECODE_PIXELS = 2**20  # and on CPUs most pixels of them all: a large decoder takes kilobytes for each
PROMPT_CACHE_SIZE = 1024  # whose states are kept


class EncoderDecoder:
    """Both stages of one model; rows may be made in one thread while another makes pictures."""

    def __init__(self, model: LatentDiffusionModel, batch_size: int, *, strict: bool) -> None:
        """Settle the shapes of encoding and decoding."""
        self.model, self.tables, self.strict = model, SamplingSchedules(model.scheduler_config), strict
        self._decoded = min(MAX_DECODE_BATCH, batch_size)
        self.side_step_px = side_step_px(
            downsampling_factor(model.codec.vae), len(model.unet.config.block_out_channels)
        )
        self.max_side_px = MAX_SIDE_FACTOR * model.size_px
        self._states: OrderedDict[str, Tensor] = OrderedDict()

    def shape(self, draw: GenerationRequest) -> LatentShape:
        """`(C, h, w)` of a draw's latents; ConfigError for sides that the model cannot draw."""
        cell, own = downsampling_factor(self.model.codec.vae), self.model.size_px
        sides = {"width_px": draw.width_px or own, "height_px": draw.height_px or own}
        for name, side in sides.items():
            if side % self.side_step_px or not 0 < side <= self.max_side_px:
                raise ConfigError(f"{name}={side} is refused: this model draws multiples of {self.side_step_px} "
                                  f"up to {self.max_side_px}")  # fmt: skip
        return self.model.latent_shape[0], sides["height_px"] // cell, sides["width_px"] // cell

    def schedule(self, draw: GenerationRequest) -> SamplingSchedule:
        """The steps of a draw; ConfigError if the model cannot take them."""
        return self.tables.row(draw.scheduler, draw.steps, draw.strength if draw.image else 1.0)

    def check(self, draw: GenerationRequest) -> None:
        """ConfigError if this model cannot make the draw; quick, pictures are not looked into."""
        self.shape(draw)
        self.schedule(draw)
        if not math.isfinite(draw.guidance_scale) or draw.guidance_scale < 1:
            raise ConfigError(f"guidance_scale={draw.guidance_scale} is refused: give a number from 1 on")
        if not 0 <= draw.seed <= MAX_SEED:
            raise ConfigError(f"seed={draw.seed} is refused: seeds are 0 ... {MAX_SEED}")
        if draw.mask and not draw.image:
            raise ConfigError("a mask needs the image that it masks")

    @torch.inference_mode()
    def row(self, draw: GenerationRequest, num_previews: int = 0) -> DenoisingRow:
        """The row that draws a picture, with up to `num_previews` looks on the way.

        Raises:
            ConfigError: The draw does not fit the model, or its picture cannot be used.
        """
        self.check(draw)
        schedule, noise = self.schedule(draw), NoiseStream(draw.seed, self.shape(draw))
        return DenoisingRow(
            schedule,
            make_initial_latents(self.model, draw, noise, schedule),
            self._encode(draw.prompt),
            self._encode(draw.negative_prompt) if draw.guidance_scale != 1 else None,
            draw.guidance_scale,
            noise,
            preview_steps(len(schedule), num_previews),
        )

    def encode_together(self, draws: Sequence[GenerationRequest]) -> None:
        """In fast mode, encode the prompts of draws at once, so that their rows are quick to make."""
        prompts = [prompt for draw in draws for prompt in (draw.prompt, draw.negative_prompt)]
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._states]
        if not self.strict and len(missing) > 1:
            for prompt, states in zip(missing, self.model.encode_all(missing), strict=True):
                self._keep(prompt, states)

    def _encode(self, prompt: str) -> Tensor:
        """States `(tokens, width)` of one prompt, encoded alone so that no neighbour changes a bit."""
        if prompt not in self._states:
            self._keep(prompt, self.model.encode(prompt)[0])
        self._states.move_to_end(prompt)
        return self._states[prompt]

    def _keep(self, prompt: str, states: Tensor) -> None:
        self._states[prompt] = states
        if len(self._states) > PROMPT_CACHE_SIZE:
            self._states.popitem(last=False)

    def decoded(self, shape: LatentShape) -> int:
        """Most pictures of latents `(C, h, w)` that are decoded at once.

        Small ones take half of the time when they are many. On CPUs strict mode decodes them one by one, so that
        nothing is padded.
        """
        if self.model.device.type != "cpu":
            return self._decoded
        if self.strict:
            return 1
        pixels = math.prod(shape[1:]) * downsampling_factor(self.model.codec.vae) ** 2
        return max(1, min(self._decoded, MAX_DECODE_PIXELS // pixels))

    @torch.inference_mode()
    def pictures(self, latents: Sequence[Tensor]) -> list[RgbaImage]:
        """Pictures of scaled latents `(C, h, w)`, at least one, of one shape; in strict mode at one batch shape."""
        pictures: list[RgbaImage] = []
        channels, height, width = latents[0].shape
        most = self.decoded((channels, height, width))
        for start in range(0, len(latents), most):
            part = list(latents[start : start + most])
            padding = part[:1] * (most - len(part) if self.strict else 0)
            raw = torch.stack(part + padding) / self.model.codec.scaling_factor
            pictures += list(self.model.codec.decode(raw)[: len(part)])
        return pictures


def preview_steps(num_steps: int, num_previews: int) -> frozenset[int]:
    """Indices of the steps, evenly spread, after which a preview is shown; the last step shows the picture itself."""
    wanted = (num_steps * number // (num_previews + 1) for number in range(1, num_previews + 1))
    return frozenset(index for index in wanted if index < num_steps - 1)
