"""Batches of cached latents: which image, caption and noise each sample gets, assembled on the host.

All choices are functions of (seed, step, position in the global batch), see `sampler`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.dataset import split
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.pipeline_text_encoder import PipelineTextEncoder
from emoji_ldm.latents.text_encoder import TextEncoder, expand_words, pad
from emoji_ldm.model.architectures.trained_text import PACKED
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.objective import noise_and_timesteps
from emoji_ldm.train.tasks.pipeline_export import with_flow_shift

# This is the largest number of validation images: more take time, and change the mean little.
NUM_VALIDATION_IMAGES = 1024
NUM_KEPT_TOKENIZED = 65536  # captions, at a few hundred bytes each

Rows = NDArray[np.int64]  # row indices of a latent set
RowSampler = Callable[[int, range], tuple[Rows, NDArray[np.float32]]]  # (step, slots) -> rows, loss weights
RowSamplerFactory = Callable[[TrainConfig, Rows], RowSampler]  # (config.train, the rows to train on) -> sampler
TextInputs = Callable[[Sequence[int]], Any]  # indices of captions -> the denoiser's text input


@dataclass(frozen=True)
class DiffusionBatch:
    """The input of one forward pass, on the host."""

    latents: Tensor  # (n, C, h, w) scaled posterior samples
    noise: Tensor  # (n, C, h, w)
    timesteps: Tensor  # (n,), int64, or float32 for flow
    text: Any  # token states (n, max_tokens, width), or the inputs of a trained text encoder
    weights: Tensor  # (n,) of the losses, 1 unless the sampler weights its rows
    sizes: Tensor | None = None  # (n, 6) size inputs in pixels, see `buckets.size_inputs`; None without buckets


class LatentBatches:
    """A latent set as batches; sample, caption and noise are functions of (seed, step, position), see `sampler`."""

    def __init__(
        self,
        config: Config,
        latents: LatentSet,
        text: TextInputs,
        scaling_factor: float,
        make_sampler: RowSamplerFactory,
        shape: tuple[int, ...],
    ) -> None:
        """Split off the validation images; DatasetError if nothing is left to train on.

        `shape` is `(C, h, w)` of a latent, with buckets that of the square of the largest resolution.
        """
        self.config, self.latents, self.text, self.scaling_factor = config.train, latents, text, scaling_factor
        self.shape = shape
        # Rectified flow shifts times by the size of the image.
        self._timed = lru_cache(maxsize=None)(lambda own: with_flow_shift(config, own).train)
        self.train_rows, self.validation_rows = _split_rows(latents.image_ids, config.train)
        self.sample_rows = make_sampler(config.train, self.train_rows)

    def shape_of(self, row: int) -> tuple[int, ...]:
        """`(C, h, w)` of the latents of an image."""
        buckets = self.latents.buckets
        return tuple(buckets.shapes[int(buckets.bucket[row])]) if buckets else self.shape

    def prepare_batch(self, step: int, slots: range) -> DiffusionBatch:
        """Choose images, captions, noise and timesteps; sample the posteriors."""
        rows, weights = self.sample_rows(step, slots)
        shape = self.shape_of(rows[0])
        return self._batch(rows, weights, sampler.draw_noise(self.config.seed, step, slots, shape=shape))

    def validation_batches(self, slots: range) -> Iterator[DiffusionBatch]:
        """Validation images, each once, with noise of a stream of their own.

        The last batch is filled up with images of weight 0, and the others weigh more in return. So the mean over all
        batches of all ranks is the mean over the images (all, or `NUM_VALIDATION_IMAGES` of them).
        """
        rows, size = _validation_rows(self.validation_rows, self.latents.image_ids), self.config.batch_size
        # Each batch is a part of the images of one bucket.
        parts = [own[start : start + size] for own in self._by_bucket(rows) for start in range(0, len(own), size)]
        for number, part in enumerate(parts):
            positions = np.array(slots)
            # All ranks need equally many batches of equal size, hence the filling. With B batches of n positions for N
            # images, a weight of B n / N makes the mean over all positions the mean over the images.
            weights = np.where(positions < len(part), len(parts) * size / len(rows), 0).astype(np.float32)
            chosen = part[positions % len(part)]
            draws = sampler.draw_noise(
                self.config.seed, number, slots, shape=self.shape_of(chosen[0]), kind="validation"
            )
            # Augmentation would make the validation loss depend on how many encodings were stored.
            unaltered = replace(draws, augmentation=np.zeros(len(slots)))
            yield self._batch(chosen, weights, unaltered)

    def _by_bucket(self, rows: Rows) -> list[Rows]:
        buckets = self.latents.buckets
        if not buckets:
            return [rows]
        own = buckets.bucket[rows]
        return [rows[own == number] for number in np.unique(own)]

    def _batch(self, rows: Rows, weights: NDArray[np.float32], draws: sampler.SampleNoise) -> DiffusionBatch:
        latents = self.latents
        raw = latents.sample(rows, draws.posterior, draws.augmentation)
        # Validation draws captions in the same way, dropout included: its loss is that of the training objective.
        captions = [self._caption(int(row), *uniforms) for row, uniforms in zip(rows, draws.uniforms, strict=True)]
        return DiffusionBatch(
            torch.from_numpy(raw * np.float32(self.scaling_factor)),
            *noise_and_timesteps(self._timed(raw.shape[1:]), draws), self.text(captions), torch.from_numpy(weights),
            torch.from_numpy(latents.buckets.sizes[rows].astype(np.float32)) if latents.buckets else None,
        )  # fmt: skip

    def _caption(self, row: int, drop: float, choice: float) -> int:
        """Index of the caption that image `row` gets: one of its own, or the empty one (caption dropout)."""
        # Both random numbers are drawn in any case, so that another dropout rate changes no other choice.
        own = self.latents.caption_indices[row]
        return self.latents.empty_index if drop < self.config.caption_dropout else own[int(choice * len(own))]


def sample_uniformly(config: TrainConfig, rows: Rows) -> RowSampler:
    """Every row once an epoch, all with losses of the same weight."""

    def sample(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
        indices = sampler.sample_indices(config.seed, step, slots, batch_size=config.batch_size, size=len(rows))
        return rows[indices], np.ones(len(indices), np.float32)

    return sample


def sample_by_weight(weights: NDArray[np.float64]) -> RowSamplerFactory:
    """Rows as often as their weight says, see `sampler.weighted_indices`; `(N,)` weights of all rows of the set."""

    def make_sampler(config: TrainConfig, rows: Rows) -> RowSampler:
        cumulative = np.cumsum(weights[rows])
        if not len(rows) or cumulative[-1] <= 0:
            raise DatasetError(
                f"train.validation_fraction={config.validation_fraction:g} holds out all images that "
                "train.sample_weights keeps; lower it"
            )

        def sample(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
            chosen = sampler.weighted_indices(config.seed, step, slots, config.batch_size, cumulative)
            return rows[chosen], np.ones(len(chosen), np.float32)

        return sample

    return make_sampler


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
            expand_words(encoder.tokenizer, latents.captions[caption]), padding="max_length", truncation=True,
            max_length=encoder.max_tokens,
            padding_side="right", return_tensors="pt",
        )  # fmt: skip
        return {name: tokens[name][0] for name in names}

    return lambda captions: {name: torch.stack([tokenize(caption)[name] for caption in captions]) for name in names}


def several_tokenized_captions(latents: LatentSet, encoder: PipelineTextEncoder, parts: Sequence[str]) -> TextInputs:
    """Token ids for each of the trained encoders of a pipeline, and the cached states of all of them."""

    @lru_cache(maxsize=NUM_KEPT_TOKENIZED)
    def tokenize(caption: int) -> dict[str, Tensor]:
        return {part: encoder.tokenize(part, latents.captions[caption]) for part in parts}

    def inputs(captions: Sequence[int]) -> dict[str, Tensor]:
        packed = torch.from_numpy(np.stack([latents.states[caption] for caption in captions]).astype(np.float32))
        ids = {part: torch.stack([tokenize(caption)[part] for caption in captions]) for part in parts}
        return {PACKED: packed, **ids}

    return inputs


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
