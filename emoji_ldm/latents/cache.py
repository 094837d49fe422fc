"""The cached latents and text states: their rows in the tables, and the set of them that training reads.

Per image the cache holds one posterior (mean and log-variance), so that each training step can draw a fresh sample. Per
*distinct* caption it holds the token states without padding. Values are float16, little endian, in C order. Text states
are rounded to `STATE_MANTISSA_BITS`: the bits behind are noise, which compression cannot make smaller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emoji_ldm.config import key_of
from emoji_ldm.dataset.caption_selection import good_captions as good_of_all
from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.bucketed_rows import BucketedRows, ConstantRows, ImageBuckets, constant_rows, open_buckets
from emoji_ldm.latents.group_copier import EnsuredRows, LocalFill
from emoji_ldm.latents.latent_files import DETERMINISTIC_LOGVAR
from emoji_ldm.latents.local_arrays import FLOAT16, IndexLists, RowFile, StateFile, TextFile
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

HEADER_FILE = "set.json"
# Of the 10 bits of a float16 mantissa: values are exact to 1/128 of their power of two (bfloat16: 1/256).
STATE_MANTISSA_BITS = 6
Floats = NDArray[np.float32]
Moments = NDArray[np.float16]


def latent_id(image_id: str, vae_key: str) -> str:
    """Key of a row of `latents`."""
    return key_of(image_id, vae_key)


def text_id(caption: str, encoder_key: str) -> str:
    """Key of a row of `text_embeddings`."""
    return key_of(caption, encoder_key)


def to_bytes(values: Floats) -> bytes:
    """Values as float16 bytes, clamped to the range of float16."""
    # Infinity in one element would turn the loss of a whole batch into NaN; a clamped outlier does no such harm.
    limit = float(np.finfo(FLOAT16).max)
    return np.clip(values, -limit, limit).astype(FLOAT16).tobytes()


def text_state_bytes(states: Floats) -> bytes:
    """As `to_bytes`, rounded to `STATE_MANTISSA_BITS`, ties away from zero; makes the Parquet file a fifth smaller."""
    cut = np.finfo(FLOAT16).nmant - STATE_MANTISSA_BITS
    # This is the largest finite value whose low bits are zero: values above it could round to infinity.
    largest = np.array(0x7BFF >> cut << cut, np.uint16).view(FLOAT16)
    bits = np.clip(states, -float(largest), float(largest)).astype(FLOAT16).view(np.uint16)
    # The bits of a float, its sign aside, grow with its magnitude. So adding half a unit of the last kept bit and
    # clearing what is behind rounds it, and a carry out of the mantissa lands in the exponent, as it should.
    return (bits + np.uint16(1 << (cut - 1)) >> cut << cut).astype("<u2").tobytes()


def latent_rows(image_ids: Sequence[str], vae_key: str, mean: Sequence[Floats], logvar: Sequence[Floats]) -> pa.Table:
    """Rows of `latents` for images with posteriors `(C, h, w)` each."""
    rows = [
        {"latent_id": latent_id(image_id, vae_key), "image_id": image_id, "vae_key": vae_key,
         "shape": list(one_mean.shape), "mean": to_bytes(one_mean), "logvar": to_bytes(one_logvar)}
        for image_id, one_mean, one_logvar in zip(image_ids, mean, logvar, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=LATENTS.schema)


def text_rows(captions: Sequence[str], encoder_key: str, states: Sequence[Floats]) -> pa.Table:
    """Rows of `text_embeddings` for captions with states `(tokens, width)`."""
    rows = [
        {"text_id": text_id(caption, encoder_key), "caption": caption, "encoder_key": encoder_key,
         "shape": list(state.shape), "hidden_states": text_state_bytes(state)}
        for caption, state in zip(captions, states, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TEXT_EMBEDDINGS.schema)


def good_captions(images: Table, captions: Table) -> dict[str, list[str]]:
    """The good captions of each image that is in the data set (see `dataset.caption_selection`), sorted by image."""
    known, found = images.keys(), good_of_all(captions)
    return {image_id: found[image_id] for image_id in sorted(found) if image_id in known}


@dataclass(frozen=True)
class LatentSet:
    """The training data, in files of the local disk or in memory; its order is the same in every process."""

    image_ids: Sequence[str]  # sorted
    # (V * N, C, h, w) float16, unscaled: the N images unaltered, then with each augmentation.
    mean: RowFile | BucketedRows | EnsuredRows | Moments
    logvar: RowFile | BucketedRows | ConstantRows | EnsuredRows | Moments  # likewise
    captions: Sequence[str]  # distinct, sorted; "" is among them
    caption_indices: Sequence[Sequence[int]]  # per image: indices of its captions in `captions`
    states: Sequence[Moments]  # per caption: (tokens, width)
    empty_index: int  # index of "" in `captions`, for classifier-free guidance
    num_uncaptioned: int  # images left out because they have no good caption
    versions: dict[str, int]  # {table: version read}
    source_sizes: Sequence[int] = ()  # images of each of the data sets that were joined
    buckets: ImageBuckets | None = None  # null: all images have one shape
    fill: LocalFill | None = None  # what copies the tensors; null: all are there

    def sample(self, rows: NDArray[np.int64], noise: Floats, augmentation: NDArray[np.float64]) -> Floats:
        """Posterior samples `(n, C, h, w)` float32, unscaled.

        Args:
            rows: `(n,)` indices into `image_ids`, of images of one shape.
            noise: `(n, C, h, w)`, unit Gaussian.
            augmentation: `(n,)` in [0, 1), chooses among an image's encodings; 0 is the unaltered one.
        """
        num_images = len(self.image_ids)
        # Row `r` of augmentation `v` is at `v * N + r`, see `mean`; a number in [0, 1) picks one of the V encodings.
        rows = rows + num_images * (augmentation * (len(self.mean) // num_images)).astype(np.int64)
        mean, logvar = (moments[rows].astype(np.float32) for moments in (self.mean, self.logvar))
        sample: Floats = mean + np.exp(0.5 * logvar) * noise
        return sample


def open_latent_files(folder: Path) -> LatentSet:
    """The set whose files `write_latent_files` has written."""
    header = json.loads((folder / HEADER_FILE).read_text())
    shapes = [tuple(shape) for shape in header["shapes"]]
    buckets = open_buckets(folder, shapes) if header["has_buckets"] else None

    def open_rows(name: str) -> RowFile | BucketedRows:
        files = [RowFile(folder / f"{name}-{number}", shape) for number, shape in enumerate(shapes)]
        return BucketedRows(files, buckets.bucket) if buckets else files[0]

    mean = open_rows("mean")
    # The posteriors of a quantised autoencoder have no spread: one number stands for all.
    logvar = open_rows("logvar") if header["has_spread"] else constant_rows(mean, FLOAT16.type(DETERMINISTIC_LOGVAR))
    return LatentSet(
        TextFile(folder, "image_ids"), mean, logvar, TextFile(folder, "captions"),
        IndexLists(folder, "caption_indices"), StateFile(folder, "states", header["width"]), header["empty_index"],
        header["num_uncaptioned"], header["versions"], header["source_sizes"], buckets,
    )  # fmt: skip
