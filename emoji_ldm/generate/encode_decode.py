"""The stages around denoising: a request becomes a row (text and image encoding), latents become pixels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import MAX_SIDE_FACTOR
from emoji_ldm.generate.denoising_engine import DenoisingRow
from emoji_ldm.generate.init_latents import NoiseStream, make_initial_latents
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import MAX_SEED, GenerationRequest, LatentShape
from emoji_ldm.generate.step_coefficients import SamplingSchedule, SamplingSchedules

RgbaImage = NDArray[np.uint8]  # (H, W, 4) straight RGBA
# The images of a batch are ready together, so a larger batch would delay the first one for the sake of the last.
MAX_DECODE_BATCH = 8  # images decoded at once
# A large decoder takes kilobytes of memory for each pixel, so this bounds a batch to gigabytes.
MAX_DECODE_PIXELS = 2**20  # pixels decoded at once on CPUs
PROMPT_CACHE_SIZE = 1024  # prompts whose states are kept


class EncoderDecoder:
    """Encodes and decodes for one model. One thread may encode while another one decodes."""

    def __init__(self, model: LatentDiffusionModel, batch_size: int, *, deterministic: bool) -> None:
        """Fix the batch shapes of encoding and decoding."""
        self.model, self.deterministic = model, deterministic
        self.schedules = SamplingSchedules(model.scheduler_config, model.kind)
        self._max_decode_batch = min(MAX_DECODE_BATCH, batch_size)
        self.side_step_px = model.downsampling_factor * model.kind.cells_per_step(model.unet.config)
        self.max_side_px = MAX_SIDE_FACTOR * model.size_px
        self._prompt_cache: OrderedDict[str, Tensor] = OrderedDict()  # least recently used first

    def shape(self, request: GenerationRequest) -> LatentShape:
        """`(C, h, w)` of the latents of a request; ConfigError for sides that the model does not support."""
        cell_px, own_px = self.model.downsampling_factor, self.model.size_px
        sides = {"width_px": request.width_px or own_px, "height_px": request.height_px or own_px}
        for name, side in sides.items():
            if side % self.side_step_px or not 0 < side <= self.max_side_px:
                raise ConfigError(f"{name}={side} is refused: this model draws multiples of {self.side_step_px} "
                                  f"up to {self.max_side_px}")  # fmt: skip
        return self.model.latent_shape[0], sides["height_px"] // cell_px, sides["width_px"] // cell_px

    def schedule(self, request: GenerationRequest) -> SamplingSchedule:
        """The steps of a request; ConfigError if the model does not support them."""
        # Without an image there is nothing to keep, so the default strength must not shorten the schedule.
        strength = request.strength if request.image else 1.0
        _, height, width = self.shape(request)
        cells = self.model.kind.cells_per_step(self.model.unet.config)
        tokens = height * width // cells**2
        return self.schedules.schedule(request.scheduler, request.steps, strength, num_tokens=tokens)

    def is_guided(self, request: GenerationRequest) -> bool:
        """Whether a request takes a second pass of the network, without the prompt."""
        return request.guidance_scale != 1 and not self.model.has_guidance_input

    def check(self, request: GenerationRequest) -> None:
        """Raise ConfigError for a request that the model does not support. Fast: image files are not decoded."""
        self.shape(request)
        self.schedule(request)
        # A scale of 1 is no guidance. Below 1 the formula would mix in the negative prompt, which nobody asks for.
        if not math.isfinite(request.guidance_scale) or request.guidance_scale < 1:
            raise ConfigError(f"guidance_scale={request.guidance_scale} is refused: give a number of at least 1")
        if request.negative_prompt and self.model.has_guidance_input:
            raise ConfigError("negative_prompt is refused: this model takes the guidance scale as an input, and never "
                              "looks at a second prompt; leave it empty")  # fmt: skip
        if not 0 <= request.seed <= MAX_SEED:
            raise ConfigError(f"seed={request.seed} is refused: seeds are 0 ... {MAX_SEED}")
        if request.mask and not request.image:
            raise ConfigError("a mask needs the image that it masks")

    @torch.inference_mode()
    def encode(self, request: GenerationRequest, num_previews: int = 0) -> DenoisingRow:
        """The row that generates a request's image, with up to `num_previews` previews on the way.

        Raises:
            ConfigError: The model does not support the request, or its image or mask cannot be used.
        """
        self.check(request)
        # The order of draws from the stream is fixed: first the initial latents, then each step's noise.
        schedule, noise = self.schedule(request), NoiseStream(request.seed, self.shape(request))
        return DenoisingRow(
            schedule=schedule,
            initial=make_initial_latents(self.model, request, noise, schedule),
            positive=self._encode_prompt(request.prompt),
            negative=self._encode_prompt(request.negative_prompt) if self.is_guided(request) else None,
            guidance=request.guidance_scale,
            noise=noise,
            previews=preview_steps(len(schedule), num_previews),
        )

    def encode_prompts(self, requests: Sequence[GenerationRequest]) -> None:
        """In fast mode, encode the prompts of several requests as one batch, so that `encode` finds them in the cache.

        In deterministic mode this does nothing: prompts are encoded one by one, so that no neighbour changes a bit.
        """
        prompts = [prompt for request in requests for prompt in (request.prompt, request.negative_prompt)]
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompt_cache]
        # A single missing prompt is left to `encode`, which encodes it alone anyway.
        if not self.deterministic and len(missing) > 1:
            for prompt, states in zip(missing, self.model.encode_prompts(missing), strict=True):
                self._cache_prompt(prompt, states)

    def _encode_prompt(self, prompt: str) -> Tensor:
        """Text states `(rows, width)` of one prompt, encoded alone unless they are cached."""
        if prompt not in self._prompt_cache:
            self._cache_prompt(prompt, self.model.encode_prompt(prompt)[0])
        self._prompt_cache.move_to_end(prompt)
        return self._prompt_cache[prompt]

    def _cache_prompt(self, prompt: str, states: Tensor) -> None:
        self._prompt_cache[prompt] = states
        if len(self._prompt_cache) > PROMPT_CACHE_SIZE:
            self._prompt_cache.popitem(last=False)

    def max_decode_batch(self, shape: LatentShape) -> int:
        """How many latents `(C, h, w)` to decode at once.

        A batch halves the time of small images. On CPUs the deterministic mode decodes one by one: it would have to pad
        every batch to one shape, which costs more than batching gains.
        """
        if self.model.device.type != "cpu":
            return self._max_decode_batch
        if self.deterministic:
            return 1
        pixels = math.prod(shape[1:]) * self.model.downsampling_factor**2
        return max(1, min(self._max_decode_batch, MAX_DECODE_PIXELS // pixels))

    @torch.inference_mode()
    def decode(self, latents: Sequence[Tensor]) -> list[RgbaImage]:
        """Images of scaled latents `(C, h, w)`, at least one and all of one shape.

        In deterministic mode all batches have one shape; see `unet_runner` for the reason.
        """
        images: list[RgbaImage] = []
        channels, height, width = latents[0].shape
        batch_size = self.max_decode_batch((channels, height, width))
        for start in range(0, len(latents), batch_size):
            batch = list(latents[start : start + batch_size])
            # Padding repeats a real latent, which the decoder can handle; its image is cut off below.
            padding = batch[:1] * (batch_size - len(batch) if self.deterministic else 0)
            raw = torch.stack(batch + padding) / self.model.vae.scaling_factor
            images += list(self.model.vae.decode(raw)[: len(batch)])
        return images


def preview_steps(num_steps: int, num_previews: int) -> frozenset[int]:
    """Indices of the steps after which a preview is made, evenly spread; the last step gives the image itself."""
    indices = (num_steps * number // (num_previews + 1) for number in range(1, num_previews + 1))
    return frozenset(index for index in indices if index < num_steps - 1)
