"""The training data of a run: which rows of which stores, as one `LatentSet` on the local disk.

A set may mix several data sets, each at a version of its own. They become one set, one after another; each has its own
images, and all share the captions. Memory stays the same whatever the number of images. A large set is used before its
copy is complete, see `group_copier`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset.caption_selection import select_captions
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.cache import HEADER_FILE, LatentSet, open_latent_files
from emoji_ldm.latents.group_copier import open_fill
from emoji_ldm.latents.latent_files import EncodingKeys, ImageChoice, write_latent_files
from emoji_ldm.latents.local_copy import local_copy
from emoji_ldm.latents.tag_orders import with_tag_orders
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store

COPY_FORMAT = 4  # version of the files of a local copy; another one is made anew


@dataclass(frozen=True)
class DataVersion:
    """A data set to train on."""

    store: Store
    as_of: str | None = None  # of images and captions; latents and states are always the newest

    def tables(self) -> dict[str, Table]:
        """`{name: table}` of images, captions, latents and states."""
        newest = {spec.name: Table(self.store, spec) for spec in (LATENTS, TEXT_EMBEDDINGS)}
        # Latents and states are found by keys of image, caption and model, so their newest rows serve every version of
        # the images and captions.
        return {**open_tables(self.store, self.as_of, IMAGES, CAPTIONS), **newest}


def data_versions(config: Config, store: Store) -> list[DataVersion]:
    """The data sets that `config.train` draws from, the run's own first."""
    others = (DataVersion(Store(source.store) if source.store else store, source.as_of) for source in config.train.mix)
    return [DataVersion(store, config.as_of), *others]


def load_latent_set(sources: Sequence[DataVersion], keys: EncodingKeys) -> LatentSet:
    """Every captioned image of these data sets with its latents and text states, from a copy on the local disk.

    The copy is made by the first process of a machine that needs it, and serves all others and later runs on the same
    versions (see `local_copy`).

    Raises:
        DatasetError: A data set has no captioned image, or one lacks its latents or text states.
        StoreError: A store cannot be read, or the local disk has no room.
    """
    parts = [source.tables() for source in sources]

    def choose(tables: Mapping[str, Table], source: DataVersion) -> ImageChoice:
        rows = _captioned_rows(tables[IMAGES.name], tables[CAPTIONS.name])
        if not len(rows):
            raise DatasetError(f"{source.store.uri} has no captioned image; run: emoji-ldm caption")
        choice = _choice(rows, keys.tag_orders, tables[IMAGES.name].count())
        return replace(choice, sizes=_sizes(tables[IMAGES.name], choice.image_ids)) if keys.buckets else choice

    chooses = [partial(choose, tables, source) for tables, source in zip(parts, sources, strict=True)]
    return _open_copy(parts, keys, chooses, ())


def build_latent_set(
    captions: Mapping[str, Sequence[str]], tables: Mapping[str, Table], keys: EncodingKeys
) -> LatentSet:
    """The images of `{image id: captions}` with their latents and text states, from tables `{name: table}`.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
        StoreError: The store cannot be read, or the local disk has no room.
    """
    pairs = [(image_id, caption) for image_id in sorted(captions) for caption in captions[image_id]]
    rows = [pa.array(column, pa.large_string()) for column in zip(*pairs, strict=True)]
    choose = partial(_choice, pa.table(rows, names=["image_id", "caption"]), keys.tag_orders, len(captions))
    return _open_copy([tables], keys, [choose], pairs)


def sample_weights(
    sources: Sequence[DataVersion], data: LatentSet, source_weights: Sequence[float], by_tag: Mapping[str, float]
) -> NDArray[np.float64]:
    """`(N,)` how often each image of a set is drawn, relative to the others.

    Args:
        sources: The data sets that the set was made of.
        data: The set.
        source_weights: How many samples come from each of the sources, relative to the others.
        by_tag: Factors of the images that have a tag.
    """
    ends = np.cumsum(data.source_sizes)
    found = np.empty(len(data.image_ids))
    for source, weight, first, last in zip(sources, source_weights, [0, *ends[:-1]], ends, strict=True):
        own = np.ones(last - first)
        if by_tag:
            own = _tag_factors(source, data.image_ids[first:last], by_tag)
        if not own.any():
            raise DatasetError(f"train.sample_weights drops every image of {source.store.uri}; raise one above 0")
        found[first:last] = own * weight / own.sum()
    return found


