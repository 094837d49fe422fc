"""One version of a Delta table as delta-rs reads it: opened with its schema checked, and its live files."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterator

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import fs

from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store


def open_table(store: Store, spec: TableSpec, version: int | None) -> DeltaTable | None:
    """The table at a version (None: the newest), or None if it does not exist.

    Raises:
        StoreError: The store cannot be reached, or there is no such version.
        DatasetError: The table has another schema.
    """
    with store.io_errors(f"open table {spec.name}", DeltaError):
        # delta-rs reads the log from its last checkpoint on, and downloads no data file.
        try:
            delta = DeltaTable(store.table_uri(spec.name), version, storage_options=store.storage_options())
        except TableNotFoundError:
            return None
    _check_schema(store, spec, delta)
    return delta


def read_live_files(delta: DeltaTable) -> Iterator[DataFile]:
    """The files that make up this version, oldest first."""
    actions = pa.table(delta.get_add_actions())
    # The files of one commit have one modification time. Paths are random; they only break ties, so that the same
    # version always gives the same order.
    for row in actions.sort_by([("modification_time", "ascending"), ("path", "ascending")]).to_pylist():
        stats = {"numRecords": row["num_records"], "minValues": row.get("min") or {},
                 "maxValues": row.get("max") or {}, "nullCount": {}}  # fmt: skip
        yield DataFile(row["path"], row["size_bytes"], row["num_records"], json.dumps(stats))


def missing_files(store: Store, sources: Collection[str]) -> list[str]:
    """Which of these paths of the store's file system do not exist; each folder is listed once."""
    # One listing per folder is far cheaper on S3 than one request per file.
    existing: set[str] = set()
    for folder in {posixpath.dirname(source) for source in sources}:
        selector = fs.FileSelector(folder, allow_not_found=True)
        existing |= {info.path for info in store.filesystem.get_file_info(selector)}
    return [source for source in sources if source not in existing]


def _check_schema(store: Store, spec: TableSpec, delta: DeltaTable) -> None:
    # Types are compared as Delta names them, since Arrow has several types for one Delta type.
    ours = {field.name: str(field.type) for field in Schema.from_arrow(spec.schema).fields}
    theirs = {field.name: str(field.type) for field in delta.schema().fields}
    if ours != theirs:
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise DatasetError(
            f"table {spec.name} in {store.uri} has another schema (columns {', '.join(different)} differ); "
            "another version or program wrote it: use another store"
        )
