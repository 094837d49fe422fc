"""The cached latents and text states: their rows in the tables, and the set of them that training reads.

Per image the cache holds one posterior (mean and log-variance), so that each training step can draw a fresh sample. Per
*distinct* caption it holds the token states without padding. Values are float16, little endian, in C order. Text states
are rounded to `STATE_MANTISSA_BITS`: the bits behind are noise, which compression cannot make smaller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.config import key_of
from emoji_ldm.dataset.caption_selection import good_captions as good_of_all
from emoji_ldm.dataset.caption_selection import select_captions
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.latent_files import (
    DETERMINISTIC_LOGVAR,
    CaptionChoice,
    choose_captions,
    write_latent_files,
)
from emoji_ldm.latents.local_arrays import FLOAT16, IndexLists, RowFile, StateFile, TextFile
from emoji_ldm.latents.local_copy import local_copy
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store

HEADER_FILE = "set.json"
COPY_FORMAT = 1  # version of the files of a local copy; another one is made anew
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


def latent_rows(image_ids: Sequence[str], vae_key: str, mean: Floats, logvar: Floats) -> pa.Table:
    """Rows of `latents` for images with posteriors `(N, C, h, w)`."""
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
    mean: RowFile | Moments  # (V * N, C, h, w) float16, unscaled: the N images unaltered, then with each augmentation
    logvar: RowFile | Moments  # likewise
    captions: Sequence[str]  # distinct, sorted; "" is among them
    caption_indices: Sequence[Sequence[int]]  # per image: indices of its captions in `captions`
    states: Sequence[Moments]  # per caption: (tokens, width)
    empty_index: int  # index of "" in `captions`, for classifier-free guidance
    num_uncaptioned: int  # images left out because they have no good caption
    versions: dict[str, int]  # {table: version read}

    def sample(self, rows: NDArray[np.int64], noise: Floats, augmentation: NDArray[np.float64]) -> Floats:
        """Posterior samples `(n, C, h, w)` float32, unscaled.

        Args:
            rows: `(n,)` indices into `image_ids`.
            noise: `(n, C, h, w)`, unit Gaussian.
            augmentation: `(n,)` in [0, 1), chooses among an image's encodings; 0 is the unaltered one.
        """
        num_images = len(self.image_ids)
        # Row `r` of augmentation `v` is at `v * N + r`, see `mean`; a number in [0, 1) picks one of the V encodings.
        rows = rows + num_images * (augmentation * (len(self.mean) // num_images)).astype(np.int64)
        mean, logvar = (moments[rows].astype(np.float32) for moments in (self.mean, self.logvar))
        sample: Floats = mean + np.exp(0.5 * logvar) * noise
        return sample


def load_latent_set(
    store: Store, *, vae_key: str, encoder_key: str, as_of: str | None = None, encoding_keys: Sequence[str] = ()
) -> LatentSet:
    """Every captioned image with its latents and text states, by way of a copy on the local disk (see `local_copy`).

    Memory stays the same whatever the number of images. The copy is made by the first process of a machine that needs
    it, and serves all others and later runs on the same versions.

    Args:
        store: Where the tables lie.
        vae_key: `VaeCodec.key`; latents of other autoencoders are ignored.
        encoder_key: `TextEncoder.key`, likewise.
        as_of: Tag, time or version of images and captions; their latents and states are always the newest.
        encoding_keys: Keys of all encodings, see `augmentation_keys`; empty takes `vae_key` alone.

    Raises:
        DatasetError: There is no captioned image, or one lacks its latents or text states.
        StoreError: The store cannot be read, or the local disk has no room.
    """
    tables = {
        **open_tables(store, as_of, IMAGES, CAPTIONS),
        # Latents and states are found by keys of image, caption and model, so their newest rows serve every version of
        # the images and captions.
        **{spec.name: Table(store, spec) for spec in (LATENTS, TEXT_EMBEDDINGS)},
    }

    def choose() -> tuple[CaptionChoice, int]:
        rows = _captioned_rows(tables["images"], tables["captions"])
        if not len(rows):
            raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
        choice = choose_captions(rows)
        return choice, tables["images"].count() - len(choice.image_ids)

    return _open_copy(tables, (), encoding_keys or (vae_key,), encoder_key, choose)


def build_latent_set(
    captions: Mapping[str, Sequence[str]], tables: Mapping[str, Table], *, vae_key: str, encoder_key: str,
    encoding_keys: Sequence[str] = (),
) -> LatentSet:  # fmt: skip
    """The images of `{image id: captions}` with their latents and text states, from tables `{name: table}`.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
        StoreError: The store cannot be read, or the local disk has no room.
    """
    pairs = [(image_id, caption) for image_id in sorted(captions) for caption in captions[image_id]]
    names = ("image_id", "caption")

    def choose() -> tuple[CaptionChoice, int]:
        columns = [pa.array(column, pa.large_string()) for column in zip(*pairs, strict=True)]
        return choose_captions(pa.table(columns, names=names)), 0

    return _open_copy(tables, pairs, encoding_keys or (vae_key,), encoder_key, choose)


def _captioned_rows(images: Table, captions: Table) -> pa.Table:
    """`select_captions` of the images that are in the data set."""
    rows = select_captions(captions)
    known = images.read(["image_id"])["image_id"].cast(pa.large_string())
    return rows.filter(pc.is_in(rows["image_id"], value_set=known.combine_chunks()))


def _open_copy(
    tables: Mapping[str, Table], extra: object, encoding_keys: Sequence[str], encoder_key: str,
    choose: Callable[[], tuple[CaptionChoice, int]],
) -> LatentSet:  # fmt: skip
    versions = {name: table.version for name, table in tables.items()}
    # A table has an id of its own, so that a store that was deleted and filled again is not taken for the old one.
    ids = {name: table.delta().metadata().id if table.exists else None for name, table in tables.items()}
    places = {name: table.resolve(".") for name, table in tables.items()}
    key = key_of(COPY_FORMAT, ids, places, versions, extra, list(encoding_keys), encoder_key)

    def make(folder: Path) -> None:
        choice, num_uncaptioned = choose()
        header = write_latent_files(folder, choice, tables, encoding_keys, encoder_key)
        # Written last: it also says what the files are of.
        header |= {"num_uncaptioned": num_uncaptioned, "versions": versions}
        (folder / HEADER_FILE).write_text(json.dumps(header))

    return open_latent_files(local_copy(key, make))


def open_latent_files(folder: Path) -> LatentSet:
    """The set whose files `write_latent_files` has written."""
    header = json.loads((folder / HEADER_FILE).read_text())
    shape = tuple(header["shape"])
    mean = RowFile(folder / "mean", shape)
    # For a quantised autoencoder it is a read-only view of one number.
    logvar = (
        RowFile(folder / "logvar", shape)
        if header["has_spread"]
        else np.broadcast_to(FLOAT16.type(DETERMINISTIC_LOGVAR), mean.shape)
    )
    return LatentSet(
        TextFile(folder, "image_ids"), mean, logvar, TextFile(folder, "captions"),
        IndexLists(folder, "caption_indices"), StateFile(folder, "states", header["width"]), header["empty_index"],
        header["num_uncaptioned"], header["versions"],
    )  # fmt: skip
