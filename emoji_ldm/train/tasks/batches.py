"""What a step sees: images, captions and noise, chosen and mixed on the host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.dataset import split
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.text_encoder import TextEncoder, pad
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.objective import noise_and_timesteps

NUM_VALIDATION_IMAGES = 1024  # images held out that the loss is measured on, at most: more cost time and tell no more

Rows = NDArray[np.int64]  # places in a latent set
RowSampler = Callable[[int, range], tuple[Rows, NDArray[np.float32]]]  # (step, slots) -> rows, weights of their losses
RowSamplerFactory = Callable[
    [TrainConfig, Rows], RowSampler
]  # (config.train, the rows to train on) -> what each step gets
TextInputs = Callable[[Sequence[int]], Any]  # places of captions -> what the denoiser takes for them


@dataclass(frozen=True)
class DiffusionBatch:
    """What a step sees, on the host."""

    latents: Tensor  # (n, C, h, w) scaled posterior samples
    noise: Tensor  # (n, C, h, w)
    timesteps: Tensor  # (n,), int64, or float32 for flow
    text: Any  # token states (n, max_tokens, width), or the inputs of a text encoder that learns
    weights: Tensor  # (n,) of the losses; their mean over a whole batch is 1 unless the data says otherwise


class LatentBatches:
    """A latent set as batches: which sample, which caption and which noise is a function of (seed, step, place)."""

    def __init__(
        self, config: Config, latents: LatentSet, text: TextInputs, scaling_factor: float, dealer: RowSamplerFactory
    ) -> None:
        """Split the set; DatasetError if nothing is left to train on."""
        self.config, self.latents, self.text, self.scaling_factor = config.train, latents, text, scaling_factor
        self.rows, self.held_rows = _split_rows(latents.image_ids, config.train)
        self.deal = dealer(config.train, self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of a latent."""
        channels, height, width = self.latents.mean.shape[-3:]
        return int(channels), int(height), int(width)

    def draw(self, step: int, slots: range) -> DiffusionBatch:
        """Choose images, captions, noise and timesteps; sample the posteriors."""
        rows, weights = self.deal(step, slots)
        return self._batch(rows, weights, sampler.draw_noise(self.config.seed, step, slots, shape=self.shape))

    def held_out(self, slots: range) -> Iterator[DiffusionBatch]:
        """Images held out, each once, with noise of their own stream; what fills the last batch weighs nothing.

        The mean over all batches of all ranks is that over the images: all of them, or `NUM_MEASURED`.
        """
        rows = _validation_rows(self.held_rows, self.latents.image_ids)
        size, count = self.config.batch_size, len(rows)
        num_batches = -(-count // size)
        for number in range(num_batches):
            places = number * size + np.array(slots)
            weights = np.where(places < count, num_batches * size / count, 0).astype(np.float32)
            draws = sampler.draw_noise(self.config.seed, number, slots, shape=self.shape, kind="validation")
            unaltered = replace(draws, variants=np.zeros(len(slots)))
            yield self._batch(rows[places % count], weights, unaltered)

    def _batch(self, rows: Rows, weights: NDArray[np.float32], draws: sampler.SampleNoise) -> DiffusionBatch:
        latents = self.latents
        raw = latents.sample(rows, draws.posterior, draws.variants)
        captions = [self._caption(int(row), *uniforms) for row, uniforms in zip(rows, draws.uniforms, strict=True)]
        return DiffusionBatch(
            torch.from_numpy(raw * np.float32(self.scaling_factor)), *noise_and_timesteps(self.config, draws),
            self.text(captions), torch.from_numpy(weights),
        )  # fmt: skip

    def _caption(self, row: int, drop: float, choice: float) -> int:
        """Place of the caption that image `row` gets: one of its own, or the empty one."""
        own = self.latents.caption_index[row]
        return self.latents.empty_index if drop < self.config.caption_dropout else own[int(choice * len(own))]


def sample_uniformly(config: TrainConfig, rows: Rows) -> RowSampler:
    """Every row once an epoch, all of the same weight."""

    def deal(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
        places = sampler.sample_indices(config.seed, step, slots, batch_size=config.batch_size, size=len(rows))
        return rows[places], np.ones(len(places), np.float32)

    return deal


def cached_text_states(latents: LatentSet, max_tokens: int) -> TextInputs:
    """Cached token states, padded with zeros: what a denoiser takes whose text encoder does not learn."""
    return lambda captions: pad([latents.states[caption] for caption in captions], max_tokens)


def tokenized_captions(latents: LatentSet, encoder: TextEncoder) -> TextInputs:
    """Token ids and mask: what a text encoder that learns takes, in the same positions as its cached states."""
    tokens = encoder.tokenizer(
        latents.captions, padding="max_length", truncation=True, max_length=encoder.max_tokens, padding_side="right",
        return_tensors="pt",
    )  # fmt: skip
    names = ("input_ids", "attention_mask") if encoder.masked else ("input_ids",)  # see emoji_ldm.latents.text_encoder
    return lambda captions: {name: tokens[name][list(captions)] for name in names}


def _split_rows(image_ids: Sequence[str], config: TrainConfig) -> tuple[Rows, Rows]:
    """Places of the images to train on and of those held out, by content hash."""
    share = config.validation_fraction
    fractions = {"train": 1 - share, "held": share} if share else {"train": 1.0}
    held = np.array([split.assign_part(image_id, fractions, str(config.seed)) == "held" for image_id in image_ids])
    if held.all():
        raise DatasetError(f"train.validation_fraction={share:g} holds out all of the {len(held)} images; lower it")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _validation_rows(rows: Rows, image_ids: Sequence[str]) -> Rows:
    """The rows that are measured: the same images each time, whatever was added since, by a hash of their ids."""
    if len(rows) <= NUM_VALIDATION_IMAGES:
        return rows
    hashes = [hashlib.sha256(image_ids[row].encode()).digest() for row in rows]
    return np.sort(rows[sorted(range(len(rows)), key=hashes.__getitem__)[:NUM_VALIDATION_IMAGES]])
