"""Parquet files of a table: written under new names with statistics, and nothing until a commit names them."""

from __future__ import annotations

import json
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

ROW_GROUP_ROWS = 100  # the size that Hugging Face's viewer wants for pictures
TARGET_FILE_BYTES = 128 * 2**20  # a streamed file is closed once it is this large
EXTRA_BOUNDED_COLUMNS = ("source_url", "url")  # columns with minimum and maximum in the log, besides the key


@dataclass(frozen=True)
class DataFile:
    """Facts of a Parquet file, committed or not yet."""

    path: str  # inside the table's folder; a branch's may start with ../ and lie in another table folder of the store
    size: int  # bytes
    num_rows: int
    stats: str  # Delta statistics, JSON

    def to_json(self) -> str:
        """The facts as one line, to cross process borders."""
        return json.dumps(asdict(self))

    def bounds(self, column: str) -> tuple[str, str] | None:
        """Smallest and largest value of a column, None where the statistics do not tell."""
        stats = json.loads(self.stats)
        low, high = stats.get("minValues", {}).get(column), stats.get("maxValues", {}).get(column)
        return None if low is None or high is None else (low, high)


def write_files(store: Store, folder: str, spec: TableSpec, tables: Iterable[pa.Table],
                *, file_bytes: int | None = TARGET_FILE_BYTES) -> Iterator[DataFile]:  # fmt: skip
    """Stream rows into files with row groups of 100 rows; holds one row group more than its input.

    Args:
        store: Where the folder lies.
        folder: The table's folder, as a path inside the store's filesystem.
        spec: Schema that the rows are cast to.
        tables: The rows, in any portions; no rows give no file.
        file_bytes: A file is closed once it is this large; None makes one file.

    Raises:
        StoreError: The store cannot be written.
    """
    file: _ParquetFileWriter | None = None
    try:
        if not store.is_s3:
            store.filesystem.create_dir(folder)
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
    rest = schema.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table.select(schema.names).cast(schema)])
        whole = rest.num_rows - rest.num_rows % ROW_GROUP_ROWS
        for start in range(0, whole, ROW_GROUP_ROWS):
            yield rest.slice(start, ROW_GROUP_ROWS)
        rest = rest.slice(whole)
    if rest.num_rows:
        yield rest


class _ParquetFileWriter:
    """A file under a new name, so that nothing is ever replaced."""

    def __init__(self, store: Store, folder: str, spec: TableSpec) -> None:
        self.path = f"part-{uuid.uuid4().hex}.parquet"
        self.sink = store.filesystem.open_output_stream(f"{folder}/{self.path}")
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
        self.writer.close()
        size = self.size
        self.sink.close()
        return DataFile(self.path, size, self.bounds.num_rows, self.bounds.to_json())


@dataclass
class _ColumnBounds:
    columns: list[str]
    num_rows: int = 0
    low: dict[str, Any] = field(default_factory=dict)
    high: dict[str, Any] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        self.num_rows += rows.num_rows
        for name in self.columns:
            low, high = pc.min_max(rows[name]).as_py().values()
            if low is not None:
                self.low[name] = min(low, self.low.get(name, low))
                self.high[name] = max(high, self.high.get(name, high))

    def to_json(self) -> str:
        return json.dumps({"numRecords": self.num_rows, "minValues": self.low, "maxValues": self.high, "nullCount": {}})
