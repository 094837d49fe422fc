"""Encode over Ray what training reads: images into `latents`, captions into `text_embeddings`.

Every captioned image is encoded once per VAE and augmentation, every distinct caption once per text encoder. The keys
of both models are in the rows, so that other models add rows and leave these alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import MissingInputError
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.buckets import place
from emoji_ldm.latents.cache import good_captions
from emoji_ldm.latents.tag_orders import with_tag_orders
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS, TableSpec
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime, shards
from ray_jobs.workers.latent_workers import LatentsWorker, TextEmbeddingsWorker, load_codec, load_text

if TYPE_CHECKING:  # the import of a stage shall load neither diffusers nor transformers
    from emoji_ldm.latents.text_encoder import TextEncoder
    from emoji_ldm.latents.vae import VaeCodec

# Logical CPUs per actor, which only Ray's scheduler sees. The number of torch threads is set apart from that.
NUM_CPUS = 0.5
SummaryRows = dict[str, object]
# Positions that a cache of Stable Diffusion stores per caption, used or not: the context length of CLIP's text model
# (arXiv 2103.00020, section 2.4).
USUAL_TOKENS = 77


def run(config: Config) -> SummaryRows:
    """Encode what is not encoded yet; returns counts, sizes, keys and versions for the summary.

    Raises:
        DatasetError: No image has a good caption.
        ModelError: The VAE or the text encoder cannot be loaded.
        JobError: The cluster lacks the resources.
    """
    store = Store(config.store, config.branch)
    tables = open_tables(store, config.as_of, IMAGES, CAPTIONS)
    captions = good_captions(tables["images"], tables["captions"])
    if not captions:
        raise MissingInputError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    lineage = Lineage(
        RunInfo(config.run, config.to_json()), "latents", {name: table.version for name, table in tables.items()}
    )
    images = shards.ImageSource(
        set(captions),
        partial(shards.of_images, tables["images"], rows_per_shard=config.latents.rows_per_shard),
        shards.image_reader(tables["images"].store, ("image_id", "image")),
    )
    texts = with_tag_orders((text for several in captions.values() for text in several), config.latents.tag_orders)
    encoded = encode(config, images, set(texts), lineage)
    return {
        "images encoded": encoded.counts.get("latents", 0),
        "captions encoded": encoded.counts.get("texts", 0),
        **_cache_summary(config, store, captions, encoded),
        "versions": {spec.name: Table(store, spec).version for spec in (LATENTS, TEXT_EMBEDDINGS)},
    }


@dataclass(frozen=True)
class EncodedTables:
    """The models by which the tables are filled now, and how many rows are new."""

    vae: VaeCodec
    text_encoder: TextEncoder
    counts: Mapping[str, int]  # {"latents" or "texts": new rows}


def encode(config: Config, images: shards.ImageSource, captions: set[str], lineage: Lineage) -> EncodedTables:
    """Encode the images and captions (and the empty caption, for guidance) that are not encoded yet.

    Raises:
        ModelError: The VAE or the text encoder cannot be loaded.
        JobError: The cluster lacks the resources.
    """
    store, settings = Store(config.store, config.branch), config.latents
    # The driver loads both models too: a key is a hash of weights and settings, and decides what is encoded already. On
    # the CPU, so that the driver does not occupy memory of a GPU that a worker on the same node needs.
    vae, text_encoder = load_codec(config, store, "cpu"), load_text(config, "cpu")
    # One set of shards per augmentation, because each has a key of its own: asking for more copies later
    # encodes only the new ones.
    latent_shards = [
        replace(shard, payload={"augmentation": number, "images": shard.payload})
        for number, key in enumerate(augmentation_keys(vae.key, settings.augmentations))
        for shard in images.split(images.image_ids - _encoded(store, LATENTS, key), key=key)
    ]
    # The empty caption is the unconditional input of classifier-free guidance (arXiv 2207.12598): training drops
    # captions to it, and sampling needs it at every step.
    missing = {"", *captions} - _encoded(store, TEXT_EMBEDDINGS, text_encoder.key)
    text_shards = shards.of_captions(missing, rows_per_shard=settings.rows_per_shard, key=text_encoder.key)
    if latent_shards or text_shards:
        ray_runtime.connect(config.ray)
        ray_runtime.wait_for_resources(
            config.ray, "latents", settings.num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
        )
    # Images before captions: each pool of actors has the GPUs to itself, and frees them before the next one starts.
    job = _job(config, LATENTS, shards.augmentation_reader(images.read), (LatentsWorker, vae.key))
    counts = delta_sink.run(job, latent_shards, lineage, unit="images")
    job = _job(config, TEXT_EMBEDDINGS, shards.read_captions, (TextEmbeddingsWorker, text_encoder.key))
    return EncodedTables(vae, text_encoder, counts | delta_sink.run(job, text_shards, lineage, unit="captions"))


def _job(config: Config, table: TableSpec, read: Any, worker: tuple[Any, str]) -> delta_sink.SinkJob:
    build, key = worker
    return delta_sink.SinkJob(
        "latents", Store(config.store, config.branch), table, read, build, (config, key), config.latents.num_workers,
        NUM_CPUS, config.latents.gpus_per_worker,
    )  # fmt: skip


def _encoded(store: Store, spec: TableSpec, key: str) -> set[str]:
    """Return the images or captions that the table holds for this VAE or text encoder."""
    # The key filters by weights and settings: rows of other models do not count as encoded.
    column, name = ("image_id", "vae_key") if spec is LATENTS else ("caption", "encoder_key")
    return set(Table(store, spec).read([column], filter=pc.field(name) == key)[column].to_pylist())


def _bucket_summary(config: Config, store: Store, captions: dict[str, list[str]]) -> SummaryRows:
    """Return how many shapes the images have, and how much of them is cut off."""
    options = config.latents.buckets
    assert options is not None, "the caller checks it"
    images = open_tables(store, config.as_of, IMAGES)["images"].read(["image_id", "height", "width"])
    images = images.filter(pc.is_in(images["image_id"], value_set=pa.array(list(captions), pa.string())))
    heights, widths = (images[name].to_numpy().astype(np.int32) for name in ("height", "width"))
    placed = place(heights, widths, options, config.latents.size_px)
    return {
        "buckets": len(np.unique(placed.bucket)),
        "cut off by buckets": f"{placed.lost.mean():.1%} of an image on average, {placed.lost.max():.1%} at most",
    }


def _cache_summary(config: Config, store: Store, captions: dict[str, list[str]], encoded: EncodedTables) -> SummaryRows:
    """Return what the tables hold now, and their bytes per image.

    Beside it stands what a usual cache of Stable Diffusion takes: one sampled latent and padded hidden states. All
    values are half precision, 2 bytes.
    """
    from emoji_ldm.latents.vq_adapter import QuantizedAutoencoder

    # Latents are stored as mean and log variance (two values per element), so that training can sample anew in every
    # epoch; a usual cache stores one sample.
    vae, text_encoder = encoded.vae, encoded.text_encoder
    shapes = (
        Table(store, TEXT_EMBEDDINGS)
        .read(["shape"], filter=pc.field("encoder_key") == text_encoder.key)["shape"]
        .to_pylist()
    )
    values, num_captions = int(np.prod(vae.latent_shape)), sum(map(len, captions.values()))
    # The variance of a VQ model is constant and compresses away, so its latents count one value per element.
    moments = 1 if isinstance(vae.vae, QuantizedAutoencoder) else 2
    num_encodings = len(augmentation_keys(vae.key, config.latents.augmentations))
    numbers = moments * values * num_encodings
    ours = 2 * (numbers + sum(tokens * width for tokens, width in shapes) / len(captions))
    usual = 2 * (values + USUAL_TOKENS * text_encoder.width * num_captions / len(captions))
    return {
        "images in the cache": len(captions),
        "images without a good caption": open_tables(store, config.as_of, IMAGES)["images"].count() - len(captions),
        "vae": f"{config.latents.vae} ({vae.key})",
        "text encoder": f"{config.latents.text_encoder} ({text_encoder.key})",
        **(_bucket_summary(config, store, captions) if config.latents.buckets else {}),
        "latent shape": " x ".join(map(str, vae.latent_shape)),
        "bytes per image": f"{ours:,.0f} (padded to {USUAL_TOKENS} tokens: {usual:,.0f})",
    }
