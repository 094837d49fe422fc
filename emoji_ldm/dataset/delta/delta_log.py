"""A table's log read entry by entry: which shards are done, and which versions hold which file.

Every entry of our tables stays in the log for good (see `KEEP_HISTORY` in entry.py).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from deltalake import Schema

from emoji_ldm import __version__
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store

READ_THREADS = 16


@dataclass(frozen=True)
class FileLifetime:
    """Versions in which a file is part of the table."""

    path: str
    size: int
    first: int
    last: int | None  # None: still part of it
    ended_ms: int = 0  # when it was taken out, Unix time; 0: still part of it, or not told


class LogSource(Protocol):
    """The part of a table that reading its log needs; `emoji_ldm.dataset.table.Table` is one."""

    @property
    def spec(self) -> TableSpec: ...
    @property
    def store(self) -> Store: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> int: ...


def log_entries(table: LogSource, first: int = 0, last: int | None = None) -> Iterator[tuple[int, list[Action]]]:
    """(version, actions) from version `first` to `last` (the newest by default), in order; DatasetError for a gap."""
    versions = range(first, (table.version if last is None else last) + 1)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from zip(versions, pool.map(lambda version: read_entry(table, version), versions), strict=True)


def shard_states(table: LogSource, first: int = 0, last: int | None = None) -> dict[str, bool]:
    """{app transaction: done} as these versions leave it."""
    return {
        action["txn"]["appId"]: action["txn"]["version"] > 0
        for _, actions in log_entries(table, first, last)
        for action in actions
        if "txn" in action
    }


def file_lifetimes(table: LogSource) -> list[FileLifetime]:
    """When each file was part of the table; a file that was restored has several lives."""
    born, ended = dict[str, tuple[int, int]](), list[FileLifetime]()
    for version, actions in log_entries(table):
        for action in actions:
            if (gone := action.get("remove")) and gone["path"] in born:
                first, size = born.pop(gone["path"])
                ended.append(FileLifetime(gone["path"], size, first, version - 1, gone.get("deletionTimestamp") or 0))
        for action in actions:
            if "add" in action:
                born.setdefault(action["add"]["path"], (version, action["add"]["size"]))
    return ended + [FileLifetime(path, size, first, None) for path, (first, size) in born.items()]


KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}


Action = dict[str, Any]


@dataclass(frozen=True)
class LogEntry:
    """What one version changes."""

    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()
    shards: Mapping[str, bool] = field(default_factory=dict)  # app transactions: done, or undone by a restore
    metadata: Mapping[str, str] = field(default_factory=dict)
    operation: str = "WRITE"
    data_change: bool = True  # False if the rows stay the same

    def to_bytes(self) -> bytes:
        """The entry as Delta's JSON lines; a new `txnId` each time tells it from all others."""
        now = int(time.time() * 1000)
        info = {"timestamp": now, "operation": self.operation, "operationParameters": {},
                "engineInfo": f"emoji-ldm:{__version__}", "txnId": uuid.uuid4().hex, **self.metadata}  # fmt: skip
        lines: list[dict[str, Any]] = [{"commitInfo": info}]
        lines += [{"txn": {"appId": name, "version": int(done)}} for name, done in self.shards.items()]
        lines += [{"remove": _remove_action(file, now, self.data_change)} for file in self.remove]
        lines += [{"add": _add_action(file, now, self.data_change)} for file in self.add]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()


def creation_entry(spec: TableSpec) -> bytes:
    """Version 0 of a table: its schema, and that history is kept for good.

    Written here, as delta-rs 1.6.6 lets one of two racing makers write a second creation as version 1.
    """
    kind = {"id": str(uuid.uuid4()), "name": spec.name, "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(spec.schema).to_json(), "partitionColumns": [],
            "createdTime": int(time.time() * 1000), "configuration": KEEP_HISTORY}  # fmt: skip
    setup = ({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": kind})
    return LogEntry(operation="CREATE TABLE").to_bytes() + "".join(json.dumps(line) + "\n" for line in setup).encode()


def entry_path(folder: str, version: int) -> str:
    """Path inside the store of a version's entry; `folder` is the table's."""
    return f"{folder}/_delta_log/{version:020d}.json"


def read_entry(table: LogSource, version: int) -> list[Action]:
    """The actions of a version; DatasetError if the log lacks it."""
    try:
        lines = table.store.read(entry_path(table.path, version)).decode().splitlines()
        return [json.loads(line) for line in lines if line]
    except (StoreError, ValueError) as error:
        raise DatasetError(f"the log of table {table.spec.name} lacks version {version}: {error}") from None


def _add_action(file: DataFile, now: int, data_change: bool) -> dict[str, Any]:
    return {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": now,
            "dataChange": data_change, "stats": file.stats}  # fmt: skip


def _remove_action(file: DataFile, now: int, data_change: bool) -> dict[str, Any]:
    return {"path": file.path, "deletionTimestamp": now, "dataChange": data_change, "extendedFileMetadata": True,
            "partitionValues": {}, "size": file.size}  # fmt: skip
