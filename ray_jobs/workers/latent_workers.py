"""The actors of the latents stage: one encodes images with the VAE, the other captions with the text encoder.

Each imports only what it needs: image actors no text models, caption actors no diffusers. That saves seconds of a core
at every start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from emoji_ldm.config import Config
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.augmentation import Pixels, augment, augmentation_keys
from emoji_ldm.latents.buckets import bucket_shapes, place
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.store import Store
from ray_jobs.execution.delta_sink import ShardOutput

if TYPE_CHECKING:
    from emoji_ldm.latents.text_encoder import TextEncoder
    from emoji_ldm.latents.vae import VaeCodec


class LatentsWorker:
    """Actor: rows of `images` -> rows of `latents`."""

    def __init__(self, config: Config, key: str) -> None:
        """Load the VAE; ModelError if it is another one than the driver planned with."""
        # A new training of the autoencoder may be published between the driver's plan and this line. Its latents would
        # be stored under the old key, so the keys are compared.
        self.codec, self.settings = load_codec(config, Store(config.store), _device(config)), config.latents
        if self.codec.key != key:
            raise ModelError("the run's autoencoder changed while its latents were made; run: emoji-ldm latents")

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Encode the images of a shard, augmented by the number in the column `augmentation`."""
        ids, number = rows["image_id"].to_pylist(), rows["augmentation"][0].as_py()
        # The distribution is stored and not a sample of it, so that each epoch of training may draw another sample.
        mean, logvar = self._encode(ids, [file["bytes"] for file in rows["image"].to_pylist()], number)
        key = augmentation_keys(self.codec.key, self.settings.augmentations)[number]
        return ShardOutput(latent_rows(ids, key, mean, logvar), {"latents": len(ids)})

    def _encode(self, ids: Sequence[str], files: Sequence[bytes], number: int) -> tuple[list[Any], list[Any]]:
        """Means and log-variances of images, augmented as copy `number`, in their order."""
        from emoji_ldm.latents.vae import image_size, to_shape, to_square

        options, size_px = self.settings.buckets, self.codec.size_px
        if options:
            sizes = np.array([image_size(data) for data in files], np.int32)
            placed, shapes = place(sizes[:, 0], sizes[:, 1], options, size_px), bucket_shapes(options, size_px)
            buckets = placed.bucket.tolist()
        else:
            buckets = [0] * len(files)

        def pixels_of(index: int) -> Pixels:
            if not options:
                return to_square(files[index], size_px)
            scaled, offset = placed.scaled[index].tolist(), placed.offset[index].tolist()
            return to_shape(files[index], tuple(scaled), tuple(offset), shapes[buckets[index]])

        found: dict[int, Any] = {}
        for bucket in sorted(set(buckets)):
            # Images of a batch have one shape; batches bound the memory of the encoder.
            own = [index for index, other in enumerate(buckets) if other == bucket]
            for start in range(0, len(own), self.settings.batch_size):
                part = own[start : start + self.settings.batch_size]
                pixels = np.stack([pixels_of(index) for index in part])
                altered = augment(pixels, [ids[index] for index in part], number, self.settings.augmentations)
                found |= zip(part, zip(*self.codec.encode(altered), strict=True), strict=True)
        return [found[index][0] for index in range(len(ids))], [found[index][1] for index in range(len(ids))]


class TextEmbeddingsWorker:
    """Actor: captions -> rows of `text_embeddings`."""

    def __init__(self, config: Config, key: str) -> None:
        """Load the text encoder; ModelError if this node has another one than the driver."""
        self.text_encoder, self.batch_size = load_text(config, _device(config)), config.latents.batch_size
        if self.text_encoder.key != key:
            raise ModelError(f"text encoder {config.latents.text_encoder!r} is another model on this node")

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Encode the captions of a shard."""
        # Captions of a shard are sorted by length (`shards.of_captions`), so a batch holds little padding.
        captions = rows["caption"].to_pylist()
        batches = [captions[start : start + self.batch_size] for start in range(0, len(captions), self.batch_size)]
        states = [state for batch in batches for state in self.text_encoder.encode(batch)]
        return ShardOutput(text_rows(captions, self.text_encoder.key, states), {"texts": len(captions)})


def load_codec(config: Config, store: Store, device: str) -> VaeCodec:
    """The VAE of `latents.vae`; ModelError if it cannot be loaded."""
    from emoji_ldm.latents.vae import load_vae, resolve_vae

    source = resolve_vae(config, store, Path.home() / ".cache" / "emoji-ldm")
    settings = config.latents
    return load_vae(
        source, size_px=settings.size_px, background=settings.background, device=device, buckets=settings.buckets
    )


def load_text(config: Config, device: str) -> TextEncoder:
    """The text encoder of `latents.text_encoder`; ModelError if it cannot be loaded."""
    from emoji_ldm.latents.pipeline_text_encoder import load_prompt_encoder

    return load_prompt_encoder(config.latents.text_encoder, max_tokens=config.latents.max_tokens, device=device)


def _device(config: Config) -> str:
    """Return the device of an actor; on CPUs the actors share the cores of their node evenly."""
    # Torch would start a thread per core in every actor, and they would compete for the same cores.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.latents.num_workers))
    return "cuda" if config.latents.gpus_per_worker else "cpu"
