"""Rows of data files in the types of the table's schema, whoever wrote them.

Delta names types such as `string`. Arrow has several of each, and a Parquet file records which one its writer used:
files of delta-rs 1.6.6 come back as `string_view`, for which many of Arrow's functions have no implementation. So rows
are cast where they are read, and no other module has to know.

A filter needs more: Arrow compares it with the statistics in a file's footer, which have the writer's types too, and
fails if these differ from the schema's. So files of other writers are filtered after the cast.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from emoji_ldm.dataset.delta.parquet_writer import OWN_FILE_NAME, ROW_GROUP_ROWS

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def cast_rows(rows: Rows, schema: pa.Schema) -> Rows:
    """The rows with exactly the columns of `schema`; a column that the file lacks is null, as Delta has it."""
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return type(rows).from_arrays(columns, schema=schema)


def read_rows(
    sources: Sequence[str], filesystem: fs.FileSystem, schema: pa.Schema, columns: Sequence[str],
    filter: pc.Expression | None,
) -> pa.Table:  # fmt: skip
    """Some columns of the rows of these files, in their order; with a filter, of the rows that it chooses."""
    chosen = pa.schema([schema.field(name) for name in columns])
    parts = [chosen.empty_table()]
    for is_simple, group in groupby(sources, lambda source: filter is None or is_own_file(source)):
        if is_simple:
            dataset = ds.dataset(list(group), schema=schema, format="parquet", filesystem=filesystem)
            parts.append(dataset.to_table(columns=list(columns), filter=filter))
            continue
        for source in group:
            parts += _filtered(source, filesystem, schema, columns, filter)
    return pa.concat_tables(parts)


def is_own_file(path: str) -> bool:
    """Whether this library wrote a data file, by its name."""
    return OWN_FILE_NAME.fullmatch(posixpath.basename(path)) is not None


def _filtered(
    source: str, filesystem: fs.FileSystem, schema: pa.Schema, columns: Sequence[str], filter: pc.Expression
) -> Iterator[pa.Table]:
    # An expression does not tell which columns it needs. Filters compare texts, numbers and times, which are small
    # beside the images and tensors of these tables, so all of those are read.
    needed = pa.schema([field for field in schema if field.name in columns or not _is_large(field.type)])
    with filesystem.open_input_file(source) as stream:
        for batch in iter_batches(pq.ParquetFile(stream), needed, ROW_GROUP_ROWS):
            yield pa.Table.from_batches([batch]).filter(filter).select(list(columns))


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_struct(kind))


def read_groups(stream: pa.NativeFile, schema: pa.Schema, groups_per_read: int) -> Iterator[pa.Table]:
    """The rows of an open file, some row groups at a time, with the columns of `schema`."""
    file = pq.ParquetFile(stream, pre_buffer=True)  # one request for neighbouring column chunks
    # Row groups are the smallest unit that Parquet reads.
    for start in range(0, file.num_row_groups, groups_per_read):
        groups = list(range(start, min(start + groups_per_read, file.num_row_groups)))
        yield cast_rows(file.read_row_groups(groups, columns=schema.names), schema)


def iter_batches(file: pq.ParquetFile, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of an open file in batches of at most `batch_rows`, with the columns of `schema`."""
    for batch in file.iter_batches(batch_rows, columns=[name for name in schema.names if _has(file, name)]):
        yield cast_rows(batch, schema)


def _has(file: pq.ParquetFile, name: str) -> bool:
    return name in file.schema_arrow.names
