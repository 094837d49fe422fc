"""A store whose images have several shapes, encoded by the stage's own worker."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from emoji_ldm.config import Config, load
from emoji_ldm.dataset.table import Table
from emoji_ldm.demo.sample_images import SampleImage
from emoji_ldm.latents.cache import text_rows
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs.workers.latent_workers import LatentsWorker, load_codec, load_text
from tests.emoji_images import blobs, fill_images
from tests.latents_store import commit

SIDES = ((32, 32), (32, 32), (32, 32), (30, 50), (52, 30), (28, 47), (20, 90), (12, 12), (11, 13), (33, 31), (60, 30))
# That of the tiny pipeline, which has other betas than Stable Diffusion.
PIPELINE_OBJECTIVE = ("train.prediction_type=epsilon", "train.beta_start=0.0001", "train.beta_end=0.02")
BUCKETS = "latents.buckets={step_px: 8, sizes_px: [16]}"


def bucketed_config(pipeline: Path, store: Path, *overrides: str) -> Config:
    """A U-Net of two resolutions on latents of 16 x 16 cells and of other shapes of that area, or a quarter of it."""
    return load(None, [
        "run=tiny", f"store={store}", f"latents.vae={pipeline}", f"latents.text_encoder={pipeline}",
        "latents.max_tokens=16", "latents.size_px=32", BUCKETS, "train.block_out_channels=[8,16]",
        "train.layers_per_block=1", "train.num_heads=2", "train.batch_size=4", "train.lr=1e-3", "train.warmup_steps=2",
        "train.sample_every=null", "train.log_every=1", "train.num_workers=2", "train.validation_fraction=0",
        *overrides,
    ])  # fmt: skip


def pictures() -> tuple[SampleImage, ...]:
    """Parts of emoji, of the sizes `SIDES` (height, width)."""
    found = []
    for (height, width), picture in zip(SIDES, blobs(len(SIDES)), strict=True):
        stream = io.BytesIO()
        with Image.open(io.BytesIO(picture.data)) as image:
            part = image.convert("RGBA").resize((128, 128)).crop((20, 20, 20 + width, 20 + height))
            # One opaque pixel: no part may be blank.
            part.putpixel((0, 0), (255, 0, 0, 255))
            part.putpixel((1, 0), (0, 0, 255, 255))
            part.save(stream, "PNG")
        found.append(replace(picture, data=stream.getvalue()))
    return tuple(found)


def fill_bucketed(config: Config) -> None:
    """Commit images, captions, latents and texts."""
    store, made = Store(config.store), pictures()
    ids = fill_images(store, made)
    rows = [
        {**dict.fromkeys(CAPTIONS.schema.names, ""), "number": 0, "attempts": 1, "caption_id": image_id,
         "image_id": image_id, "caption": picture.title, "status": "ok"}
        for image_id, picture in zip(ids, made, strict=True)
    ]  # fmt: skip
    commit(store, CAPTIONS, pa.Table.from_pylist(rows, schema=CAPTIONS.schema))
    worker = LatentsWorker(config, load_codec(config, store, "cpu").key)
    images = Table(store, IMAGES).read(["image_id", "image"])
    number = pa.array(np.zeros(len(images), np.int32))
    commit(store, LATENTS, worker(images.append_column("augmentation", number)).rows)
    encoder = load_text(config, "cpu")
    texts = sorted({"", *(picture.title for picture in made)})
    commit(store, TEXT_EMBEDDINGS, text_rows(texts, encoder.key, encoder.encode(texts)))
