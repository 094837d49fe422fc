"""A store as the latents stage leaves it, filled within a second by a tiny pipeline's own models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from emoji_ldm.config import Config, load
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.latents.pipeline_text_encoder import load_prompt_encoder
from emoji_ldm.latents.vae import load_vae, resolve_vae
from emoji_ldm.schemas import CAPTIONS, LATENTS, TEXT_EMBEDDINGS, TableSpec
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images

NUM_IMAGES = 8


def training_config(pipeline: Path, store: Path, *overrides: str) -> Config:
    """A U-Net of some ten thousand weights on the latents of `fill_latents`."""
    return load(None, [
        "run=tiny", f"store={store}", f"latents.vae={pipeline}", f"latents.text_encoder={pipeline}",
        "latents.max_tokens=16", "latents.size_px=32", "train.block_out_channels=[8,16]", "train.layers_per_block=1",
        "train.num_heads=2", "train.batch_size=4", "train.lr=1e-3", "train.warmup_steps=2", "train.sample_every=null",
        "train.log_every=1", "train.num_workers=2", "train.validation_fraction=0", *overrides,
    ])  # fmt: skip


def fill_latents(config: Config) -> None:
    """Commit images, captions, latents and texts of some real emoji."""
    fill_encoded(config, fill_captioned(Store(config.store)))


def fill_captioned(store: Store) -> dict[str, str]:
    """Commit images and captions; returns {image id: caption}."""
    pictures = blobs(NUM_IMAGES)
    captions = dict(zip(fill_images(store, pictures), (picture.title for picture in pictures), strict=True))
    rows = [
        {**dict.fromkeys(CAPTIONS.schema.names, ""), "number": 0, "attempts": 1, "caption_id": image_id,
         "image_id": image_id, "caption": caption, "status": "ok"}
        for image_id, caption in captions.items()
    ]  # fmt: skip
    commit(store, CAPTIONS, pa.Table.from_pylist(rows, schema=CAPTIONS.schema))
    return captions


def fill_encoded(config: Config, captions: dict[str, str]) -> None:
    """Commit constant latents for every image, and text embeddings, under the keys of the configured models."""
    store, latents = Store(config.store), config.latents
    source = resolve_vae(config, store, Path(config.store, "cache"))
    codec = load_vae(source, size_px=latents.size_px, background=latents.background, device="cpu")
    encoder = load_prompt_encoder(latents.text_encoder, max_tokens=latents.max_tokens, device="cpu")
    mean, logvar = (np.full((len(captions), *codec.latent_shape), value, np.float32) for value in (0.5, -6.0))
    for key in augmentation_keys(codec.key, latents.augmentations):
        commit(store, LATENTS, latent_rows(list(captions), key, list(mean), list(logvar)))
    texts = ["", *captions.values()]
    commit(store, TEXT_EMBEDDINGS, text_rows(texts, encoder.key, encoder.encode(texts)))


def commit(store: Store, spec: TableSpec, rows: pa.Table) -> None:
    table = Table(store, spec)
    lineage = Lineage(RunInfo("default", Config(store=store.uri).to_json()), spec.name, {})
    table.commit([table.write_file(rows)], app_id=f"{spec.name}:{table.version}", metadata=lineage.metadata({}, "all"))
