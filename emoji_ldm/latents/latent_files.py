"""The local files of a latent set: written from the tables in one pass, and described by a small header.

1. choose: the captioned images and their distinct captions, sorted, so that a number means the same sample everywhere
2. look up: each row of the tables whose key is wanted is written to its place; several files are read at once
3. check: what was wanted and not found is an error that names the command to run

Memory holds keys (about 40 bytes per sample) and a few hundred rows, never the tensors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.config import key_of
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.local_arrays import FLOAT16, INT32, INT64, write_values
from emoji_ldm.latents.local_copy import require_space
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

READ_THREADS = 4  # files that are read at once: one stream does not use the whole bandwidth of an object store
# Log-variance of a posterior without spread: its standard deviation is 0 in every float type.
DETERMINISTIC_LOGVAR = -10000.0


@dataclass(frozen=True)
class ImageChoice:
    """The images of one data set to train on, with their captions; images are sorted."""

    image_ids: Sequence[str]
    captions: pa.ChunkedArray  # large_string, those of one image after those of the one before
    offsets: NDArray[np.int64]  # (images + 1,) where the captions of an image begin
    num_images: int  # in the data set, captioned or not


def write_latent_files(
    folder: Path, choices: Sequence[ImageChoice], sources: Sequence[Mapping[str, Table]], encoding_keys: Sequence[str],
    encoder_key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write all files of a set into an empty folder; returns what a reader of them has to know.

    Args:
        folder: Where to write.
        choices: The images of each data set, which follow one another in the set.
        sources: The tables of each data set, `{name: table}`.
        encoding_keys: Keys of the autoencoder, of all encodings.
        encoder_key: Key of the text encoder.

    Raises:
        DatasetError: An image lacks its latents, or a caption its states.
        StoreError: The disk has no room.
    """
    captions = _distinct_captions(choices)
    moments = _write_moments(folder, choices, sources, encoding_keys)
    width = _write_states(folder, captions, sources, encoder_key)
    write_values(folder, "image_ids", (image_id.encode() for one in choices for image_id in one.image_ids))
    write_values(folder, "captions", (caption.encode() for caption in captions.to_pylist()))
    write_values(folder, "caption_indices", _caption_indices(choices, captions))
    empty = pc.index(captions, pa.scalar("", captions.type)).as_py()
    return {"shape": moments.shape, "width": width, "has_spread": moments.has_spread, "empty_index": empty}


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


def _write_moments(
    folder: Path, choices: Sequence[ImageChoice], sources: Sequence[Mapping[str, Table]], encoding_keys: Sequence[str]
) -> _MomentsWriter:
    """Write the latents: all images of the first encoding, then of the next one."""
    num_rows = sum(len(one.image_ids) for one in choices)
    writer, first = _MomentsWriter(folder, num_rows * len(encoding_keys)), 0
    for one, tables in zip(choices, sources, strict=True):
        num_images = len(one.image_ids)
        wanted = [key_of(image_id, key) for key in encoding_keys for image_id in one.image_ids]

        def write(position: int, row: Sequence[Any], num_images: int = num_images, first: int = first) -> None:
            encoding, image = divmod(position, num_images)
            writer.write(encoding * num_rows + first + image, row)

        found = _copy_rows(tables[LATENTS.name], wanted, ["shape", "mean", "logvar"], write)
        for number in range(len(encoding_keys)):
            lack = f"augmented latents (number {number}) of this codec" if number else "latents of this codec"
            _check_complete(tables[LATENTS.name], "images", lack,
                            found[number * num_images : (number + 1) * num_images])  # fmt: skip
        first += num_images
    writer.close()
    return writer


def _write_states(folder: Path, captions: pa.Array, sources: Sequence[Mapping[str, Table]], encoder_key: str) -> int:
    """Write the token states of all captions, from whichever table has them; returns their width."""
    writer, keys = _StatesWriter(folder, len(captions)), [key_of(text, encoder_key) for text in captions.to_pylist()]
    found = np.zeros(len(keys), bool)
    for tables in sources:
        found |= _copy_rows(tables[TEXT_EMBEDDINGS.name], keys, ["shape", "hidden_states"], writer.write)
    _check_complete(sources[-1][TEXT_EMBEDDINGS.name], "captions", "states of this text encoder", found)
    return writer.close()


