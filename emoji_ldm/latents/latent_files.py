"""The local files of a latent set: how they are laid out, and described by a small header.

1. choose: the captioned images and their distinct captions, sorted, so that a number means the same sample everywhere
2. look up: for each of them, the row group of the tables that has it (`row_index`)
3. check: what was wanted and not found is an error that names the command to run
4. make room: every tensor has its place, and `group_copier` writes it there

Memory holds keys and places (about 80 bytes per sample), never the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.config import key_of
from emoji_ldm.config.latents import BucketOptions
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.bucketed_rows import write_buckets
from emoji_ldm.latents.buckets import bucket_shapes, place, size_inputs
from emoji_ldm.latents.group_copier import write_index
from emoji_ldm.latents.local_arrays import FLOAT16, INT32, INT64, write_values
from emoji_ldm.latents.local_copy import require_space
from emoji_ldm.latents.row_index import RowIndex, find_rows, open_file, read_columns
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

LATENT_AXES, STATE_AXES = ("C", "h", "w"), ("tokens", "width")  # of the column `shape`
# Log-variance of a posterior without spread: its standard deviation is 0 in every float type.
DETERMINISTIC_LOGVAR = -10000.0


@dataclass(frozen=True)
class EncodingKeys:
    """What the tensors of a set were made with."""

    encodings: Sequence[str]  # of the autoencoder: unaltered, then with each augmentation; see `augmentation_keys`
    text_encoder: str
    tag_orders: int = 0  # further orders of each caption, see `emoji_ldm.latents.tag_orders`
    buckets: BucketOptions | None = None  # the shapes of the images; null: all have one
    size_px: int = 0  # of `latents.size_px`, where there are buckets


@dataclass(frozen=True)
class ImageChoice:
    """The images of one data set to train on, with their captions; images are sorted."""

    image_ids: Sequence[str]
    captions: pa.ChunkedArray  # large_string, those of one image after those of the one before
    offsets: NDArray[np.int64]  # (images + 1,) where the captions of an image begin
    num_images: int  # in the data set, captioned or not
    sizes: NDArray[np.int32]  # (images, 2) height and width; empty where all latents have one shape


def write_latent_files(
    folder: Path, choices: Sequence[ImageChoice], sources: Sequence[Mapping[str, Table]], keys: EncodingKeys
) -> dict[str, Any]:
    """Write all files of a set into an empty folder, those of the tensors without their values.

    `group_copier` fills the values in. Returned is what a reader of the files has to know.

    Args:
        folder: Where to write.
        choices: The images of each data set, which follow one another in the set.
        sources: The tables of each data set, `{name: table}`.
        keys: What the tensors were made with.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
        StoreError: The disk has no room.
    """
    captions = _distinct_captions(choices)
    num_shapes, bucket = 1, np.zeros(sum(len(one.image_ids) for one in choices), np.int16)
    if keys.buckets:
        bucket = _write_buckets(folder, np.concatenate([one.sizes for one in choices]), keys.buckets, keys.size_px)
        num_shapes = len(bucket_shapes(keys.buckets, keys.size_px))
    latents = _find_latents(choices, sources, keys.encodings)
    states = _find_states(captions, sources, keys.text_encoder)
    shapes = _bucket_latent_shapes(latents.shapes, bucket, num_shapes)
    has_spread = _has_spread(sources, latents)
    counts = np.bincount(bucket, minlength=num_shapes) * len(keys.encodings)
    sizes = {f"{name}-{number}": int(count) * math.prod(shape) * FLOAT16.itemsize
             for name in (("mean", "logvar") if has_spread else ("mean",))
             for number, (count, shape) in enumerate(zip(counts, shapes, strict=True))}  # fmt: skip
    sizes["states.bytes"] = _place_states(folder, states.shapes)
    _make_room(folder, sizes)
    write_index(folder, LATENTS.name, latents)
    write_index(folder, TEXT_EMBEDDINGS.name, states)
    write_values(folder, "image_ids", (image_id.encode() for one in choices for image_id in one.image_ids))
    write_values(folder, "captions", (caption.encode() for caption in captions.to_pylist()))
    write_values(folder, "caption_indices", _caption_indices(choices, captions))
    empty = pc.index(captions, pa.scalar("", captions.type)).as_py()
    return {
        "shapes": shapes, "has_buckets": bool(keys.buckets), "width": int(states.shapes[0, -1]),
        "has_spread": has_spread, "empty_index": empty,
    }  # fmt: skip


def _write_buckets(folder: Path, sizes: NDArray[np.int32], options: BucketOptions, size_px: int) -> NDArray[np.int16]:
    """Write the bucket and the size inputs of each image; returns the buckets."""
    placement = place(sizes[:, 0], sizes[:, 1], options, size_px)
    write_buckets(folder, placement.bucket, size_inputs(sizes, placement, bucket_shapes(options, size_px)))
    return placement.bucket


def _distinct_captions(choices: Sequence[ImageChoice]) -> pa.Array:
    """All captions, sorted."""
    # Caption dropout trains with the empty caption, and classifier-free guidance (arXiv 2207.12598) samples with it.
    chunks = [chunk for one in choices for chunk in one.captions.chunks]
    captions = pc.unique(pa.chunked_array([*chunks, pa.array([""], pa.large_string())]))
    return captions.take(pc.array_sort_indices(captions))


def _caption_indices(choices: Sequence[ImageChoice], captions: pa.Array) -> Iterator[bytes]:
    for one in choices:
        numbers = pc.index_in(one.captions, value_set=captions).to_numpy().astype(INT32)
        for first, last in zip(one.offsets[:-1].tolist(), one.offsets[1:].tolist(), strict=True):
            yield numbers[first:last].tobytes()


def _find_latents(
    choices: Sequence[ImageChoice], sources: Sequence[Mapping[str, Table]], encoding_keys: Sequence[str]
) -> RowIndex:
    """Where the latents are: those of all images by the first encoding, then by the next one."""
    num_rows, first = sum(len(one.image_ids) for one in choices), 0
    wanted: list[dict[str, Any]] = []
    for one in choices:
        keys = [key_of(image_id, key) for key in encoding_keys for image_id in one.image_ids]
        own = np.arange(first, first + len(one.image_ids))
        rows = np.concatenate([own + number * num_rows for number in range(len(encoding_keys))])
        wanted.append({"keys": keys, "rows": rows})
        first += len(one.image_ids)
    index, found = find_rows(sources, LATENTS.name, wanted, len(LATENT_AXES))
    for number in range(len(encoding_keys)):
        lack = f"augmented latents (number {number}) of this codec" if number else "latents of this codec"
        for tables, asked in zip(sources, wanted, strict=True):
            part = asked["rows"][asked["rows"] // num_rows == number]
            _check_complete(tables[LATENTS.name], "images", lack, found[part])
    return index


def _find_states(captions: pa.Array, sources: Sequence[Mapping[str, Table]], encoder_key: str) -> RowIndex:
    """Where the token states of all captions are, in whichever table has them."""
    keys = [key_of(text, encoder_key) for text in captions.to_pylist()]
    wanted = [{"keys": keys, "rows": np.arange(len(keys))}] * len(sources)
    index, found = find_rows(sources, TEXT_EMBEDDINGS.name, wanted, len(STATE_AXES))
    _check_complete(sources[-1][TEXT_EMBEDDINGS.name], "captions", "states of this text encoder", found)
    return index


def _bucket_latent_shapes(shapes: NDArray[np.int32], bucket: NDArray[np.int16], num_buckets: int) -> list[list[int]]:
    """The shape of the latents of each bucket; DatasetError if those of one bucket differ."""
    numbers = np.tile(bucket, len(shapes) // len(bucket))
    found = [[1, 1, 1]] * num_buckets  # of buckets without images
    for number in np.unique(numbers):
        own = shapes[numbers == number]
        other = np.flatnonzero((own != own[0]).any(axis=1))
        if len(other):
            raise DatasetError(
                f"an image has latents of shape {own[other[0]].tolist()}, others of {own[0].tolist()}; encode all at "
                "one size: emoji-ldm latents"
            )
        found[number] = own[0].tolist()
    return found


def _has_spread(sources: Sequence[Mapping[str, Table]], index: RowIndex) -> bool:
    """Whether the posteriors have a spread."""
    # One row decides for all, since the spread of a posterior is a property of the autoencoder, and all rows here are
    # of the same one. The constant is exact in float16.
    group = index.groups[index.group_of[index.order[0]]]
    table = sources[group.source][LATENTS.name]
    with open_file(table, group.path) as file:
        value = read_columns(file, table, [group.number], ["logvar"])["logvar"][int(index.row_of[0])]
    return not bool((np.frombuffer(value.as_buffer(), FLOAT16) <= DETERMINISTIC_LOGVAR).all())


def _make_room(folder: Path, sizes: Mapping[str, int]) -> None:
    """Make files of these sizes, `{name: bytes}`, without values; StoreError if the disk has no room for the values."""
    require_space(folder, sum(sizes.values()))
    for name, size in sizes.items():
        with (folder / name).open("wb") as stream:
            stream.truncate(size)


def _place_states(folder: Path, shapes: NDArray[np.int32]) -> int:
    """Write where the token states of each caption lie; returns the size of all."""
    ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64) * FLOAT16.itemsize)
    starts = np.concatenate([[0], ends[:-1]])
    np.stack([starts, ends], axis=1).astype(INT64).tofile(folder / "states.spans")
    return int(ends[-1])


def _check_complete(table: Table, subject: str, lack: str, found: NDArray[np.bool_]) -> None:
    if missing := int((~found).sum()):
        raise DatasetError(
            f"{missing} of {len(found)} {subject} have no {lack} in {table.store.uri}; run: emoji-ldm latents"
        )
