"""Where the rows that a training set needs lie in its tables: which row group of which file, for each row of the set.

Reading keys and shapes of all rows is cheap beside reading the tensors, and tells everything that has to be known
before the first sample: that nothing is missing, how large the files of the local copy become, and what to read for a
sample that is not there yet. A row group (100 rows of our writer) is the smallest unit that Parquet reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoji_ldm.dataset.delta.parquet_reader import cast_rows
from emoji_ldm.dataset.table import Table

READ_THREADS = 4  # files that are read at once: one stream does not use the whole bandwidth of an object store
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GroupRef:
    """A row group of a file of a table."""

    source: int  # which of the data sets
    path: str
    number: int  # of the group in the file


@dataclass(frozen=True)
class RowIndex:
    """For each of the N wanted rows, where it lies; sorted by group, as groups are what is read."""

    groups: list[GroupRef]
    group_of: NDArray[np.int32]  # (N,): index into `groups`
    order: Ints  # (N,): wanted rows, those of one group after those of the one before
    starts: Ints  # (G + 1,): where those of a group begin in `order`
    row_of: NDArray[np.int32]  # (N,): number of the row in its group, in the order of `order`
    shapes: NDArray[np.int32]  # (N, dimensions) of each wanted row


def find_rows(
    sources: Sequence[Mapping[str, Table]], name: str, wanted: Sequence[Mapping[str, Any]], dimensions: int
) -> tuple[RowIndex, NDArray[np.bool_]]:
    """Look up rows of a table in all data sets.

    Args:
        sources: The tables of each data set, `{name: table}`.
        name: Of the table.
        wanted: Per data set `keys`, the keys to look up, and `rows`, the numbers of their rows in the set.
        dimensions: Length of the column `shape`.

    Returns:
        The index, and which rows were found, `(N,)`.
    """
    size = max((int(one["rows"].max()) + 1 for one in wanted if len(one["rows"])), default=0)
    group_of, row_in = np.zeros(size, np.int32), np.zeros(size, np.int32)
    shapes, found = np.zeros((size, dimensions), np.int32), np.zeros(size, bool)
    groups: list[GroupRef] = []
    for number, (tables, one) in enumerate(zip(sources, wanted, strict=True)):
        table = tables[name]
        if not table.exists or not len(one["keys"]):
            continue
        # Sorted fixed-size keys take 16 bytes each, where a dict would take ten times as much.
        keys = np.array(one["keys"], "S16")
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]

        def read(path: str, table: Table = table) -> tuple[str, Any, Any, list[int]]:
            return path, *_keys_and_shapes(table, path, dimensions)

        with ThreadPoolExecutor(READ_THREADS) as pool:
            for path, own, own_shapes, sizes in pool.map(read, table.live_files()):
                first = len(groups)
                groups += [GroupRef(number, path, group) for group in range(len(sizes))]
                ends = np.cumsum(sizes)
                places = np.minimum(np.searchsorted(ordered, own), len(ordered) - 1)
                hits = np.flatnonzero(ordered[places] == own)
                rows = one["rows"][order[places[hits]]]
                in_file = np.searchsorted(ends, hits, side="right")
                group_of[rows], row_in[rows] = first + in_file, hits - (ends - sizes)[in_file]
                shapes[rows], found[rows] = own_shapes[hits], True
    order = np.argsort(group_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group_of, minlength=len(groups)))])
    return RowIndex(groups, group_of, order, starts, row_in[order], shapes), found


def _keys_and_shapes(table: Table, path: str, dimensions: int) -> tuple[Any, NDArray[np.int32], list[int]]:
    """Keys `(n,)` and shapes `(n, dimensions)` of a file, and how many rows each of its groups has."""
    with open_file(table, path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        rows = read_columns(file, table, range(file.num_row_groups), [table.spec.key, "shape"])
    keys = np.array(rows[table.spec.key].to_pylist(), "S16")
    shapes = rows["shape"].combine_chunks().flatten().to_numpy().reshape(len(keys), dimensions)
    return keys, shapes.astype(np.int32), sizes


@contextmanager
def open_file(table: Table, path: str) -> Iterator[pq.ParquetFile]:
    """An open file of a table; StoreError if it cannot be read."""
    with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
        yield pq.ParquetFile(stream, pre_buffer=True)  # one request for neighbouring column chunks


def read_columns(file: pq.ParquetFile, table: Table, groups: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Some columns of row groups of an open file, in the types of the table."""
    schema = pa.schema([table.spec.schema.field(name) for name in names])
    return cast_rows(file.read_row_groups(list(groups), columns=schema.names), schema)
