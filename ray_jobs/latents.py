"""Encode over Ray: every captioned image once per codec and variant, every distinct caption once per text encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError, ModelError
from emoji_ldm.latents.augmentation import augment, augmentation_keys
from emoji_ldm.latents.cache import good_captions, latent_rows, text_rows
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS, TableSpec
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime, shards

if TYPE_CHECKING:  # encoders of captions need no diffusers, those of pictures no text models: seconds of a core
    from emoji_ldm.latents.text_encoder import TextEncoder
    from emoji_ldm.latents.vae import VaeCodec

NUM_CPUS = 0.5  # logical CPUs per encoder; its torch threads are set below
SummaryRows = dict[str, object]
USUAL_TOKENS = 77  # positions that a Stable Diffusion cache stores per caption, used or not


def run(config: Config) -> SummaryRows:
    """Encode what is not encoded yet; returns counts, sizes, keys and versions for people.

    Raises:
        DatasetError: No image has a good caption.
        ModelError: Codec or text encoder cannot be loaded.
        JobError: The cluster lacks the resources.
    """
    store = Store(config.store, config.branch)
    tables = open_tables(config, IMAGES, CAPTIONS)
    captions = good_captions(tables["images"], tables["captions"])
    if not captions:
        raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    lineage = Lineage(config, "latents", {name: table.version for name, table in tables.items()})
    pictures = ImageSource(
        set(captions),
        partial(shards.of_images, tables["images"], rows_per_shard=config.latents.rows_per_shard),
        shards.image_reader(tables["images"].store, ("image_id", "image")),
    )
    encoded = encode(config, pictures, {caption for several in captions.values() for caption in several}, lineage)
    return {
        "images encoded": encoded.counts.get("latents", 0),
        "captions encoded": encoded.counts.get("texts", 0),
        **_cached(config, store, captions, encoded.codec, encoded.text),
        "versions": {spec.name: Table(store, spec).version for spec in (LATENTS, TEXT_EMBEDDINGS)},
    }


@dataclass(frozen=True)
class ImageSource:
    """Pictures that are wanted as latents, and how workers come by them."""

    image_ids: set[str]
    split: ImageSplitter
    read: Callable[[dict[str, Any]], pa.Table]  # a shard's payload -> columns image_id and image


class ImageSplitter(Protocol):
    """How pictures become shards."""

    def __call__(self, image_ids: Collection[str], *, key: str) -> list[delta_sink.WorkShard]:
        """Shards of these pictures, named by them and by `key`, which says what is made of them."""
        ...


@dataclass(frozen=True)
class EncodedTables:
    """What is in the tables `latents` and `texts` now."""

    codec: VaeCodec
    text: TextEncoder
    counts: Mapping[str, int]  # {table: rows that were not there before}


def encode(config: Config, pictures: ImageSource, captions: set[str], lineage: Lineage) -> EncodedTables:
    """Encode the pictures and captions (and the empty one) that are not encoded yet.

    Raises:
        ModelError: Codec or text encoder cannot be loaded.
        JobError: The cluster lacks the resources.
    """
    store, settings = Store(config.store, config.branch), config.latents
    codec, text = _codec(config, store, "cpu"), _text(config, "cpu")
    latent_shards = [
        replace(shard, payload={"variant": number, "pictures": shard.payload})
        for number, key in enumerate(augmentation_keys(codec.key, settings))
        for shard in pictures.split(pictures.image_ids - _done(store, LATENTS, key), key=key)
    ]
    text_shards = shards.of_captions(
        {"", *captions} - _done(store, TEXT_EMBEDDINGS, text.key), rows_per_shard=settings.rows_per_shard, key=text.key
    )
    if latent_shards or text_shards:
        ray_runtime.connect(config.ray)
        ray_runtime.wait_for_resources(
            config.ray, "latents", settings.num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
        )
    job = _job(config, LATENTS, partial(_read_variant, pictures.read), (ImageEncoder, codec.key))
    counts = delta_sink.run(job, latent_shards, lineage, unit="images")
    job = _job(config, TEXT_EMBEDDINGS, shards.read_captions, (CaptionEncoder, text.key))
    return EncodedTables(codec, text, counts | delta_sink.run(job, text_shards, lineage, unit="captions"))


class ImageEncoder:
    """Actor: rows of `images` -> rows of `latents`."""

    def __init__(self, config: Config, key: str) -> None:
        """Load the codec; ModelError if it is another one than the driver planned for."""
        self.codec, self.settings = _codec(config, Store(config.store), _prepare(config)), config.latents
        if self.codec.key != key:
            raise ModelError("the run's autoencoder changed while its latents were made; run: emoji-ldm latents")

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Encode the pictures of a shard, altered as its variant wants."""
        from emoji_ldm.latents.vae import to_square

        ids, pictures = rows["image_id"].to_pylist(), rows["image"].to_pylist()
        number, size = rows["variant"][0].as_py(), self.settings.batch_size
        moments = []
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            pixels = np.stack([to_square(file["bytes"], self.codec.size_px) for file in pictures[part]])
            moments.append(self.codec.encode(augment(pixels, ids[part], number, self.settings)))
        mean, logvar = (np.concatenate(parts) for parts in zip(*moments, strict=True))
        key = augmentation_keys(self.codec.key, self.settings)[number]
        return delta_sink.ShardOutput(latent_rows(ids, key, mean, logvar), {"latents": len(ids)})


