"""Parquet files of a table: written under new names, with the statistics that their log entry will hold.

A data file is never changed, and it belongs to a table only once a log entry names it. A worker that dies therefore
leaves an orphan for `dataset vacuum`, never a row.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store

# A row group is the smallest unit that a reader can fetch. Hugging Face's viewer recommends 100 rows for images,
# because it loads whole groups to show a page.
ROW_GROUP_ROWS = 100
# How data files of this library are named. Other Delta writers add a number and a compression to the name.
OWN_FILE_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")
# Much smaller files cost readers a request each; much larger ones make an upsert, which rewrites whole files,
# expensive.
TARGET_FILE_BYTES = 128 * 2**20
# No code of this project reads these bounds. They are for other Delta engines, such as Spark or DuckDB, which skip the
# files whose bounds exclude the URL that a query asks for.
EXTRA_BOUNDED_COLUMNS = ("source_url", "url")


@dataclass(frozen=True)
class DataFile:
    """A Parquet file as its log entry describes it, committed or not yet."""

    path: str  # relative to the table's folder; on a branch it may start with ../ and point into another table folder
    size: int  # bytes
    num_rows: int
    stats: str  # Delta statistics, JSON

    def to_json(self) -> str:
        """The facts as one line, to be sent between processes."""
        return json.dumps(asdict(self))

    def bounds(self, column: str) -> tuple[str, str] | None:
        """Smallest and largest value of a column; None if the statistics do not include it."""
        stats = json.loads(self.stats)
        low, high = stats.get("minValues", {}).get(column), stats.get("maxValues", {}).get(column)
        return None if low is None or high is None else (low, high)


def write_files(store: Store, folder: str, spec: TableSpec, tables: Iterable[pa.Table],
                *, file_bytes: int | None = TARGET_FILE_BYTES) -> Iterator[DataFile]:  # fmt: skip
    """Stream rows into files with row groups of 100 rows; memory holds one row group besides the input.

    Args:
        store: The store that holds the folder.
        folder: The table's folder, as a path inside the store's file system.
        spec: Schema that the rows are cast to.
        tables: The rows, in portions of any size; no rows give no file.
        file_bytes: A file is closed once it is this large; None makes one file.

    Raises:
        StoreError: The store cannot be written.
    """
    file: _ParquetFileWriter | None = None
    try:
        # S3 has no folders; a marker object for one would show up in listings as a file of zero bytes.
        if not store.is_s3:
            store.filesystem.create_dir(folder)
        # Files are opened with their first rows, since an empty file would be a useless object.
        for rows in _row_groups(tables, spec.schema):
            file = file or _ParquetFileWriter(store, folder, spec)
            file.write(rows)
            if file_bytes is not None and file.size >= file_bytes:
                yield file.close()
                file = None
        if file:
            yield file.close()
    except OSError as error:
        raise StoreError(f"cannot write table {spec.name} in {store.uri}: {error}") from None


def _row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows in groups of exactly `ROW_GROUP_ROWS`, the last one shorter, however they arrive."""
    rest = schema.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table.select(schema.names).cast(schema)])
        num_full = rest.num_rows - rest.num_rows % ROW_GROUP_ROWS
        for start in range(0, num_full, ROW_GROUP_ROWS):
            # Slices share memory with the table, so nothing is copied here.
            yield rest.slice(start, ROW_GROUP_ROWS)
        rest = rest.slice(num_full)
    if rest.num_rows:
        yield rest


class _ParquetFileWriter:
    """One file under a new random name, so that nothing is ever overwritten."""

    def __init__(self, store: Store, folder: str, spec: TableSpec) -> None:
        # Random names cannot collide with those of other workers, so writers need no coordination.
        self.path = f"part-{uuid.uuid4().hex}.parquet"
        self.sink = store.filesystem.open_output_stream(f"{folder}/{self.path}")
        # The page index lets readers skip pages by key; page checksums are what `dataset verify` checks.
        self.writer = pq.ParquetWriter(self.sink, spec.schema, compression="zstd", write_page_index=True,
                                       write_page_checksum=True)  # fmt: skip
        self.bounds = _ColumnBounds(
            [spec.key, *(name for name in EXTRA_BOUNDED_COLUMNS if name in spec.schema.names and name != spec.key)]
        )

    def write(self, rows: pa.Table) -> None:
        self.writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        self.bounds.add(rows)

    @property
    def size(self) -> int:
        return int(self.sink.tell())

    def close(self) -> DataFile:
        # Closing the Parquet writer appends the footer, and closing the sink completes the upload. The size is taken
        # between the two, since a closed stream has no position.
        self.writer.close()
        size = self.size
        self.sink.close()
        return DataFile(self.path, size, self.bounds.num_rows, self.bounds.to_json())


@dataclass
class _ColumnBounds:
    """Running minimum and maximum of some columns."""

    columns: list[str]
    num_rows: int = 0
    low: dict[str, Any] = field(default_factory=dict)
    high: dict[str, Any] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        self.num_rows += rows.num_rows
        for name in self.columns:
            # Both pyarrow, which compares UTF-8 bytes, and Python, which compares code points, order text in the same
            # way, so bounds of different row groups can be combined here.
            low, high = pc.min_max(rows[name]).as_py().values()
            # The minimum is None where all values are null. Delta readers take a missing bound as "unknown" and read
            # the file.
            if low is not None:
                self.low[name] = min(low, self.low.get(name, low))
                self.high[name] = max(high, self.high.get(name, high))

    def to_json(self) -> str:
        return json.dumps({"numRecords": self.num_rows, "minValues": self.low, "maxValues": self.high, "nullCount": {}})
