"""Where the rows of a value are: an index over a text column of a table, such as `image_id` of `captions`.

A page shows the captions and outcomes of 60 images out of perhaps a million. Data files never change, so the place of
each row is kept by file, 12 bytes a row, for the files that were asked for last; a new version of a table reads the
column of its new files alone. What is read then is a row group of 100 rows, never a whole file of images.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoji_ldm.dataset.delta.parquet_reader import cast_rows
from emoji_ldm.dataset.table import Table

MAX_INDEXED_ROWS = 8_000_000  # of all files in memory: about 100 MB
GROUPS_PER_READ = 500  # row groups of a text column, 3 MB

Places = Mapping[str, Sequence[int]]  # {data file: rows, ascending}


@dataclass(frozen=True)
class _FileRows:
    """The rows of one file by the hash of a column."""

    hashes: NDArray[np.int64]  # ascending
    rows: NDArray[np.int32]

    def find(self, wanted: NDArray[np.int64]) -> list[int]:
        """Return the rows of these hashes, ascending."""
        first, last = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))
        # Few values are asked for, and most files hold none of them.
        found = [self.rows[start:end] for start, end in zip(first, last, strict=True) if end > start]
        return sorted(int(row) for part in found for row in part)


class KeyIndex:
    """Finds rows by values of a text column; one for all tables and threads of a process."""

    def __init__(self) -> None:
        self._files = OrderedDict[tuple[str, str], _FileRows]()  # by path in the file system and column
        self._lock = threading.Lock()

    def find(self, table: Table, column: str, values: Collection[str]) -> Places:
        """Return the places of all rows with one of these values; a hash in common may add a row of another value."""
        # Python's hash has a key of this process, which nobody outside knows, so nobody can make values collide.
        wanted = np.array(sorted({hash(value) for value in values}), np.int64)
        places = {path: self._file(table, path, column).find(wanted) for path in table.live_files()}
        return {path: rows for path, rows in places.items() if rows}

    def read(self, table: Table, column: str, values: Collection[str], columns: Sequence[str]) -> pa.Table:
        """Return the rows with one of these values; `columns` contains the column."""
        found = read_places(table, self.find(table, column, values), columns)
        return found.filter(pc.is_in(found[column], value_set=pa.array(list(values), pa.string())))

    def _file(self, table: Table, path: str, column: str) -> _FileRows:
        key = table.resolve(path), column
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        rows = _index_file(table, path, column)
        with self._lock:
            self._files[key] = rows
            while len(self._files) > 1 and sum(len(each.rows) for each in self._files.values()) > MAX_INDEXED_ROWS:
                self._files.popitem(last=False)
        return rows


def _index_file(table: Table, path: str, column: str) -> _FileRows:
    batches = table.batches([column], paths=[path], batch_rows=10_000, groups_per_read=GROUPS_PER_READ)
    # Null counts as a value that nobody asks for.
    parts = [np.fromiter(map(hash, batch.column(0).to_pylist()), np.int64, batch.num_rows) for batch in batches]
    hashes = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    return _FileRows(hashes[order], order)


def read_places(table: Table, places: Places, columns: Sequence[str]) -> pa.Table:
    """Return the rows at these places, reading only the row groups that hold them."""
    schema = pa.schema([table.spec.schema.field(name) for name in columns])
    parts = [schema.empty_table()]
    for path, rows in places.items():
        with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
            parts += _rows_of(pq.ParquetFile(stream), schema, rows)
    return pa.concat_tables(parts)


def _rows_of(file: pq.ParquetFile, schema: pa.Schema, rows: Sequence[int]) -> Iterator[pa.Table]:
    for group, start, count in row_groups(file):
        inside = [row - start for row in rows if start <= row < start + count]
        if inside:
            yield cast_rows(file.read_row_group(group, columns=_names(file, schema)), schema).take(inside)


def row_groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first row, rows) of the row groups of an open file."""
    start = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        yield group, start, count
        start += count


def scan_rows(
    table: Table, columns: Sequence[str], start: tuple[int, int] = (0, 0)
) -> Iterator[tuple[tuple[int, int], list[dict[str, Any]]]]:
    """Yield (place of the first row, rows) by row group, in the order of the files.

    Args:
        table: Of one version, in which the order of the files never changes.
        columns: Without images, whose bytes would all be read.
        start: Number of the file and of the row to begin with.
    """
    schema = pa.schema([table.spec.schema.field(name) for name in columns])
    for number, path in list(enumerate(table.live_files()))[start[0] :]:
        first = start[1] if number == start[0] else 0
        with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
            file = pq.ParquetFile(stream)
            for group, begins, count in row_groups(file):
                if begins + count <= first:
                    continue
                rows = cast_rows(file.read_row_group(group, columns=_names(file, schema)), schema)
                skipped = max(0, first - begins)
                yield (number, begins + skipped), rows.slice(skipped).to_pylist()


def _names(file: pq.ParquetFile, schema: pa.Schema) -> list[str]:
    # A file of another writer may lack a column, which is null then.
    return [name for name in schema.names if name in file.schema_arrow.names]
