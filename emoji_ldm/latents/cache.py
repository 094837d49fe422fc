"""How latents and text states lie in their tables, and the loader that training uses.

Per image one posterior (mean and log-variance), so that each step can draw a fresh sample;
per *distinct* caption its states without padding, so that text costs little more than
its words. Values are float16, little endian, in C order; states are rounded to `STATE_BITS`,
as what is cut off is noise that no compression makes smaller.
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
from emoji_ldm.dataset.versions.refs import open_at
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store

FLOAT16 = np.dtype("<f2")
STATE_MANTISSA_BITS = (
    6  # of the 10 of a mantissa: each value is right to 1/128 of its power of two, as bfloat16 has it to 1/256
)
DETERMINISTIC_LOGVAR = (
    -10000.0
)  # log-variance of a posterior without any: its standard deviation is 0 in every float type
Floats = NDArray[np.float32]
Moments = NDArray[np.float16]


def latent_id(image_id: str, codec_key: str) -> str:
    """Key of a row of `latents`."""
    return key_of(image_id, codec_key)


def text_id(caption: str, encoder_key: str) -> str:
    """Key of a row of `texts`."""
    return key_of(caption, encoder_key)


def to_bytes(values: Floats) -> bytes:
    """Values as float16 bytes; what float16 cannot hold becomes its largest value."""
    limit = float(np.finfo(FLOAT16).max)
    return np.clip(values, -limit, limit).astype(FLOAT16).tobytes()


def text_state_bytes(states: Floats) -> bytes:
    """As `to_bytes`, rounded to `STATE_BITS`, ties away from zero: the Parquet file is a fifth smaller by that."""
    cut = np.finfo(FLOAT16).nmant - STATE_MANTISSA_BITS
    largest = np.array(0x7BFF >> cut << cut, np.uint16).view(FLOAT16)  # beyond it one would round to infinity
    bits = np.clip(states, -float(largest), float(largest)).astype(FLOAT16).view(np.uint16)
    return (bits + np.uint16(1 << (cut - 1)) >> cut << cut).astype("<u2").tobytes()


def latent_rows(image_ids: Sequence[str], codec_key: str, mean: Floats, logvar: Floats) -> pa.Table:
    """Rows of `latents` for images with posteriors `(N, C, h, w)`."""
    rows = [
        {"latent_id": latent_id(image_id, codec_key), "image_id": image_id, "codec_key": codec_key,
         "shape": list(one_mean.shape), "mean": to_bytes(one_mean), "logvar": to_bytes(one_logvar)}
        for image_id, one_mean, one_logvar in zip(image_ids, mean, logvar, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=LATENTS.schema)


def text_rows(captions: Sequence[str], encoder_key: str, states: Sequence[Floats]) -> pa.Table:
    """Rows of `texts` for captions with states `(tokens, width)`."""
    rows = [
        {"text_id": text_id(caption, encoder_key), "caption": caption, "encoder_key": encoder_key,
         "shape": list(state.shape), "states": text_state_bytes(state)}
        for caption, state in zip(captions, states, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TEXT_EMBEDDINGS.schema)


def good_captions(images: Table, captions: Table) -> dict[str, list[str]]:
    """Good captions per image that is in the data set, by `emoji_ldm.dataset.caption_selection`, sorted by image."""
    known, found = images.keys(), good_of_all(captions)
    return {image_id: found[image_id] for image_id in sorted(found) if image_id in known}


@dataclass(frozen=True)
class LatentSet:
    """All that training reads, in memory. Images and captions have the same order in every process."""

    image_ids: list[str]  # sorted
    mean: Moments  # (V * N, C, h, w), raw: the N images as they are, then as each altered variant has them
    logvar: Moments  # likewise
    captions: list[str]  # distinct, sorted; "" is among them
    caption_index: list[list[int]]  # per image: its captions' places in `captions`
    states: list[Moments]  # per caption: (tokens, width), views of what was read
    empty_index: int  # of "", for classifier-free guidance
    num_uncaptioned: int  # images left out because they have no good caption
    versions: dict[str, int]  # {table: version read}

    def sample(self, rows: NDArray[np.int64], noise: Floats, variants: NDArray[np.float64]) -> Floats:
        """Posterior samples `(n, C, h, w)` float32, raw.

        Args:
            rows: `(n,)` places in `image_ids`.
            noise: `(n, C, h, w)`, unit Gaussian.
            variants: `(n,)` in [0, 1), which of an image's encodings is taken; 0 is the image as it is.
        """
        num_images = len(self.image_ids)
        rows = rows + num_images * (variants * (len(self.mean) // num_images)).astype(np.int64)
        mean, logvar = (moments[rows].astype(np.float32) for moments in (self.mean, self.logvar))
        sample: Floats = mean + np.exp(0.5 * logvar) * noise
        return sample


def load_latent_set(
    store: Store, *, codec_key: str, encoder_key: str, at: str | None = None, variant_keys: Sequence[str] = ()
) -> LatentSet:
    """Every captioned image with its latents and text states.

    Args:
        store: Where the tables lie.
        codec_key: `Codec.key`: latents of other codecs are not seen.
        encoder_key: `TextEncoder.key`, likewise.
        at: Tag, time or version of images and captions; latents and states, which belong to them, are the newest.
        variant_keys: Keys of all encodings (`variants.variant_keys`); empty takes `codec_key` alone.

    Raises:
        DatasetError: There is no captioned image, or one lacks its latents or text states.
    """
    tables = {
        **open_at(store, at, IMAGES, CAPTIONS),
        **{spec.name: Table(store, spec) for spec in (LATENTS, TEXT_EMBEDDINGS)},
    }
    captions = good_captions(tables["images"], tables["captions"])
    if not captions:
        raise DatasetError(f"{store.uri} has no captioned image; run: emoji-ldm caption")
    found = build_latent_set(captions, tables, codec_key=codec_key, encoder_key=encoder_key, variant_keys=variant_keys)
    return replace(found, num_uncaptioned=tables["images"].count() - len(captions))


def build_latent_set(
    captions: Mapping[str, Sequence[str]], tables: Mapping[str, Table], *, codec_key: str, encoder_key: str,
    variant_keys: Sequence[str] = (),
) -> LatentSet:  # fmt: skip
    """The images `{image id: captions}` with their latents and text states, read from `tables` by name.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
    """
    image_ids = sorted(captions)
    mean, logvar = _moments(tables["latents"], image_ids, variant_keys or (codec_key,))
    distinct = sorted({"", *(caption for several in captions.values() for caption in several)})
    place = {caption: number for number, caption in enumerate(distinct)}
    return LatentSet(
        image_ids, mean, logvar, distinct,
        [[place[caption] for caption in captions[image_id]] for image_id in image_ids],
        _states(tables["texts"], distinct, encoder_key),
        place[""],
        0,
        {name: table.version for name, table in tables.items()},
    )  # fmt: skip


def _moments(table: Table, image_ids: Sequence[str], keys: Sequence[str]) -> tuple[Moments, Moments]:
    """Means and log-variances `(V * N, C, h, w)` float16, one key's images after the other's."""
    places = {image_id: number for number, image_id in enumerate(image_ids)}
    mean = logvar = np.empty(0, FLOAT16)
    for number, key in enumerate(keys):
        rows = table.read(["image_id", "shape", "mean", "logvar"], filter=pc.field("codec_key") == key)
        ids = rows["image_id"].to_pylist()
        lack = f"altered latents (variant {number}) of this codec" if number else "latents of this codec"
        _check_complete("images", lack, image_ids, set(ids))
        if number == 0:
            shape = (len(keys) * len(image_ids), *rows["shape"][0].as_py())
            mean, logvar = np.empty(shape, FLOAT16), _allocate_logvar(rows["logvar"][0], shape)
        chosen = [(row, number * len(image_ids) + places[one]) for row, one in enumerate(ids) if one in places]
        for column, moments in (("mean", mean), ("logvar", logvar)):
            if moments.flags.writeable:
                for row, place in chosen:
                    moments[place] = _as_float16(rows[column][row], shape[1:])
    return mean, logvar


def _allocate_logvar(first: pa.Scalar, shape: tuple[int, ...]) -> Moments:
    """An array for log-variances; where a quantised codec gives none, one number that looks like all of them."""
    if bool((_as_float16(first, shape[1:]) <= DETERMINISTIC_LOGVAR).all()):
        return np.broadcast_to(FLOAT16.type(DETERMINISTIC_LOGVAR), shape)
    return np.empty(shape, FLOAT16)


def _as_float16(value: pa.Scalar, shape: Sequence[int]) -> Moments:
    """The stored numbers themselves: a view of the column."""
    return np.frombuffer(value.as_buffer(), FLOAT16).reshape(tuple(shape))


def _states(table: Table, captions: Sequence[str], encoder_key: str) -> list[Moments]:
    rows = table.read(["caption", "shape", "states"], filter=pc.field("encoder_key") == encoder_key)
    places = {caption: row for row, caption in enumerate(rows["caption"].to_pylist())}
    _check_complete("captions", "states of this text encoder", captions, places)
    shapes, states = rows["shape"], rows["states"]
    return [_as_float16(states[places[caption]], shapes[places[caption]].as_py()) for caption in captions]


def _check_complete(things: str, lack: str, wanted: Sequence[str], found: Collection[str]) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(wanted)} {things} have no {lack}; run: emoji-ldm latents")
