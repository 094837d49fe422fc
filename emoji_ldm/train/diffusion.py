"""The U-Net's task: noisy latents in, their noise (or velocity) out; exported as a whole Stable Diffusion pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.latents.cache import LatentSet, load_latent_set
from emoji_ldm.latents.codec import load_codec, resolve_codec
from emoji_ldm.latents.text import load_text_encoder, pad
from emoji_ldm.model.unet import build_unet, count_parameters
from emoji_ldm.store import Store
from emoji_ldm.train import objective, order
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
    """Noise prediction on a latent set."""

    def __init__(self, config: Config, data: LatentSet, frozen: Frozen, preview: Preview | None = None) -> None:
        """Build the network for the set's latents and token states."""
        self.config, self.data, self.frozen, self._preview = config, data, frozen, preview
        self.scaling_factor = float(frozen.vae.config.scaling_factor)
        shape = (int(data.mean.shape[1]), int(data.mean.shape[2]), int(data.mean.shape[3]))
        self.module: nn.Module = build_unet(config.train, shape, data.states[0].shape[-1])
        self.facts: Mapping[str, Any] = {
            "versions": data.versions,
            "num_images": len(data.image_ids),
            "num_captions": len(data.captions) - 1,
            "num_parameters": count_parameters(self.module),
        }
        self._cumprod = objective.alphas_cumprod()

    def draw(self, step: int, slots: range) -> Batch:
        """Choose images, captions, noise and timesteps; sample the posteriors."""
        train, data = self.config.train, self.data
        rows = order.samples(train.seed, step, slots, batch_size=train.batch_size, size=len(data.image_ids))
        chance = objective.draw(train.seed, step, slots, shape=data.mean.shape[1:])
        raw = data.mean[rows] + np.exp(0.5 * data.logvar[rows]) * chance.posterior
        captions = [self._caption(int(row), *uniforms) for row, uniforms in zip(rows, chance.uniforms, strict=True)]
        return Batch(
            torch.from_numpy(raw * np.float32(self.scaling_factor)),
            torch.from_numpy(chance.noise),
            torch.from_numpy(chance.timesteps),
            pad([data.states[caption] for caption in captions], self.config.latents.max_tokens),
        )

    def loss(self, forward: Callable[..., Any], drawn: Batch) -> Tensor:
        """Mean squared error of the predicted noise (DDPM, arXiv 2006.11239, equation 14) or velocity."""
        device = next(self.module.parameters()).device
        latents, noise, timesteps, states = (
            tensor.to(device, non_blocking=True)
            for tensor in (drawn.latents, drawn.noise, drawn.timesteps, drawn.states)
        )
        self._cumprod = self._cumprod.to(device)
        noisy = objective.add_noise(latents, noise, timesteps, self._cumprod)
        predicted = forward(noisy, timesteps, encoder_hidden_states=states).sample
        wanted = noise
        if self.config.train.prediction_type == "v_prediction":
            wanted = objective.velocity(latents, noise, timesteps, self._cumprod)
        return torch.nn.functional.mse_loss(predicted.float(), wanted)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `pipeline/`, which `DiffusionPipeline.from_pretrained` opens, with these U-Net weights."""
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel

        unet = UNet2DConditionModel.from_config(self.module.config)
        unet.load_state_dict(dict(weights))
        pipeline = StableDiffusionPipeline(
            vae=self.frozen.vae, text_encoder=self.frozen.text_encoder, tokenizer=self.frozen.tokenizer, unet=unet,
            scheduler=objective.scheduler(self.config.train.prediction_type), safety_checker=None,
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

    def _caption(self, row: int, drop: float, choice: float) -> int:
        """Place of the caption that image `row` gets: one of its own, or the empty one."""
        own = self.data.caption_index[row]
        return self.data.empty_index if drop < self.config.train.caption_drop else own[int(choice * len(own))]


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
