"""One entry of a Delta log, written by Delta's own commit protocol: the file of the next version, put only once.

delta-rs' Python interface can append and overwrite, but not remove chosen files, so the
entry is written here. Commits are strictly one after another: who loses the race for a
version looks at what the winner did, and plans anew.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, LogSource, entry_path, read_entry
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.errors import DatasetError

MAX_CONTENTION_S = 120.0  # against other writers; 8 busy ones need a few seconds
MAX_BACKOFF_S = 0.8
CHECKPOINT_EVERY = 100  # versions; a shortcut for readers


class CommitTarget(LogSource, Protocol):
    """The part of a table that a commit reads and changes; `emoji_ldm.dataset.table.Table` is one."""

    since: int | None  # the version that a guarded writer planned on; None commits whatever others did

    def live(self) -> dict[str, DataFile]: ...
    def committed(self, app_id: str) -> bool: ...
    def keys_of(self, path: str) -> pa.ChunkedArray: ...
    def resolve(self, path: str) -> str: ...
    def update(self) -> None: ...
    def delta(self) -> DeltaTable: ...
    def reading(self) -> AbstractContextManager[None]: ...
    def write_files(self, tables: Iterable[pa.Table]) -> Iterator[DataFile]: ...


def commit_entry(table: CommitTarget, plan: Callable[[], LogEntry | None]) -> int | None:
    """Write the entry that `plan` makes of the table's newest version; who loses a race plans again.

    Returns:
        The new version, or None if `plan` finds nothing left to do.

    Raises:
        DatasetError: Other writers won every race for two minutes, or changed rows that the writer relies on
            (`table.since`).
    """
    deadline, pause = time.monotonic() + MAX_CONTENTION_S, 0.05
    while (entry := plan()) is not None:
        _refuse_foreign_commits(table)
        version = table.version + 1
        if _write_entry(table, version, entry.to_bytes()):
            table.update()
            if table.since is not None:
                table.since = version
            if version % CHECKPOINT_EVERY == 0:
                with contextlib.suppress(DeltaError, OSError):  # the version stands; a later one makes the shortcut
                    table.delta().create_checkpoint()
            return version
        if time.monotonic() > deadline:
            raise DatasetError(
                f"table {table.spec.name} in {table.store.uri}: other writers won every commit for {MAX_CONTENTION_S:.0f} s; "
                "run the command again"
            )
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, MAX_BACKOFF_S)
        table.update()
    return None


def _refuse_foreign_commits(table: CommitTarget) -> None:
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


def _write_entry(table: CommitTarget, version: int, data: bytes) -> bool:
    """True if this entry is the version's; a PUT whose answer was lost may have won though its retry is refused."""
    path = entry_path(table.path, version)
    if table.store.write_once(data, path):
        return True
    return table.store.exists(path) and table.store.read(path) == data  # S3 may also refuse two that came at once
