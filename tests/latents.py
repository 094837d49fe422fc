"""A store as the latents stage leaves it, made in a second with a tiny pipeline's own parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from emoji_ldm.config import Config, load
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.latents.codec import load_codec
from emoji_ldm.latents.text import load_text_encoder
from emoji_ldm.records import CAPTIONS, LATENTS, TEXTS, TableSpec
from emoji_ldm.store import Store
from tests.emoji import blobs, fill_images

NUM_IMAGES = 8


def training_config(pipeline: Path, store: Path, *overrides: str) -> Config:
    """A U-Net of some ten thousand weights on the latents of `fill_latents`."""
    return load(None, [
        "run=tiny", f"store={store}", f"latents.codec={pipeline}", f"latents.text_encoder={pipeline}",
        "latents.max_tokens=16", "latents.size_px=32", "train.block_out_channels=[8,16]", "train.layers_per_block=1",
        "train.num_heads=2", "train.batch_size=4", "train.lr=1e-3", "train.warmup_steps=2", "train.sample_every=0",
        "train.log_every=1", "train.num_workers=2", "train.validation=0", *overrides,
    ])  # fmt: skip


def fill_latents(config: Config) -> None:
    """Commit images, captions, latents and texts of some real emoji."""
    store, latents = Store(config.store), config.latents
    pictures = blobs(NUM_IMAGES)
    ids = fill_images(store, pictures)
    titles = [picture.title for picture in pictures]
    codec = load_codec(latents.codec, size_px=latents.size_px, background="white", device="cpu")
    encoder = load_text_encoder(latents.text_encoder, max_tokens=latents.max_tokens, device="cpu")
    moments = [np.zeros((len(ids), *codec.latent_shape), np.float32) + value for value in (0.5, -6.0)]
    _commit(store, LATENTS, latent_rows(ids, codec.key, *moments))
    _commit(store, TEXTS, text_rows(["", *titles], encoder.key, encoder.encode(["", *titles])))
    empty = dict.fromkeys(CAPTIONS.schema.names, "")
    rows = [
        {
            **empty,
            "number": 0,
            "attempts": 1,
            "caption_id": image_id,
            "image_id": image_id,
            "caption": title,
            "status": "ok",
        }
        for image_id, title in zip(ids, titles, strict=True)
    ]
    _commit(store, CAPTIONS, pa.Table.from_pylist(rows, schema=CAPTIONS.schema))


def _commit(store: Store, spec: TableSpec, rows: pa.Table) -> None:
    table = Table(store, spec)
    lineage = Lineage(Config(store=store.uri), spec.name, {})
    table.commit([table.write_file(rows)], app_id=f"{spec.name}:all", metadata=lineage.metadata({}, "all"))
