"""The task of diffusion training: a denoiser on batches of cached latents, exported as a whole pipeline.

A batch holds images, captions and noise, chosen and assembled on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.bucketed_rows import ImageBuckets
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.latent_files import EncodingKeys
from emoji_ldm.latents.latent_loading import data_versions, load_latent_set, sample_weights
from emoji_ldm.latents.pipeline_source import cells_per_step, pipeline_class
from emoji_ldm.latents.pipeline_text_encoder import PipelineTextEncoder
from emoji_ldm.latents.text_encoder import TextEncoder
from emoji_ldm.model.architectures.trained_text import TRAINED_TEXT_PARTS
from emoji_ldm.model.denoiser import trains_text_encoder
from emoji_ldm.model.unet import count_parameters
from emoji_ldm.train.engines.distributed import device_of
from emoji_ldm.train.tasks.bucket_order import sample_in_buckets
from emoji_ldm.train.tasks.latent_batches import (
    DiffusionBatch,
    LatentBatches,
    RowSamplerFactory,
    TextInputs,
    cached_text_states,
    sample_by_weight,
    sample_uniformly,
    several_tokenized_captions,
    tokenized_captions,
)
from emoji_ldm.train.tasks.objective import Objective
from emoji_ldm.train.tasks.pipeline_export import (
    FrozenModels,
    build_initial_denoiser,
    export_model,
    frozen_model_keys,
    load_frozen,
)
from emoji_ldm.train.training_args import PreviewFunction, RunContext

NUM_PREVIEW_IMAGES = 8  # prompts of a sample grid if none are configured, and validation images shown beside it


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
        text = _text_inputs(config, latents, frozen.text)
        # With buckets the network is built for the square of the largest resolution.
        shape = frozen.vae.latent_shape if latents.buckets else tuple(latents.mean.shape[-3:])
        self.data = LatentBatches(config, latents, text, frozen.vae.scaling_factor, make_sampler, shape)
        module = build_initial_denoiser(config, frozen, shape, latents.states[0].shape[-1])
        if latents.buckets:
            _check_buckets(latents.buckets, cells_per_step(module.network.config, module.architecture.packing))
        self.module: nn.Module = module
        fractional = module.architecture.has_fractional_times
        self.objective = Objective(config.train, has_fractional_times=fractional)
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
        device = device_of(self.module)
        latents, noise, timesteps, weights, text = (
            _to_device(part, device)
            for part in (batch.latents, batch.noise, batch.timesteps, batch.weights, batch.text)
        )
        sizes = [] if batch.sizes is None else [_to_device(batch.sizes, device)]
        # The objective does not handle text and sizes, so the closure passes them on.
        losses = self.objective.losses(
            lambda noisy, times: forward(noisy, times, text, *sizes), latents, noise, timesteps
        )
        # The sum is divided by the number of samples and not by that of the weights, so that the means of micro-batches
        # and ranks average to that of the batch.
        return torch.mean(losses * weights)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `pipeline/`, which `DiffusionPipeline.from_pretrained` opens, or `lora/`, with these weights."""
        export_model(self.config, self.frozen, weights, folder)
        return {}

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
    sources = data_versions(config, context.store)
    settings = config.latents
    keys = EncodingKeys(
        augmentation_keys(frozen.vae.key, settings.augmentations), frozen.text.key, settings.tag_orders,
        settings.buckets, settings.size_px,
    )  # fmt: skip
    latents = load_latent_set(sources, keys)
    weights = None
    if config.train.mix or config.train.sample_weights:
        shares = [1.0, *(source.weight for source in config.train.mix)]
        weights = sample_weights(sources, latents, shares, config.train.sample_weights)
    if latents.buckets:
        return DiffusionTask(config, latents, frozen, preview, sample_in_buckets(latents.buckets.bucket, weights))
    make_sampler = sample_uniformly if weights is None else sample_by_weight(weights)
    return DiffusionTask(config, latents, frozen, preview, make_sampler)


def _text_inputs(config: Config, latents: LatentSet, encoder: TextEncoder) -> TextInputs:
    if not trains_text_encoder(config.train):
        return cached_text_states(latents, max(config.latents.max_tokens, latents.states[0].shape[0]))
    if isinstance(encoder, PipelineTextEncoder):
        return several_tokenized_captions(latents, encoder, TRAINED_TEXT_PARTS[pipeline_class(encoder.folder)])
    return tokenized_captions(latents, encoder)


def _check_buckets(buckets: ImageBuckets, multiple: int) -> None:
    """Raise ConfigError for buckets with images whose latents the network cannot take."""
    for number in np.unique(buckets.bucket):
        _, height, width = buckets.shapes[number]
        if height % multiple or width % multiple:
            raise ConfigError(
                f"the network takes latents of sides that {multiple} divides, and a bucket has {height} x {width}; "
                "raise latents.buckets.step_px, then run: emoji-ldm latents"
            )


def _png(pixels: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _to_device(part: Any, device: Any) -> Any:
    """A tensor, or a mapping of tensors, on the device."""
    if isinstance(part, Mapping):
        return {name: _to_device(tensor, device) for name, tensor in part.items()}
    return part.to(device, non_blocking=True)