def _tag_factors(source: DataVersion, image_ids: Sequence[str], by_tag: Mapping[str, float]) -> NDArray[np.float64]:
    factors: dict[str, float] = {}
    for batch in source.tables()[IMAGES.name].batches(["image_id", "tags"]):
        for image_id, tags in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            factor = float(np.prod([by_tag[tag] for tag in tags or () if tag in by_tag]))
            if factor != 1:
                factors[image_id] = factor
    return np.array([factors.get(image_id, 1.0) for image_id in image_ids])


def _captioned_rows(images: Table, captions: Table) -> pa.Table:
    """`select_captions` of the images that are in the data set."""
    rows = select_captions(captions)
    known = images.read(["image_id"])["image_id"].cast(pa.large_string())
    return rows.filter(pc.is_in(rows["image_id"], value_set=known.combine_chunks()))


def _choice(rows: pa.Table, num_tag_orders: int, num_images: int) -> ImageChoice:
    """The images of rows `image_id`, `caption`, which are sorted by image."""
    image_ids = pc.unique(rows["image_id"])
    numbers = pc.index_in(rows["image_id"], value_set=image_ids).to_numpy().astype(np.int64)
    ends = np.cumsum(np.bincount(numbers, minlength=len(image_ids)))
    captions = rows["caption"]
    if num_tag_orders:
        texts, starts = captions.to_pylist(), [0, *ends[:-1].tolist()]
        several = [with_tag_orders(texts[first:last], num_tag_orders) for first, last in zip(starts, ends, strict=True)]
        captions = pa.chunked_array([pa.array([text for one in several for text in one], pa.large_string())])
        ends = np.cumsum([len(one) for one in several])
    no_sizes = np.empty((0, 2), np.int32)
    return ImageChoice(image_ids.to_pylist(), captions, np.concatenate([[0], ends]), num_images, no_sizes)


def _sizes(images: Table, image_ids: Sequence[str]) -> NDArray[np.int32]:
    """`(n, 2)` height and width of images."""
    rows = images.read(["image_id", "height", "width"])
    found = pc.index_in(pa.array(image_ids), value_set=rows["image_id"].combine_chunks())
    return np.stack([rows[name].take(found).to_numpy() for name in ("height", "width")], axis=1).astype(np.int32)


def _open_copy(
    parts: Sequence[Mapping[str, Table]], keys: EncodingKeys, chooses: Sequence[Any], extra: object
) -> LatentSet:
    versions = {
        name if not number else f"mix {number} {name}": table.version
        for number, tables in enumerate(parts)
        for name, table in tables.items()
    }
    # A table has an id of its own, so that a store that was deleted and filled again is not taken for the old one.
    tables = [[name, table.resolve("."), table.version, table.delta().metadata().id if table.exists else None]
              for part in parts for name, table in part.items()]  # fmt: skip
    key = key_of(COPY_FORMAT, tables, extra, list(keys.encodings), keys.text_encoder, keys.tag_orders)

    def make(folder: Path) -> None:
        choices = [choose() for choose in chooses]
        header = write_latent_files(folder, choices, parts, keys)
        header |= {
            "num_uncaptioned": sum(one.num_images - len(one.image_ids) for one in choices), "versions": versions,
            "source_sizes": [len(one.image_ids) for one in choices],
        }  # fmt: skip
        # Written last: it also says what the files are of.
        (folder / HEADER_FILE).write_text(json.dumps(header))

    folder = local_copy(key, make)
    found = open_latent_files(folder)
    bucket = found.buckets.bucket if found.buckets else np.zeros(len(found.image_ids), np.int16)
    header = json.loads((folder / HEADER_FILE).read_text())
    fill = open_fill(folder, parts, header, bucket)
    if fill is None:
        return found
    fill.begin()
    logvar = fill.attach(found.logvar, LATENTS.name) if header["has_spread"] else found.logvar
    return replace(found, mean=fill.attach(found.mean, LATENTS.name), logvar=logvar,
                   states=fill.attach(found.states, TEXT_EMBEDDINGS.name), fill=fill)  # fmt: skip
