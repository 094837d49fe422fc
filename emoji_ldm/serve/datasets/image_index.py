"""Where the rows of an image are in each table, and how many rows of each kind a table has.

A page shows the captions and outcomes of 60 images out of perhaps a million. The place of each row is kept by file, 12
bytes a row, and computed together with the counts, so that each file is opened once (`file_facts`). What is read then
is a row group of 100 rows, never a whole file of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoji_ldm.dataset.delta.parquet_reader import cast_rows
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES
from emoji_ldm.serve.datasets.file_facts import FileFacts
from emoji_ldm.serve.datasets.row_scan import FILES, known_columns, row_groups

MAX_INDEXED_ROWS = 8_000_000  # of all files in memory: about 100 MB
ID = "image_id"
# The pairs of values that are counted.
KINDS: Mapping[str, tuple[str, ...]] = {
    IMAGES.name: (), CAPTIONS.name: ("engine", "status"), OUTCOMES.name: ("kind", "outcome"),
}  # fmt: skip

Places = Mapping[str, Sequence[int]]  # {data file: rows, ascending}
Kinds = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class FileIndex:
    """The rows of one file by the hash of their image, and how many there are of each kind."""

    hashes: NDArray[np.int64]  # ascending
    rows: NDArray[np.int32]
    kinds: Kinds

    @classmethod
    def of(cls, rows: pa.Table) -> FileIndex:
        """Index these rows: the id of the image, and the columns of their kind."""
        # Null counts as a value that nobody asks for.
        hashes = np.fromiter(map(hash, rows[ID].to_pylist()), np.int64, rows.num_rows)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        return cls(hashes[order], order, _count_kinds(rows.drop_columns([ID])))

    def find(self, wanted: NDArray[np.int64]) -> list[int]:
        """Return the rows of these hashes, ascending."""
        first, last = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))
        # Few values are asked for, and most files hold none of them.
        found = [self.rows[start:end] for start, end in zip(first, last, strict=True) if end > start]
        return sorted(int(row) for part in found for row in part)


INDEX = FileFacts(FileIndex.of, MAX_INDEXED_ROWS)


def file_indexes(table: Table) -> Mapping[str, FileIndex]:
    """Return the index of each file of `images`, `captions` or `outcomes`, {path: index}."""
    return INDEX.of(table, ID, *KINDS[table.spec.name])


def count_kinds(table: Table) -> dict[str, dict[str, int]]:
    """Return the rows of `captions` by engine and status, or of `outcomes` by kind and outcome, most frequent first."""
    total, found = Kinds(), dict[str, dict[str, int]]()
    for file in file_indexes(table).values():
        total.update(file.kinds)
    for (outer, inner), number in total.most_common():
        found.setdefault(outer, {})[inner] = number
    return found


def find_rows(table: Table, ids: Collection[str]) -> Places:
    """Return the places of all rows of these images; a hash in common may add a row of another one."""
    # Python's hash has a key of this process, which nobody outside knows, so nobody can make values collide.
    wanted = np.array(sorted({hash(each) for each in ids}), np.int64)
    places = {path: file.find(wanted) for path, file in file_indexes(table).items()}
    return {path: rows for path, rows in places.items() if rows}


def read_rows(table: Table, ids: Collection[str], columns: Sequence[str]) -> pa.Table:
    """Return the rows of these images; `columns` contains `image_id`."""
    found = read_places(table, find_rows(table, ids), columns)
    return found.filter(pc.is_in(found[ID], value_set=pa.array(list(ids), pa.string())))


def read_places(table: Table, places: Places, columns: Sequence[str]) -> pa.Table:
    """Return the rows at these places, reading only the row groups that hold them."""
    schema = pa.schema([table.spec.schema.field(name) for name in columns])

    def read(path: str) -> pa.Table:
        with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
            return _rows_of(pq.ParquetFile(stream, pre_buffer=True), schema, places[path])

    # The captions of a page may lie in as many files as it has images, each some requests away.
    return pa.concat_tables([schema.empty_table(), *FILES.map(read, places)])


def _rows_of(file: pq.ParquetFile, schema: pa.Schema, rows: Sequence[int]) -> pa.Table:
    groups, places, num_before = list[int](), list[int](), 0
    for group, start, count in row_groups(file):
        inside = [row - start + num_before for row in rows if start <= row < start + count]
        if inside:
            groups.append(group)
            places += inside
            num_before += count
    return cast_rows(file.read_row_groups(groups, columns=known_columns(file, schema)), schema).take(places)


def _count_kinds(rows: pa.Table) -> Kinds:
    if not rows.num_columns:
        return Kinds()
    found = rows.group_by(rows.column_names).aggregate([([], "count_all")]).to_pydict()
    numbers = found.pop("count_all")
    # Null counts as an empty text.
    kinds = zip(*([value or "" for value in column] for column in found.values()), strict=True)
    return Kinds(dict(zip(kinds, numbers, strict=True)))
