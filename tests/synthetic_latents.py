"""Stores with many latents that cost little to make, for tests and benchmarks of the data side of training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.latents.latent_loading import EncodingKeys
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS, TableSpec
from emoji_ldm.store import Store

KEYS = EncodingKeys(["codec"], "encoder")
CHUNK = 1000  # images that are made at once
POOL = 64  # distinct tensors, which repeat


def fill_store(store: Store, num_images: int, *, shape: tuple[int, ...] = (4, 16, 16), width: int = 384,
               num_tokens: int = 8) -> None:  # fmt: skip
    """Commit images (without pixels), a caption of each, and their latents and states under `KEYS`."""
    random = np.random.default_rng(0)
    mean, logvar = (random.normal(size=(POOL, *shape)).astype(np.float32) for _ in range(2))
    states = random.normal(size=(POOL, num_tokens, width)).astype(np.float32)
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num_images)]

    def chunks() -> Iterator[tuple[list[str], list[str], np.ndarray]]:
        for start in range(0, num_images, CHUNK):
            part = ids[start : start + CHUNK]
            yield part, [f"emoji {image_id[:12]}" for image_id in part], np.arange(start, start + len(part)) % POOL

    _commit(store, IMAGES, (_rows(IMAGES, image_id=part) for part, _, _ in chunks()))
    _commit(store, CAPTIONS, (
        _rows(CAPTIONS, caption_id=part, image_id=part, caption=captions, status=["ok"] * len(part),
              engine=["metadata"] * len(part))
        for part, captions, _ in chunks()
    ))  # fmt: skip
    _commit(store, LATENTS, (latent_rows(part, "codec", mean[rows], -logvar[rows] - 4) for part, _, rows in chunks()))
    _commit(
        store, TEXT_EMBEDDINGS, (text_rows(captions, "encoder", list(states[rows])) for _, captions, rows in chunks())
    )
    _commit(store, TEXT_EMBEDDINGS, [text_rows([""], "encoder", states[:1])])


def _rows(spec: TableSpec, **columns: list[str]) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table(
        [pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
         for field in spec.schema],
        schema=spec.schema,
    )  # fmt: skip


def _commit(store: Store, spec: TableSpec, tables: Iterator[pa.Table] | list[pa.Table]) -> None:
    table = Table(store, spec)
    table.commit(list(table.write_files(tables)), app_id=f"{spec.name}:{table.version}", metadata={})
