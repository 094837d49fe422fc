"""One version of a Delta table as delta-rs reads it: opened with its schema checked, and its live files."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import fs

from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store

# The features of Delta that change nothing about which rows a file holds, and in which columns. With others, such as
# deletion vectors, whoever reads the files alone would get rows that were deleted.
HARMLESS_FEATURES = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})


def open_table(store: Store, spec: TableSpec, version: int | None) -> DeltaTable | None:
    """The table at a version (None: the newest), or None if it does not exist.

    Raises:
        StoreError: The store cannot be reached, or there is no such version.
        DatasetError: The table has another schema, or uses a feature of Delta that this reader does not know.
    """
    with store.io_errors(f"open table {spec.name}", DeltaError):
        # delta-rs reads the log from its last checkpoint on, and downloads no data file.
        try:
            delta = DeltaTable(store.table_uri(spec.name), version, storage_options=store.storage_options())
        except TableNotFoundError:
            return None
    _check_features(store, spec, delta)
    _check_schema(store, spec, delta)
    return delta


def read_live_files(store: Store, folder: str, delta: DeltaTable) -> Iterator[DataFile]:
    """The files that make up this version, oldest first; `folder` is the table's in the store's file system."""
    actions = pa.table(delta.get_add_actions())
    # The files of one commit have one modification time. Paths are random; they only break ties, so that the same
    # version always gives the same order.
    for row in actions.sort_by([("modification_time", "ascending"), ("path", "ascending")]).to_pylist():
        num_rows = row["num_records"]
        if num_rows is None:  # statistics are optional, and other writers may leave them out
            source = posixpath.normpath(f"{folder}/{row['path']}")
            num_rows = pq.read_metadata(source, filesystem=store.filesystem).num_rows
        stats = {"numRecords": num_rows, "minValues": _bounds(row.get("min")), "maxValues": _bounds(row.get("max")),
                 "nullCount": {}}  # fmt: skip
        yield DataFile(row["path"], row["size_bytes"], num_rows, json.dumps(stats))


def _bounds(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Bounds of columns as Delta writes them in JSON (PROTOCOL.md, "Per-file Statistics"); nested ones are left out.

    Other writers state bounds of every column, also of those that have no JSON type, such as time stamps.
    """
    found = {name: value.isoformat() if isinstance(value, date | datetime) else value
             for name, value in (values or {}).items()}  # fmt: skip
    # A missing bound means "unknown". That goes for NaN and infinity as well, which JSON cannot express.
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    }


def missing_files(store: Store, sources: Collection[str]) -> list[str]:
    """Which of these paths of the store's file system do not exist; each folder is listed once."""
    # One listing per folder is far cheaper on S3 than one request per file.
    existing: set[str] = set()
    for folder in {posixpath.dirname(source) for source in sources}:
        selector = fs.FileSelector(folder, allow_not_found=True)
        existing |= {info.path for info in store.filesystem.get_file_info(selector)}
    return [source for source in sources if source not in existing]


def _check_features(store: Store, spec: TableSpec, delta: DeltaTable) -> None:
    protocol = delta.protocol()
    unknown = set(protocol.reader_features or ()) - HARMLESS_FEATURES
    # Before features had names, the only one that readers had to know was column mapping, by version 2.
    if delta.metadata().configuration.get("delta.columnMapping.mode", "none") == "none":
        unknown.discard("columnMapping")
    else:
        unknown.add("columnMapping")
    if unknown:
        raise DatasetError(
            f"table {spec.name} in {store.uri} uses Delta features that this program cannot read "
            f"({', '.join(sorted(unknown))}); drop them with the program that wrote it "
            "(Spark: ALTER TABLE ... DROP FEATURE ...), or restore a copy"
        )


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
