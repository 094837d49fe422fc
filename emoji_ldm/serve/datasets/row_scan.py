"""Rows of a table in order, from any place on: of the first row group at once, of what follows many at a time.

A page without a filter is in one row group. A search may go through the whole table, whose files are small after a
crawl: those are read side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import pyarrow as pa
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.parquet_reader import cast_rows
from emoji_ldm.dataset.table import Table

FILES_AT_ONCE = 16
FILES = ThreadPoolExecutor(FILES_AT_ONCE, "dataset-files")
SMALL_ROWS = 500  # of a file that is read as a whole
GROUPS_PER_READ = 50  # row groups of a large file: 5,000 rows without their images, 2 MB

Place = tuple[int, int]  # number of the file, number of the row in it


def scan_rows(table: Table, columns: Sequence[str], start: Place = (0, 0)) -> Iterator[tuple[Place, pa.Table]]:
    """Yield (place of the first row, rows) in the order of the files.

    Args:
        table: Of one version, in which the order of the files never changes.
        columns: Without images, whose bytes would all be read.
        start: Where to begin.
    """
    schema, files = pa.schema([table.spec.schema.field(name) for name in columns]), table.live_files()
    paths, number, first = list(files), *start
    if number < len(paths):
        for begins, rows in _large_file(table, paths[number], schema, first):
            yield (number, begins), rows
    number += 1
    while number < len(paths):
        chunk = list(takewhile(lambda path: files[path].num_rows <= SMALL_ROWS, paths[number : number + FILES_AT_ONCE]))
        if not chunk:
            for begins, rows in _large_file(table, paths[number], schema):
                yield (number, begins), rows
        for offset, rows in enumerate(FILES.map(lambda path: _small_file(table, path, schema), chunk)):
            yield (number + offset, 0), rows
        number += len(chunk) or 1


def _small_file(table: Table, path: str, schema: pa.Schema) -> pa.Table:
    with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        return cast_rows(file.read(columns=known_columns(file, schema)), schema)


def _large_file(table: Table, path: str, schema: pa.Schema, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
    with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        groups = [each for each in row_groups(file) if each[1] + each[2] > first]
        # The first group alone, since most pages end in it.
        for part in [groups[:1], *(groups[at : at + GROUPS_PER_READ] for at in range(1, len(groups), GROUPS_PER_READ))]:
            if not part:
                return
            names, begins = [group for group, _, _ in part], part[0][1]
            rows = cast_rows(file.read_row_groups(names, columns=known_columns(file, schema)), schema)
            skipped = max(0, first - begins)
            yield begins + skipped, rows.slice(skipped)


def row_groups(file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first row, rows) of the row groups of an open file."""
    start = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        yield group, start, count
        start += count


def known_columns(file: pq.ParquetFile, schema: pa.Schema) -> list[str]:
    """Return which columns of the schema a file has: one of another writer may lack some, which are null then."""
    return [name for name in schema.names if name in file.schema_arrow.names]
