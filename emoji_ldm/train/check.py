"""What would stop a training, told by the driver in one line before workers and GPUs are asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from emoji_ldm.config import Config, LatentsConfig
from emoji_ldm.dataset.log import versions
from emoji_ldm.dataset.refs import open_at
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import good_captions
from emoji_ldm.latents.variants import variant_keys
from emoji_ldm.records import CAPTIONS, IMAGES, LATENTS, TEXTS
from emoji_ldm.store import Store
from emoji_ldm.train import order, trackers
from emoji_ldm.train.plan import Plan


def check(config: Config, plan: Plan, store: Store, num_workers: int) -> list[str]:
    """Raise what can be known before work starts; returns warnings, a line each.

    Raises:
        ConfigError: The batch does not divide, or a tracker is missing or away.
        DatasetError: There are no images, no captions, or no latents of this codec and text encoder.
        ModelError: The codec or the text encoder cannot be loaded.
    """
    section = plan.section
    slots = order.slots_of(0, num_workers, plan.batch_size, field=f"{section}.batch_size")
    order.parts_of(slots, plan.micro_batch_size, field=f"{section}.micro_batch_size")
    trackers.check(plan)
    num_images = _check_images(config, store) if section == "autoencoder" else _check_latents(config, store)
    if num_images and plan.batch_size > num_images:
        return [f"{section}.batch_size={plan.batch_size} is more than the {num_images} images: a step sees some twice"]
    return []


def _check_images(config: Config, store: Store) -> int:
    num_images = int(open_at(store, config.as_of, IMAGES)[IMAGES.name].count())
    if not num_images:
        raise DatasetError(f"{store.uri} has no images; run: emoji-ldm crawl")
    return num_images


def _check_latents(config: Config, store: Store) -> int:
    """Number of images to train on; 0 where DreamBooth brings its own."""
    if config.train.concepts:
        return 0
    _check_images(config, store)
    tables = open_at(store, config.as_of, IMAGES, CAPTIONS)
    captions = good_captions(tables[IMAGES.name], tables[CAPTIONS.name])
    if not captions:
        raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    from emoji_ldm.train.pipeline import load_frozen  # brings diffusers and transformers

    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as cache:
        frozen = load_frozen(config, store, Path(cache))
    texts = {"", *(caption for several in captions.values() for caption in several)}
    for key in variant_keys(frozen.codec.key, config.latents):
        _check_complete(Table(store, LATENTS), captions.keys(), key, config.latents)
    _check_complete(Table(store, TEXTS), texts, frozen.text.key, config.latents)
    return len(captions)


def _check_complete(table: Table, wanted: Collection[str], key: str, latents: LatentsConfig) -> None:
    """Raise DatasetError unless the table has a row of this codec (or text encoder) for all that is wanted."""
    of_images = table.spec is LATENTS
    column, name = ("image_id", "codec_key") if of_images else ("caption", "encoder_key")
    found = table.read([column], filter=pc.field(name) == key)[column].to_pylist() if table.exists else []
    missing = len(set(wanted) - set(found))
    if not missing:
        return
    ours = latents.vae if of_images else latents.text_encoder
    things, made = ("images", "latents of codec") if of_images else ("captions", "states of text encoder")
    text = f"{missing} of {len(wanted)} {things} have no {made} {ours!r} ({key})"
    if others := _made_with(table, "vae" if of_images else "text_encoder", key, name):
        text += f"; the store has those of {others}"
    raise DatasetError(f"{text}; run: emoji-ldm latents latents.{'vae' if of_images else 'text_encoder'}={ours}")


def _made_with(table: Table, field: str, key: str, column: str) -> str:
    """What other codecs the table's rows are of: names as its commits tell them, and keys."""
    if not table.exists:
        return ""
    keys = sorted(set(table.read([column])[column].to_pylist()) - {key})
    told = [str(_option(entry, field)) for entry in versions(table) if entry["stage"]]
    names = sorted(set(told) - {"None"})
    return f"{', '.join(map(repr, names))} ({', '.join(keys)})" if keys else ""


def _option(entry: Mapping[str, Any], field: str) -> Any:
    return json.loads(entry["config"] or "{}").get("latents", {}).get(field)
