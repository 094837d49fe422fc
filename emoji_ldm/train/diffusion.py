"""The U-Net's task: noisy latents in, their noise (or velocity) out; exported as a whole Stable Diffusion pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.dataset import split
from emoji_ldm.latents.cache import LatentSet, load_latent_set
from emoji_ldm.latents.codec import load_codec, resolve_codec
from emoji_ldm.latents.text import load_text_encoder, pad
from emoji_ldm.model.denoiser import build_denoiser
from emoji_ldm.model.unet import count_parameters
from emoji_ldm.store import Store
from emoji_ldm.train import chance, order
from emoji_ldm.train.objective import Objective
from emoji_ldm.train.plan import Place, Preview

NUM_PREVIEWS = 8  # prompts of a sample grid when none are configured


@dataclass(frozen=True)
class Frozen:
    """The parts of a pipeline that training does not change."""

    vae: Any
    text_encoder: Any
    tokenizer: Any


@dataclass(frozen=True)
class Batch:
    """What a step sees, on the host."""

    latents: Tensor  # (n, C, h, w) scaled posterior samples
    noise: Tensor  # (n, C, h, w)
    timesteps: Tensor  # (n,)
    states: Tensor  # (n, max_tokens, width)


class DiffusionTask:
    """Denoising of a latent set."""

    def __init__(self, config: Config, data: LatentSet, frozen: Frozen, preview: Preview | None = None) -> None:
        """Build the network for the set's latents and token states."""
        self.config, self.data, self.frozen, self._preview = config, data, frozen, preview
        self.scaling_factor = float(frozen.vae.config.scaling_factor)
        shape = (int(data.mean.shape[1]), int(data.mean.shape[2]), int(data.mean.shape[3]))
        self.denoiser = build_denoiser(config.train, shape, data.states[0].shape[-1])
        self.module: nn.Module = self.denoiser
        self.objective = Objective(config.train)
        self.rows, self.held_rows = _split(data.image_ids, config)
        self.facts: Mapping[str, Any] = {
            "versions": data.versions,
            "num_images": len(self.rows),
            "num_held_out": len(self.held_rows),
            "num_captions": len(data.captions) - 1,
            "num_parameters": count_parameters(self.module),
        }

    def draw(self, step: int, slots: range) -> Batch:
        """Choose images, captions, noise and timesteps; sample the posteriors."""
        train = self.config.train
        places = order.samples(train.seed, step, slots, batch_size=train.batch_size, size=len(self.rows))
        return self._batch(self.rows[places], chance.draw(train.seed, step, slots, shape=self.data.mean.shape[1:]))

    def held_out(self, slots: range) -> list[Batch]:
        """The images held out, as many as fill whole batches, with noise of their own stream."""
        train, batches = self.config.train, []
        for number in range(-(-len(self.held_rows) // train.batch_size)):
            rows = self.held_rows[(number * train.batch_size + np.array(slots)) % len(self.held_rows)]
            draws = chance.draw(train.seed, number, slots, shape=self.data.mean.shape[1:], kind="validation")
            batches.append(self._batch(rows, draws))
        return batches

    def loss(self, forward: Callable[..., Any], drawn: Batch) -> Tensor:
        """The mean of the objective's losses."""
        device = next(self.module.parameters()).device
        latents, noise, timesteps, states = (
            tensor.to(device, non_blocking=True)
            for tensor in (drawn.latents, drawn.noise, drawn.timesteps, drawn.states)
        )
        losses = self.objective.losses(lambda noisy, times: forward(noisy, times, states), latents, noise, timesteps)
        return losses.mean()

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `pipeline/`, which `DiffusionPipeline.from_pretrained` opens, with these U-Net weights."""
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel

        unet = UNet2DConditionModel.from_config(self.denoiser.unet.config)
        unet.load_state_dict({name.removeprefix("unet."): tensor for name, tensor in weights.items()})
        pipeline = StableDiffusionPipeline(
            vae=self.frozen.vae, text_encoder=self.frozen.text_encoder, tokenizer=self.frozen.tokenizer, unet=unet,
            scheduler=self.objective.scheduler(), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder / "pipeline")
        return {}

    def preview(self, folder: Path) -> bytes | None:
        """The sample grid of the fixed prompts."""
        return self._preview(folder / "pipeline", self.prompts()) if self._preview else None

    def prompts(self) -> tuple[str, ...]:
        """`train.sample_prompts`, else some captions spread over the set."""
        captions = [caption for caption in self.data.captions if caption]
        stride = max(1, len(captions) // NUM_PREVIEWS)
        return self.config.train.sample_prompts or tuple(captions[::stride][:NUM_PREVIEWS])

    def _batch(self, rows: NDArray[np.int64], draws: chance.Draws) -> Batch:
        data = self.data
        raw = data.mean[rows] + np.exp(0.5 * data.logvar[rows]) * draws.posterior
        captions = [self._caption(int(row), *uniforms) for row, uniforms in zip(rows, draws.uniforms, strict=True)]
        return Batch(
            torch.from_numpy(raw * np.float32(self.scaling_factor)),
            torch.from_numpy(draws.noise),
            torch.from_numpy(draws.timesteps),
            pad([data.states[caption] for caption in captions], self.config.latents.max_tokens),
        )

    def _caption(self, row: int, drop: float, choice: float) -> int:
        """Place of the caption that image `row` gets: one of its own, or the empty one."""
        own = self.data.caption_index[row]
        return self.data.empty_index if drop < self.config.train.caption_drop else own[int(choice * len(own))]


def _split(image_ids: Sequence[str], config: Config) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the images to train on and of those held out, by content hash."""
    share = config.train.validation
    if not 0 < share < 1:
        return np.arange(len(image_ids)), np.arange(0)
    fractions = {"train": 1 - share, "held": share}
    held = np.array([split.assign(image_id, fractions, str(config.train.seed)) == "held" for image_id in image_ids])
    return np.flatnonzero(~held), np.flatnonzero(held)


def load_task(place: Place, preview: Preview | None = None) -> DiffusionTask:
    """The task of `config.train` on the store's latents.

    Raises:
        ModelError: The codec or the text encoder is missing.
        DatasetError: There are no captioned images, or some have no latents.
    """
    config = place.config
    frozen, data = load_parts(config, place.store, place.scratch)
    return DiffusionTask(config, data, frozen, preview)


def load_parts(config: Config, store: Store, cache: Path) -> tuple[Frozen, LatentSet]:
    """Codec, text encoder and the latents that both made."""
    settings = config.latents
    codec = load_codec(
        resolve_codec(config, store, cache), size_px=settings.size_px, background=settings.background, device="cpu"
    )
    encoder = load_text_encoder(settings.text_encoder, max_tokens=settings.max_tokens, device="cpu")
    data = load_latent_set(store, codec_key=codec.key, encoder_key=encoder.key, at=config.at)
    return Frozen(codec.vae, encoder.model, encoder.tokenizer), data
