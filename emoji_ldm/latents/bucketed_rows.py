"""Latents of images of several shapes: one file of rows per shape, read as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.latents.local_arrays import INT16, INT32, RowFile

BUCKET_FILE, SIZES_FILE = "buckets", "sizes"
NUM_SIZES = 6  # see `buckets.size_inputs`


@dataclass(frozen=True)
class ImageBuckets:
    """The shape of each image of a set."""

    shapes: Sequence[tuple[int, ...]]  # (C, h, w) of each bucket
    bucket: NDArray[np.int16]  # (N,): index into `shapes`
    sizes: RowFile | NDArray[np.int32]  # (N, 6): size, crop and size of the bucket in pixels, see `buckets.size_inputs`


def open_buckets(folder: Path, shapes: Sequence[tuple[int, ...]]) -> ImageBuckets:
    """The buckets that `write_buckets` has written."""
    bucket = np.fromfile(folder / BUCKET_FILE, INT16)
    return ImageBuckets(shapes, bucket, RowFile(folder / SIZES_FILE, (NUM_SIZES,), INT32))


def write_buckets(folder: Path, bucket: NDArray[np.int16], sizes: NDArray[np.int32]) -> None:
    """Write the buckets and size inputs of the images of a set."""
    bucket.astype(INT16).tofile(folder / BUCKET_FILE)
    sizes.astype(INT32).tofile(folder / SIZES_FILE)


def places_in_buckets(bucket: NDArray[np.int16]) -> NDArray[np.int32]:
    """`(N,)`: how many images of its own bucket come before each image."""
    order = np.argsort(bucket, kind="stable")
    counts = np.bincount(bucket)
    found = np.empty(len(bucket), np.int32)
    found[order] = np.arange(len(bucket)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found


class BucketedRows:
    """Rows `0 ... V * N - 1` of which each has the shape of its image's bucket; those read at once have one shape."""

    def __init__(self, files: Sequence[RowFile], bucket: NDArray[np.int16]) -> None:
        """Take a file per bucket, whose rows are in the order of the images, once per encoding."""
        self.files, self.dtype, self._bucket = files, files[0].dtype, bucket
        self._places, self._counts = places_in_buckets(bucket), np.bincount(bucket, minlength=len(files))

    def __len__(self) -> int:
        return sum(map(len, self.files))

    @property
    def shape(self) -> tuple[int, ...]:
        """`(V * N, C, h, w)` with the shape of the first bucket."""
        return (len(self), *self.files[0].row_shape)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """A copy of several rows in a new first axis."""
        encodings, images = np.divmod(np.asarray(rows), len(self._bucket))
        (number,) = set(self._bucket[images].tolist())
        found: NDArray[Any] = self.files[number][encodings * self._counts[number] + self._places[images]]
        return found


class ConstantRows:
    """Rows of the shapes of other rows that all hold one number."""

    def __init__(self, rows: BucketedRows, value: np.float16) -> None:
        """Take the rows whose shapes these have."""
        self._rows, self._value = rows, value

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> NDArray[np.float16]:
        """A read-only view of the number in the shape of these rows."""
        return np.broadcast_to(self._value, self._rows[rows].shape)


def constant_rows(rows: RowFile | BucketedRows, value: np.float16) -> ConstantRows | NDArray[np.float16]:
    """Rows of the shapes of others that all hold one number; where all have one shape, a view of the number."""
    return ConstantRows(rows, value) if isinstance(rows, BucketedRows) else np.broadcast_to(value, rows.shape)
