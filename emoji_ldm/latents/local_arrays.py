"""Arrays in files of a local disk that are read row by row: what training reads at random, without holding it.

They stand where lists and numpy arrays could stand as well (`latents[rows]`, `captions[index]`), so that training does
not know which of the two it has. The files are read by `pread` and not mapped into memory: pages of a mapped file
count as memory of each process that touched them, while the system's file cache is shared and given up under pressure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import StoreError

# The byte order is named, so that rows written on one machine are read alike on every other.
FLOAT16 = np.dtype("<f2")
INT16, INT32, INT64 = np.dtype("<i2"), np.dtype("<i4"), np.dtype("<i8")
BLOCK_ROWS = 4096  # rows that an iteration reads at once
Rows = int | Sequence[int] | NDArray[np.int64]


class RowFile:
    """Rows of one shape and type, in a file without a header; indexing copies rows out of it."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT16) -> None:
        self.path, self.row_shape, self.dtype = path, shape, dtype
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        # The stream is kept for its descriptor. Whoever deletes the file meanwhile does not take it away.
        self._stream = path.open("rb", buffering=0)
        self._length = os.fstat(self._stream.fileno()).st_size // self.row_bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`, as of an array."""
        return (self._length, *self.row_shape)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """A copy of one row, or of several in a new first axis; IndexError beyond the last one."""
        if isinstance(rows, int | np.integer):
            return self.block(int(rows), 1).reshape(self.row_shape)
        found = np.empty((len(rows), *self.row_shape), self.dtype)
        parts = found.reshape(len(rows), self.row_bytes // self.dtype.itemsize)
        for number, row in enumerate(rows):
            self._read(parts[number], int(row))
        return found

    def block(self, first: int, count: int) -> NDArray[Any]:
        """A copy of `count` rows from `first` on, read at once."""
        found = np.empty((count, *self.row_shape), self.dtype)
        self._read(found.reshape(-1), first)
        return found

    def _read(self, buffer: NDArray[Any], row: int) -> None:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self._length}")
        if os.preadv(self._stream.fileno(), [buffer.data], row * self.row_bytes) != buffer.nbytes:
            raise StoreError(f"the local copy of the latents {self.path.parent} is damaged; delete it and run again")


class BytesFile:
    """Values of any length: their bytes one after another, and per value where they begin and end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.spans = RowFile(folder / f"{name}.spans", (2,), INT64)
        self._bytes = (folder / f"{name}.bytes").open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, index: int) -> bytes:
        """The bytes of one value."""
        first, last = self.spans[int(index) + (len(self) if index < 0 else 0)]
        return os.pread(self._bytes.fileno(), int(last - first), int(first))

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), BLOCK_ROWS):
            for first, last in self.spans.block(start, min(BLOCK_ROWS, len(self) - start)).tolist():
                yield os.pread(self._bytes.fileno(), last - first, first)


class TextFile(Sequence[str]):
    """Texts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._values = BytesFile(folder, name)

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._values.read(index).decode()

    def __iter__(self) -> Iterator[str]:
        return (value.decode() for value in self._values)


class IndexLists(Sequence[list[int]]):
    """Lists of numbers, such as the captions of each image."""

    def __init__(self, folder: Path, name: str) -> None:
        self._values = BytesFile(folder, name)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return np.frombuffer(self._values.read(index), INT32).tolist()


class StateFile(Sequence[NDArray[np.float16]]):
    """Token states `(tokens, width)` float16."""

    def __init__(self, folder: Path, name: str, width: int) -> None:
        self._values, self.width = BytesFile(folder, name), width

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return np.frombuffer(self._values.read(index), FLOAT16).reshape(-1, self.width)


def write_values(folder: Path, name: str, values: Iterable[bytes]) -> None:
    """Write values of any length, in their order, for `BytesFile`."""
    position = 0
    with (folder / f"{name}.bytes").open("wb") as data, (folder / f"{name}.spans").open("wb") as spans:
        for value in values:
            data.write(value)
            spans.write(np.array([position, position + len(value)], INT64).tobytes())
            position += len(value)