def _copy_rows(table: Table, keys: Sequence[str], columns: Sequence[str], write: Any) -> NDArray[np.bool_]:
    """Give `write(position in keys, row)` each row whose key is wanted; `(len(keys),)` which were found."""
    # Sorted fixed-size keys take 16 bytes each, where a dict would take ten times as much.
    names = np.array(keys, "S16")
    order = np.argsort(names, kind="stable")
    ordered, found = names[order], np.zeros(len(keys), bool)

    def copy(path: str) -> None:
        for batch in table.batches([table.spec.key, *columns], paths=[path], groups_per_read=2):
            own = np.array(batch.column(0).to_pylist(), "S16")
            places = np.minimum(np.searchsorted(ordered, own), len(ordered) - 1)
            for row in np.flatnonzero(ordered[places] == own).tolist():
                position = int(order[places[row]])
                write(position, [batch.column(number + 1)[row] for number in range(len(columns))])
                found[position] = True

    if table.exists and len(keys):
        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(copy, table.live_files()))
    return found


class _MomentsWriter:
    """Means and log-variances at their places in two files; threads write different places."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.folder, self.num_rows = folder, num_rows
        self.shape: list[int] = []
        self.has_spread = True
        self._lock = threading.Lock()
        self._streams: list[Any] = []

    def write(self, position: int, row: Sequence[Any]) -> None:
        shape, mean, logvar = row
        if not self._streams:
            with self._lock:
                self._open(shape.as_py(), logvar)
        data = mean.as_buffer()
        if len(data) != self._row_bytes:
            raise DatasetError(f"an image has latents of shape {shape.as_py()}, others of {self.shape}; "
                               "encode all at one size: emoji-ldm latents")  # fmt: skip
        for stream, value in zip(self._streams, (data, logvar.as_buffer()), strict=False):
            os.pwrite(stream.fileno(), value, position * self._row_bytes)

    def _open(self, shape: list[int], logvar: Any) -> None:
        if self._streams:  # another thread was first
            return
        self.shape = shape
        self._row_bytes = int(np.prod(shape)) * FLOAT16.itemsize
        # One row decides for all, since the spread of a posterior is a property of the autoencoder, and all rows here
        # are of the same one. The constant is exact in float16.
        self.has_spread = not bool((np.frombuffer(logvar.as_buffer(), FLOAT16) <= DETERMINISTIC_LOGVAR).all())
        names = ["mean", "logvar"] if self.has_spread else ["mean"]
        require_space(self.folder, len(names) * self.num_rows * self._row_bytes)
        self._streams = [(self.folder / name).open("wb", buffering=0) for name in names]

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


class _StatesWriter:
    """Token states in the order in which they come, and where those of each caption lie."""

    def __init__(self, folder: Path, num_captions: int) -> None:
        self.folder = folder
        self._stream = (folder / "states.bytes").open("wb")
        self._spans = np.zeros((num_captions, 2), INT64)
        self._lock = threading.Lock()
        self._width = 0

    def write(self, position: int, row: Sequence[Any]) -> None:
        shape, states = row
        data = states.as_buffer()
        with self._lock:
            begin = self._stream.tell()
            self._stream.write(data)
            self._spans[position] = begin, begin + len(data)
            self._width = int(shape.as_py()[-1])

    def close(self) -> int:
        """The width of the states."""
        self._stream.close()
        (self.folder / "states.spans").write_bytes(self._spans.tobytes())
        return self._width


def _check_complete(table: Table, subject: str, lack: str, found: NDArray[np.bool_]) -> None:
    if missing := int((~found).sum()):
        raise DatasetError(
            f"{missing} of {len(found)} {subject} have no {lack} in {table.store.uri}; run: emoji-ldm latents"
        )
