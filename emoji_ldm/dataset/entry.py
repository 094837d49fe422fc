"""One entry of a Delta log, written by Delta's own commit protocol: the file of the next version, put only once.

delta-rs' Python interface can append and overwrite, but not remove chosen files, so the
entry is written here. Commits are strictly one after another: who loses the race for a
version looks at what the winner did, and plans anew.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltalake import Schema
from deltalake.exceptions import DeltaError

from emoji_ldm import __version__
from emoji_ldm.dataset.files import DataFile
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.records import TableSpec

if TYPE_CHECKING:
    from emoji_ldm.dataset.table import Table

KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}
Action = dict[str, Any]
PATIENCE_S = 120.0  # against other writers; 8 busy ones need a few seconds
LONGEST_PAUSE_S = 0.8
CHECKPOINT_EVERY = 100  # versions; a shortcut for readers


@dataclass(frozen=True)
class Entry:
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
        lines += [{"remove": _remove(file, now, self.data_change)} for file in self.remove]
        lines += [{"add": _add(file, now, self.data_change)} for file in self.add]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()


def publish(table: Table, plan: Callable[[], Entry | None]) -> int | None:
    """Write the entry that `plan` makes of the table's newest version; who loses a race plans again.

    Returns:
        The new version, or None if `plan` finds nothing left to do.

    Raises:
        DatasetError: Other writers won every race for two minutes, or changed rows that the writer relies on
            (`table.since`).
    """
    deadline, pause = time.monotonic() + PATIENCE_S, 0.05
    while (entry := plan()) is not None:
        _refuse_strangers(table)
        version = table.version + 1
        if _write(table, version, entry.to_bytes()):
            table.update()
            if table.since is not None:
                table.since = version
            if version % CHECKPOINT_EVERY == 0:
                with contextlib.suppress(DeltaError, OSError):  # the version stands; a later one makes the shortcut
                    table.delta().create_checkpoint()
            return version
        if time.monotonic() > deadline:
            raise DatasetError(
                f"table {table.spec.name} in {table.store.uri}: other writers won every commit for {PATIENCE_S:.0f} s; "
                "run the command again"
            )
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, LONGEST_PAUSE_S)
        table.update()
    return None


def _refuse_strangers(table: Table) -> None:
    """DatasetError if rows changed since the version that the writer planned on: its plan may double them."""
    if table.since is None:
        return
    for version in range(table.since + 1, table.version + 1):
        if any(_changes_rows(action) for action in read_entry(table, version)):
            raise DatasetError(
                f"another job wrote to table {table.spec.name} in {table.store.uri} meanwhile (version {version}), so "
                "this one stops; what was committed is safe: run the same command again when the other one is done"
            )
    table.since = table.version


def _changes_rows(action: Action) -> bool:
    return any(kind in action and action[kind].get("dataChange", True) for kind in ("add", "remove"))


def creation(spec: TableSpec) -> bytes:
    """Version 0 of a table: its schema, and that history is kept for good.

    Written here, as delta-rs 1.6.6 lets one of two racing makers write a second creation as version 1.
    """
    kind = {"id": str(uuid.uuid4()), "name": spec.name, "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(spec.schema).to_json(), "partitionColumns": [],
            "createdTime": int(time.time() * 1000), "configuration": KEEP_HISTORY}  # fmt: skip
    setup = ({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": kind})
    return Entry(operation="CREATE TABLE").to_bytes() + "".join(json.dumps(line) + "\n" for line in setup).encode()


def entry_path(folder: str, version: int) -> str:
    """Path inside the store of a version's entry; `folder` is the table's."""
    return f"{folder}/_delta_log/{version:020d}.json"


def read_entry(table: Table, version: int) -> list[Action]:
    """The actions of a version; DatasetError if the log lacks it."""
    try:
        lines = table.store.read(entry_path(table.path, version)).decode().splitlines()
        return [json.loads(line) for line in lines if line]
    except (StoreError, ValueError) as error:
        raise DatasetError(f"the log of table {table.spec.name} lacks version {version}: {error}") from None


def _write(table: Table, version: int, data: bytes) -> bool:
    """True if this entry is the version's; a PUT whose answer was lost may have won though its retry is refused."""
    path = entry_path(table.path, version)
    if table.store.write_once(data, path):
        return True
    return table.store.exists(path) and table.store.read(path) == data  # S3 may also refuse two that came at once


def _add(file: DataFile, now: int, data_change: bool) -> dict[str, Any]:
    return {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": now,
            "dataChange": data_change, "stats": file.stats}  # fmt: skip


def _remove(file: DataFile, now: int, data_change: bool) -> dict[str, Any]:
    return {"path": file.path, "deletionTimestamp": now, "dataChange": data_change, "extendedFileMetadata": True,
            "partitionValues": {}, "size": file.size}  # fmt: skip
