"""A table's log, entry by entry: how entries are written and read, which shards are done, when files were live.

A Delta table is a folder of Parquet files and a log, `_delta_log/00000000000000000007.json` for version 7. An entry is
a list of JSON actions, one a line. Of the protocol's actions (PROTOCOL.md, "Actions") we write five:

    commitInfo          who, when, and our lineage (run, stage, parents, counts, configuration)
    protocol, metaData  in version 0 only: reader and writer versions, schema, table properties
    txn                 an application transaction: {"appId": name of a shard, "version": 1 done | 0 undone}
    remove, add         data files that leave and join the table

A shard is done if the last `txn` of its name has version 1. Marking it in the same entry that adds its files makes a
commit exactly-once: no crash can separate the two. A restore marks a shard as undone (version 0) when it takes its rows
away, so that the shard can be committed again.

Versions are read back through old entries, so our tables keep every entry (`KEEP_HISTORY`).
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

# Delta's default would let any writer delete log entries after 30 days, and with them the versions that tags pin.
KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}
# Entries are small, so reading them is bound by the latency of the store, and threads overlap the waiting.
READ_THREADS = 16

Action = dict[str, Any]
"""One line of an entry: {kind: fields}, such as {"add": {"path": ..., "size": ...}}."""


class LogSource(Protocol):
    """The part of a table that reading its log needs; `emoji_ldm.dataset.table.Table` provides it."""

    @property
    def spec(self) -> TableSpec: ...
    @property
    def store(self) -> Store: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> int: ...


@dataclass(frozen=True)
class LogEntry:
    """What one version changes."""

    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()
    shard_states: Mapping[str, bool] = field(default_factory=dict)  # {app id: done}; False undoes a shard
    metadata: Mapping[str, str] = field(default_factory=dict)
    operation: str = "WRITE"
    data_change: bool = True  # False if the set of rows stays the same, as in a compaction

    def to_bytes(self) -> bytes:
        """The entry as Delta's JSON lines; a new `txnId` makes each call's bytes unique (see `delta_commit.py`)."""
        now = int(time.time() * 1000)
        info = {"timestamp": now, "operation": self.operation, "operationParameters": {},
                "engineInfo": f"emoji-ldm:{__version__}", "txnId": uuid.uuid4().hex, **self.metadata}  # fmt: skip
        # PROTOCOL.md requires `commitInfo` to come first only in tables with in-commit timestamps. It is first here as
        # well, so that the head of an entry tells who committed.
        lines: list[Action] = [{"commitInfo": info}]
        # The version of a `txn` is a number that each application counts as it likes. This one needs two states only,
        # done and undone, so that "the last one wins" is all a reader has to know.
        lines += [{"txn": {"appId": name, "version": int(done)}} for name, done in self.shard_states.items()]
        lines += [{"remove": _remove_action(file, now, self.data_change)} for file in self.remove]
        lines += [{"add": _add_action(file, now, self.data_change)} for file in self.add]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()


def creation_entry(spec: TableSpec) -> bytes:
    """Version 0 of a table: its schema, and the property that keeps history for good.

    It is written here because delta-rs 1.6.6 lets one of two racing creators write a second creation as version 1.
    """
    metadata = {"id": str(uuid.uuid4()), "name": spec.name, "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(spec.schema).to_json(), "partitionColumns": [],
            "createdTime": int(time.time() * 1000), "configuration": KEEP_HISTORY}  # fmt: skip
    # These are the lowest versions of the protocol that suffice, and every Delta client supports them.
    # A table with more features would need a higher reader version, and older clients would refuse to open it.
    setup = ({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata})
    return LogEntry(operation="CREATE TABLE").to_bytes() + "".join(json.dumps(line) + "\n" for line in setup).encode()


def entry_path(folder: str, version: int) -> str:
    """Path inside the store of a version's entry; `folder` is the table's."""
    return f"{folder}/_delta_log/{version:020d}.json"


def read_entry(table: LogSource, version: int) -> list[Action]:
    """The actions of a version; DatasetError if the log lacks it."""
    try:
        # Read without delta-rs, which does not expose the actions of a single version.
        lines = table.store.read(entry_path(table.path, version)).decode().splitlines()
        return [json.loads(line) for line in lines if line]
    except (StoreError, ValueError) as error:
        raise DatasetError(f"the log of table {table.spec.name} lacks version {version}: {error}") from None


def log_entries(table: LogSource, first: int = 0, last: int | None = None) -> Iterator[tuple[int, list[Action]]]:
    """(version, actions) from version `first` to `last` (by default the newest), in order; DatasetError for a gap."""
    versions = range(first, (table.version if last is None else last) + 1)
    # The pool reads ahead, and `map` gives the entries back in order. The order matters, since whoever replays the log
    # lets later actions overrule earlier ones.
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from zip(versions, pool.map(lambda version: read_entry(table, version), versions), strict=True)


def shard_states(table: LogSource, first: int = 0, last: int | None = None) -> dict[str, bool]:
    """{app id: done} of all shards that these versions mark."""
    # Later actions overwrite earlier ones of the same name, because entries come in order.
    return {
        action["txn"]["appId"]: action["txn"]["version"] > 0
        for _, actions in log_entries(table, first, last)
        for action in actions
        if "txn" in action
    }


@dataclass(frozen=True)
class FileLifetime:
    """A range of versions in which a file is part of the table."""

    path: str
    size: int
    first: int
    last: int | None  # None: it is still part of the table
    removed_at_ms: int = 0  # Unix time of its removal; 0 if it is still part of the table or the log does not say


def file_lifetimes(table: LogSource) -> list[FileLifetime]:
    """When each file was part of the table; a file that was removed and restored has several lifetimes, in order."""
    added, ended = dict[str, tuple[int, int]](), list[FileLifetime]()  # {path: (version, size)} of the files now live
    for version, actions in log_entries(table):
        # Removals first, so that an entry that removes and adds one path begins a new lifetime.
        for action in actions:
            if (gone := action.get("remove")) and gone["path"] in added:
                # The version that removes a file does not contain it any more.
                # A path may be removed and added again later, by a restore. Each stay is a lifetime of its own, since a
                # version between the two does not need the file.
                first, size = added.pop(gone["path"])
                ended.append(FileLifetime(gone["path"], size, first, version - 1, gone.get("deletionTimestamp") or 0))
        for action in actions:
            if "add" in action:
                # PROTOCOL.md, "Action Reconciliation": an `add` of a path that is live already, such as one that only
                # updates its statistics, replaces the action and does not begin a new stay.
                added.setdefault(action["add"]["path"], (version, action["add"]["size"]))
    return ended + [FileLifetime(path, size, first, None) for path, (first, size) in added.items()]


def _add_action(file: DataFile, now: int, data_change: bool) -> Action:
    # The time is that of the commit, not of the writing of the file. A file that a restore brings back counts as new
    # from then on.
    return {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": now,
            "dataChange": data_change, "stats": file.stats}  # fmt: skip


def _remove_action(file: DataFile, now: int, data_change: bool) -> Action:
    # The time of the removal is what a vacuum goes by: a reader that opened the table just before it may still need the
    # file for a while. `extendedFileMetadata` says that the two fields after it are filled.
    return {"path": file.path, "deletionTimestamp": now, "dataChange": data_change, "extendedFileMetadata": True,
            "partitionValues": {}, "size": file.size}  # fmt: skip