class CaptionEncoder:
    """Actor: captions -> rows of `texts`."""

    def __init__(self, config: Config, key: str) -> None:
        """Load the text encoder; ModelError if this node has another one than the driver."""
        self.text, self.batch_size = _text(config, _prepare(config)), config.latents.batch_size
        if self.text.key != key:
            raise ModelError(f"text encoder {config.latents.text_encoder!r} is another model on this node")

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Encode the captions of a shard."""
        captions = rows["caption"].to_pylist()
        batches = [captions[start : start + self.batch_size] for start in range(0, len(captions), self.batch_size)]
        states = [state for batch in batches for state in self.text.encode(batch)]
        return delta_sink.ShardOutput(text_rows(captions, self.text.key, states), {"texts": len(captions)})


def _job(config: Config, table: TableSpec, read: Any, worker: tuple[Any, str]) -> delta_sink.SinkJob:
    build, key = worker
    return delta_sink.SinkJob(
        "latents", Store(config.store, config.branch), table, read, build, (config, key), config.latents.num_workers,
        NUM_CPUS, config.latents.gpus_per_worker,
    )  # fmt: skip


def _read_variant(read: Callable[[dict[str, Any]], pa.Table], payload: dict[str, Any]) -> pa.Table:
    """Pictures, and as a further column the number of the variant that is wanted of them."""
    rows = read(payload["pictures"])
    return rows.append_column("variant", pa.array([payload["variant"]] * rows.num_rows, pa.int32()))


def _prepare(config: Config) -> str:
    """The device of an actor; on CPUs the actors share the node's cores evenly."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.latents.num_workers))
    return "cuda" if config.latents.gpus_per_worker else "cpu"


def _codec(config: Config, store: Store, device: str) -> VaeCodec:
    from emoji_ldm.latents.vae import load_vae, resolve_vae

    source = resolve_vae(config, store, Path.home() / ".cache" / "emoji-ldm")
    settings = config.latents
    return load_vae(source, size_px=settings.size_px, background=settings.background, device=device)


def _text(config: Config, device: str) -> TextEncoder:
    from emoji_ldm.latents.text_encoder import load_text_encoder

    return load_text_encoder(config.latents.text_encoder, max_tokens=config.latents.max_tokens, device=device)


def _done(store: Store, spec: TableSpec, key: str) -> set[str]:
    """Images or captions that the table holds for this codec or encoder."""
    column, name = ("image_id", "codec_key") if spec is LATENTS else ("caption", "encoder_key")
    return set(Table(store, spec).read([column], filter=pc.field(name) == key)[column].to_pylist())


def _cached(
    config: Config, store: Store, captions: dict[str, list[str]], codec: VaeCodec, text: TextEncoder
) -> SummaryRows:
    """What the cache holds now, and its bytes per image beside the usual ones: a sample, and padded states."""
    from emoji_ldm.latents.vq_adapter import QuantizedAutoencoder

    shapes = (
        Table(store, TEXT_EMBEDDINGS).read(["shape"], filter=pc.field("encoder_key") == text.key)["shape"].to_pylist()
    )
    values, num_captions = int(np.prod(codec.latent_shape)), sum(map(len, captions.values()))
    moments = 1 if isinstance(codec.vae, QuantizedAutoencoder) else 2  # a constant column takes no room
    numbers = moments * values * config.latents.num_augmentations
    ours = 2 * (numbers + sum(tokens * width for tokens, width in shapes) / len(captions))
    usual = 2 * (values + USUAL_TOKENS * text.width * num_captions / len(captions))
    return {
        "images in the cache": len(captions),
        "images without a good caption": open_tables(config, IMAGES)["images"].count() - len(captions),
        "codec": f"{config.latents.vae} ({codec.key})",
        "text encoder": f"{config.latents.text_encoder} ({text.key})",
        "latent shape": " x ".join(map(str, codec.latent_shape)),
        "bytes per image": f"{ours:,.0f} (padded to {USUAL_TOKENS} tokens: {usual:,.0f})",
    }
