"""The task of diffusion training: a denoiser on batches of cached latents, exported as a whole pipeline.

A batch holds images, captions and noise, chosen and assembled on the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.dataset import split
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.cache import LatentSet, load_latent_set
from emoji_ldm.latents.text_encoder import TextEncoder, pad
from emoji_ldm.model.denoiser import Denoiser, trains_text_encoder
from emoji_ldm.model.unet import count_parameters, reference_parameters
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.objective import Objective, noise_and_timesteps
from emoji_ldm.train.tasks.pipeline_export import (
    FrozenModels,
    build_initial_denoiser,
    export_model,
    frozen_model_keys,
    load_frozen,
)
from emoji_ldm.train.training_args import PreviewFunction, RunContext

# This is the largest number of validation images: more take time, and change the mean little.
NUM_VALIDATION_IMAGES = 1024
NUM_KEPT_TOKENIZED = 65536  # captions, at a few hundred bytes each

Rows = NDArray[np.int64]  # row indices of a latent set
RowSampler = Callable[[int, range], tuple[Rows, NDArray[np.float32]]]  # (step, slots) -> rows, loss weights
RowSamplerFactory = Callable[[TrainConfig, Rows], RowSampler]  # (config.train, the rows to train on) -> sampler
TextInputs = Callable[[Sequence[int]], Any]  # indices of captions -> the denoiser's text input
NUM_PREVIEW_IMAGES = 8  # prompts of a sample grid if none are configured, and validation images shown beside it


@dataclass(frozen=True)
class DiffusionBatch:
    """The input of one forward pass, on the host."""

    latents: Tensor  # (n, C, h, w) scaled posterior samples
    noise: Tensor  # (n, C, h, w)
    timesteps: Tensor  # (n,), int64, or float32 for flow
    text: Any  # token states (n, max_tokens, width), or the inputs of a trained text encoder
    weights: Tensor  # (n,) of the losses, 1 unless the sampler weights its rows


class LatentBatches:
    """A latent set as batches; sample, caption and noise are functions of (seed, step, position), see `sampler`."""

    def __init__(
        self,
        config: Config,
        latents: LatentSet,
        text: TextInputs,
        scaling_factor: float,
        make_sampler: RowSamplerFactory,
    ) -> None:
        """Split off the validation images; DatasetError if nothing is left to train on."""
        self.config, self.latents, self.text, self.scaling_factor = config.train, latents, text, scaling_factor
        self.train_rows, self.validation_rows = _split_rows(latents.image_ids, config.train)
        self.sample_rows = make_sampler(config.train, self.train_rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of a latent."""
        channels, height, width = self.latents.mean.shape[-3:]
        return int(channels), int(height), int(width)

    def prepare_batch(self, step: int, slots: range) -> DiffusionBatch:
        """Choose images, captions, noise and timesteps; sample the posteriors."""
        rows, weights = self.sample_rows(step, slots)
        return self._batch(rows, weights, sampler.draw_noise(self.config.seed, step, slots, shape=self.shape))

    def validation_batches(self, slots: range) -> Iterator[DiffusionBatch]:
        """Validation images, each once, with noise of a stream of their own.

        The last batch is filled up with images of weight 0, and the others weigh more in return. So the mean over all
        batches of all ranks is the mean over the images (all, or `NUM_VALIDATION_IMAGES` of them).
        """
        rows = _validation_rows(self.validation_rows, self.latents.image_ids)
        size, count = self.config.batch_size, len(rows)
        num_batches = -(-count // size)
        for number in range(num_batches):
            positions = number * size + np.array(slots)
            # All ranks need equally many batches of equal size, hence the filling. With B batches of n positions for N
            # images, a weight of B n / N makes the mean over all positions the mean over the images.
            weights = np.where(positions < count, num_batches * size / count, 0).astype(np.float32)
            draws = sampler.draw_noise(self.config.seed, number, slots, shape=self.shape, kind="validation")
            # Augmentation would make the validation loss depend on how many encodings were stored.
            unaltered = replace(draws, augmentation=np.zeros(len(slots)))
            yield self._batch(rows[positions % count], weights, unaltered)

    def _batch(self, rows: Rows, weights: NDArray[np.float32], draws: sampler.SampleNoise) -> DiffusionBatch:
        latents = self.latents
        raw = latents.sample(rows, draws.posterior, draws.augmentation)
        # Validation draws captions in the same way, dropout included: its loss is that of the training objective.
        captions = [self._caption(int(row), *uniforms) for row, uniforms in zip(rows, draws.uniforms, strict=True)]
        return DiffusionBatch(
            torch.from_numpy(raw * np.float32(self.scaling_factor)), *noise_and_timesteps(self.config, draws),
            self.text(captions), torch.from_numpy(weights),
        )  # fmt: skip

    def _caption(self, row: int, drop: float, choice: float) -> int:
        """Index of the caption that image `row` gets: one of its own, or the empty one (caption dropout)."""
        # Both random numbers are drawn in any case, so that another dropout rate changes no other choice.
        own = self.latents.caption_indices[row]
        return self.latents.empty_index if drop < self.config.caption_dropout else own[int(choice * len(own))]


def sample_uniformly(config: TrainConfig, rows: Rows) -> RowSampler:
    """Every row once an epoch, all of the same weight."""

    def sample(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
        indices = sampler.sample_indices(config.seed, step, slots, batch_size=config.batch_size, size=len(rows))
        return rows[indices], np.ones(len(indices), np.float32)

    return sample


def cached_text_states(latents: LatentSet, max_tokens: int) -> TextInputs:
    """Cached token states, padded with zeros: the text input while the text encoder is frozen."""
    return lambda captions: pad([latents.states[caption] for caption in captions], max_tokens)


def tokenized_captions(latents: LatentSet, encoder: TextEncoder) -> TextInputs:
    """Token ids and mask: the text input of a trained text encoder, in the positions of its cached states."""
    names = ("input_ids", "attention_mask") if encoder.masked else ("input_ids",)  # see emoji_ldm.latents.text_encoder

    # Tokens of captions that occur often are kept; those of all captions of a large set would not fit into memory.
    @lru_cache(maxsize=NUM_KEPT_TOKENIZED)
    def tokenize(caption: int) -> dict[str, Tensor]:
        # Captions are padded to the full length, so that every batch has one shape.
        tokens = encoder.tokenizer(
            latents.captions[caption], padding="max_length", truncation=True, max_length=encoder.max_tokens,
            padding_side="right", return_tensors="pt",
        )  # fmt: skip
        return {name: tokens[name][0] for name in names}

    return lambda captions: {name: torch.stack([tokenize(caption)[name] for caption in captions]) for name in names}


def _split_rows(image_ids: Sequence[str], config: TrainConfig) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, split by content hash so that adding images moves none."""
    share = config.validation_fraction
    held_out = np.array([split.is_held_out(image_id, share, config.seed) for image_id in image_ids])
    if held_out.all():
        raise DatasetError(f"train.validation_fraction={share:g} holds out all of the {len(held_out)} images; lower it")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _validation_rows(rows: Rows, image_ids: Sequence[str]) -> Rows:
    """The validation rows: chosen by a hash of their ids, so that adding images changes few of them."""
    if len(rows) <= NUM_VALIDATION_IMAGES:
        return rows
    hashes = [hashlib.sha256(image_ids[row].encode()).digest() for row in rows]
    return np.sort(rows[sorted(range(len(rows)), key=hashes.__getitem__)[:NUM_VALIDATION_IMAGES]])


class DiffusionTask:
    """Denoising of a latent set."""

    def __init__(
        self, config: Config, latents: LatentSet, frozen: FrozenModels, preview: PreviewFunction | None = None,
        make_sampler: RowSamplerFactory = sample_uniformly,
    ) -> None:  # fmt: skip
        """Build the network for the set's latents and token states.

        Args:
            config: The run's configuration; its section `train` describes network and objective.
            latents: What is learned.
            frozen: The models that made the latents.
            preview: Draws sample grids, if any.
            make_sampler: Decides which rows each step gets.
        """
        self.config, self.frozen, self._preview = config, frozen, preview
        # An encoder that is trained gets token ids, since its states change at each step. Otherwise the cached ones are
        # used, and the device holds no encoder.
        text = (
            tokenized_captions(latents, frozen.text)
            if trains_text_encoder(config.train)
            else cached_text_states(latents, config.latents.max_tokens)
        )
        self.data = LatentBatches(config, latents, text, frozen.vae.scaling_factor, make_sampler)
        module = build_initial_denoiser(config, frozen, self.data.shape, latents.states[0].shape[-1])
        self.module: Denoiser = module
        self.objective = Objective(config.train)
        self.manifest_facts: Mapping[str, Any] = {
            "versions": latents.versions,
            **frozen_model_keys(config.train, frozen, module),
            "num_images": len(self.data.train_rows),
            "num_held_out": len(self.data.validation_rows),
            # The empty caption is among them, but no image has it.
            "num_captions": len(latents.captions) - 1,
            "num_parameters": count_parameters(self.module),
            "num_weights": sum(parameter.numel() for parameter in self.module.parameters()),
        }

    def prepare_batch(self, step: int, slots: range) -> DiffusionBatch:
        """The samples at positions `slots` of a step."""
        return self.data.prepare_batch(step, slots)

    def validation_batches(self, slots: range) -> Iterator[DiffusionBatch]:
        """The validation images, with the same noise each time."""
        return self.data.validation_batches(slots)

    def loss(self, forward: Callable[..., Any], batch: DiffusionBatch) -> Tensor:
        """The weighted mean of the objective's losses, a scalar."""
        # The device is looked up at each call, since the engine moves the module after the task was built.
        device = next(self.module.parameters()).device
        latents, noise, timesteps, weights, text = (
            _to_device(part, device)
            for part in (batch.latents, batch.noise, batch.timesteps, batch.weights, batch.text)
        )
        # The objective does not handle text, so the closure passes it on.
        losses = self.objective.losses(lambda noisy, times: forward(noisy, times, text), latents, noise, timesteps)
        # The sum is divided by the number of samples and not by that of the weights, so that the means of micro-batches
        # and ranks average to that of the batch.
        return torch.mean(losses * weights)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `pipeline/`, which `DiffusionPipeline.from_pretrained` opens, or `lora/`, with these weights."""
        export_model(self.config, self.frozen, weights, folder)
        return reference_parameters(self.module.network)

    def preview(self, folder: Path) -> Mapping[str, bytes]:
        """The sample grid of the fixed prompts, and validation images beside images drawn for their captions."""
        return self._preview(folder / "pipeline", self.prompts(), self.originals) if self._preview else {}

    @cached_property
    def originals(self) -> list[tuple[bytes, str]]:
        """(PNG, caption) of some validation images, as the autoencoder decodes them: no model can draw them better."""
        latents, rows = self.data.latents, self.data.validation_rows[:NUM_PREVIEW_IMAGES]
        # They are decoded from latents although the store has the images: what the autoencoder loses is not to be
        # blamed on the U-Net.
        pixels = [self.frozen.vae.decode(torch.from_numpy(latents.mean[[row]]).float())[0] for row in rows]
        captions = [latents.captions[latents.caption_indices[row][0]] for row in rows]
        return [(_png(picture), caption) for picture, caption in zip(pixels, captions, strict=True)]

    def prompts(self) -> tuple[str, ...]:
        """`train.sample_prompts`, else captions spread over the set."""
        captions, empty = self.data.latents.captions, self.data.latents.empty_index
        count = len(captions) - 1  # without the empty one
        stride = max(1, count // NUM_PREVIEW_IMAGES)
        # Captions are sorted, so a stride gives different subjects, where the first eight would all begin alike.
        spread = range(0, count, stride)[:NUM_PREVIEW_IMAGES]
        return self.config.train.sample_prompts or tuple(captions[number + (number >= empty)] for number in spread)


def load_task(context: RunContext, preview: PreviewFunction | None = None) -> DiffusionTask:
    """The task of `config.train` on the store's latents.

    Raises:
        ModelError: The autoencoder or the text encoder is missing.
        DatasetError: There are no captioned images, or some have no latents.
    """
    config = context.config
    # The models come first: their hashes are the keys under which the latents are stored.
    frozen = load_frozen(config, context.store, context.scratch_dir)
    latents = load_latent_set(
        context.store, vae_key=frozen.vae.key, encoder_key=frozen.text.key, as_of=config.as_of,
        encoding_keys=augmentation_keys(frozen.vae.key, config.latents.augmentations),
    )  # fmt: skip
    return DiffusionTask(config, latents, frozen, preview)


def _png(pixels: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _to_device(part: Any, device: Any) -> Any:
    """A tensor, or a mapping of tensors, on the device."""
    if isinstance(part, Mapping):
        return {name: _to_device(tensor, device) for name, tensor in part.items()}
    return part.to(device, non_blocking=True)
