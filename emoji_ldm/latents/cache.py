"""The cached latents and text states: their rows in the tables, and the loader that training uses.

Per image the cache holds one posterior (mean and log-variance), so that each training step can draw a fresh sample. Per
*distinct* caption it holds the token states without padding. Values are float16, little endian, in C order. Text states
are rounded to `STATE_MANTISSA_BITS`: the bits behind are noise, which compression cannot make smaller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.config import key_of
from emoji_ldm.dataset.caption_selection import good_captions as good_of_all
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store

# The byte order is named, so that rows written on one machine are read alike on every other.
FLOAT16 = np.dtype("<f2")
# Of the 10 bits of a float16 mantissa: values are exact to 1/128 of their power of two (bfloat16: 1/256).
STATE_MANTISSA_BITS = 6
# Log-variance of a posterior without spread: its standard deviation is 0 in every float type.
DETERMINISTIC_LOGVAR = -10000.0
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
    """The training data, in memory. Images and captions have the same order in every process."""

    image_ids: list[str]  # sorted
    mean: Moments  # (V * N, C, h, w), unscaled: the N images unaltered, then with each augmentation
    logvar: Moments  # likewise
    captions: list[str]  # distinct, sorted; "" is among them
    caption_indices: list[list[int]]  # per image: indices of its captions in `captions`
    states: list[Moments]  # per caption: (tokens, width), views of the columns
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
    """Every captioned image with its latents and text states.

    Args:
        store: Where the tables lie.
        vae_key: `VaeCodec.key`; latents of other autoencoders are ignored.
        encoder_key: `TextEncoder.key`, likewise.
        as_of: Tag, time or version of images and captions; their latents and states are always the newest.
        encoding_keys: Keys of all encodings, see `augmentation_keys`; empty takes `vae_key` alone.

    Raises:
        DatasetError: There is no captioned image, or one lacks its latents or text states.
    """
    tables = {
        **open_tables(store, as_of, IMAGES, CAPTIONS),
        # Latents and states are found by keys of image, caption and model, so their newest rows serve every version of
        # the images and captions.
        **{spec.name: Table(store, spec) for spec in (LATENTS, TEXT_EMBEDDINGS)},
    }
    captions = good_captions(tables["images"], tables["captions"])
    if not captions:
        raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    found = build_latent_set(captions, tables, vae_key=vae_key, encoder_key=encoder_key, encoding_keys=encoding_keys)
    return replace(found, num_uncaptioned=tables["images"].count() - len(captions))


def build_latent_set(
    captions: Mapping[str, Sequence[str]], tables: Mapping[str, Table], *, vae_key: str, encoder_key: str,
    encoding_keys: Sequence[str] = (),
) -> LatentSet:  # fmt: skip
    """The images of `{image id: captions}` with their latents and text states, read from `{name: table}`.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
    """
    # Training draws row numbers. The order is therefore fixed: a number means the same image on each rank and after
    # each resume.
    image_ids = sorted(captions)
    mean, logvar = _moments(tables["latents"], image_ids, encoding_keys or (vae_key,))
    # Caption dropout trains with the empty caption, and classifier-free guidance (arXiv 2207.12598) samples with it.
    distinct = sorted({"", *(caption for several in captions.values() for caption in several)})
    indices = {caption: index for index, caption in enumerate(distinct)}
    return LatentSet(
        image_ids, mean, logvar, distinct,
        [[indices[caption] for caption in captions[image_id]] for image_id in image_ids],
        _states(tables["text_embeddings"], distinct, encoder_key),
        indices[""],
        0,
        {name: table.version for name, table in tables.items()},
    )  # fmt: skip


def _moments(table: Table, image_ids: Sequence[str], keys: Sequence[str]) -> tuple[Moments, Moments]:
    """Means and log-variances `(V * N, C, h, w)` float16: all images of the first key, then of the next one."""
    indices = {image_id: index for index, image_id in enumerate(image_ids)}
    mean = logvar = np.empty(0, FLOAT16)
    # The encodings are read one at a time, so that beside the result only the rows of one of them are in memory.
    for number, key in enumerate(keys):
        rows = table.read(["image_id", "shape", "mean", "logvar"], filter=pc.field("vae_key") == key)
        ids = rows["image_id"].to_pylist()
        lack = f"augmented latents (number {number}) of this codec" if number else "latents of this codec"
        _check_complete("images", lack, image_ids, set(ids))
        if number == 0:
            shape = (len(keys) * len(image_ids), *rows["shape"][0].as_py())
            mean, logvar = np.empty(shape, FLOAT16), _allocate_logvar(rows["logvar"][0], shape)
        # The table also holds images that have left the data set or have no caption: their rows are passed over.
        chosen = [(row, number * len(image_ids) + indices[one]) for row, one in enumerate(ids) if one in indices]
        for column, moments in (("mean", mean), ("logvar", logvar)):
            # A read-only array is the constant of `_allocate_logvar`, which needs no values.
            if moments.flags.writeable:
                for row, index in chosen:
                    moments[index] = _as_float16(rows[column][row], shape[1:])
    return mean, logvar


def _allocate_logvar(first: pa.Scalar, shape: tuple[int, ...]) -> Moments:
    """An array for log-variances; for a quantised autoencoder a read-only view of one number, which takes no memory."""
    # One row decides for all, since the spread of a posterior is a property of the autoencoder, and all rows here are
    # of the same one. The constant is exact in float16.
    if bool((_as_float16(first, shape[1:]) <= DETERMINISTIC_LOGVAR).all()):
        return np.broadcast_to(FLOAT16.type(DETERMINISTIC_LOGVAR), shape)
    return np.empty(shape, FLOAT16)


def _as_float16(value: pa.Scalar, shape: Sequence[int]) -> Moments:
    """A view of the column's bytes, without a copy."""
    return np.frombuffer(value.as_buffer(), FLOAT16).reshape(tuple(shape))


def _states(table: Table, captions: Sequence[str], encoder_key: str) -> list[Moments]:
    rows = table.read(["caption", "shape", "hidden_states"], filter=pc.field("encoder_key") == encoder_key)
    stored = {caption: row for row, caption in enumerate(rows["caption"].to_pylist())}
    _check_complete("captions", "states of this text encoder", captions, stored)
    shapes, states = rows["shape"], rows["hidden_states"]
    # The states are views of the column: with a copy, each would be in memory twice while the set is built.
    return [_as_float16(states[stored[caption]], shapes[stored[caption]].as_py()) for caption in captions]


def _check_complete(subject: str, lack: str, required: Sequence[str], found: Collection[str]) -> None:
    missing = [key for key in required if key not in found]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(required)} {subject} have no {lack}; run: emoji-ldm latents")
