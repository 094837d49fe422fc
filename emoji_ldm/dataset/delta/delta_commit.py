"""Commits by Delta's own protocol: whoever creates the log entry of the next version has committed it.

Delta gives writers optimistic concurrency (PROTOCOL.md, "Delta Log Entries"; Armbrust et al., VLDB 2020, section 3.2):

1. read the newest version N and plan the change on it;
2. create `_delta_log/<N + 1>.json` by a write that fails if the file exists (a hard link in a folder, a conditional PUT
   on S3); the file's existence is the commit, whole and at once;
3. if another writer was first, read what it did, and start again at 1.

The plan is a function, called again for each try, because the winner may have removed the files that it wanted to
replace, or committed the very same shard. So commits are serialised without any lock, and a writer that dies at any
moment leaves either its complete entry or nothing.

The entry is written here and not by delta-rs, whose Python interface (1.6.6) can append and overwrite, but cannot
remove chosen files and mark application transactions in one version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, LogSource, entry_path, read_entry
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.errors import DatasetError

# Eight busy writers settle their races within a few seconds, so two minutes without a win mean that something else is
# wrong, and an error is more useful than further waiting.
MAX_CONTENTION_S = 120.0
# Writers that lost one race against each other would meet again if they all waited equally long. The pause is therefore
# random: drawn from 0 to a bound that doubles with each lost race, up to the second number.
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 0.8
# A Delta checkpoint summarises all entries before it, so that readers open the table without reading them one by one.
# It costs a write of the whole file list, so only every hundredth version has one.
CHECKPOINT_EVERY = 100  # versions


class CommitTarget(LogSource, Protocol):
    """What a commit reads and changes of a table; `emoji_ldm.dataset.table.Table` is one."""

    expected_version: int | None  # the version that a guarded writer planned on; None allows other writers

    def live_files(self) -> dict[str, DataFile]: ...
    def committed(self, app_id: str) -> bool: ...
    def keys_of(self, path: str) -> pa.ChunkedArray: ...
    def resolve(self, path: str) -> str: ...
    def refresh_incrementally(self) -> None: ...
    def delta(self) -> DeltaTable: ...
    def read_errors(self) -> AbstractContextManager[None]: ...
    def write_files(self, tables: Iterable[pa.Table]) -> Iterator[DataFile]: ...


class _LostRaceError(Exception):
    """Another writer created the version first."""


def commit_entry(table: CommitTarget, plan: Callable[[], LogEntry | None]) -> int | None:
    """Commit the entry that `plan` makes of the table's newest version; after a lost race it plans again.

    Args:
        table: The table; it is at the new version afterwards.
        plan: Called once per try; None says that nothing is left to do.

    Returns:
        The new version, or None if `plan` returned None.

    Raises:
        DatasetError: Other writers won every race for two minutes, or changed rows although the writer is guarded
            (`table.expected_version`).
    """
    # Only a lost race is tried again. Every other error, such as a full disk, would meet the next attempt as well, and
    # must reach the user at once.
    retrying = Retrying(
        retry=retry_if_exception_type(_LostRaceError),
        wait=wait_random_exponential(multiplier=FIRST_BACKOFF_S, max=MAX_BACKOFF_S),
        stop=stop_after_delay(MAX_CONTENTION_S),
        reraise=True,
    )

    def attempt() -> int | None:
        if retrying.statistics["attempt_number"] > 1:
            # The refresh comes after the pause, so that the new plan knows all that was committed during it.
            table.refresh_incrementally()
        # The plan and the version number that it is committed as come from the same snapshot, since nothing refreshes
        # the table between them. If somebody commits in between, the number is taken and the attempt fails.
        entry = plan()
        return None if entry is None else _commit_next_version(table, entry)

    try:
        return retrying(attempt)
    except _LostRaceError:
        raise DatasetError(
            f"table {table.spec.name} in {table.store.uri}: other writers won every commit for "
            f"{MAX_CONTENTION_S:.0f} s; run the command again"
        ) from None


def _commit_next_version(table: CommitTarget, entry: LogEntry) -> int:
    # The check needs no lock. It covers everything up to the version that the plan saw, and a commit that comes after
    # it takes the number that this one wants, which sends the writer back here.
    _refuse_foreign_commits(table)
    version = table.version + 1
    if not _write_entry(table, version, entry.to_bytes()):
        raise _LostRaceError
    # From here on the version is committed, whatever happens to this process. The table is brought up to date so that
    # the next plan starts from it.
    table.refresh_incrementally()
    # Only this very version is known to be harmless. The refresh may have brought later ones of other writers, which
    # the next commit still has to examine.
    if table.expected_version is not None:
        table.expected_version = version
    if version % CHECKPOINT_EVERY == 0:
        # The version is committed already, and a checkpoint only saves time. If it fails, readers take longer until a
        # later one, and the job goes on.
        with contextlib.suppress(DeltaError, OSError):
            table.delta().create_checkpoint()
    return version


def _refuse_foreign_commits(table: CommitTarget) -> None:
    """DatasetError if others changed rows since the version that a guarded writer planned on.

    A crawl, for instance, decides by the rows that it has read which images are new. If a second crawl into the same
    table commits meanwhile, both would add the same image, so the later one has to stop. Commits that change no rows,
    such as compactions, are harmless.
    """
    if table.expected_version is None:
        return
    for version in range(table.expected_version + 1, table.version + 1):
        if any(_changes_rows(action) for action in read_entry(table, version)):
            raise DatasetError(
                f"another job wrote to table {table.spec.name} in {table.store.uri} meanwhile (version {version}), so "
                "this one stops; what was committed is safe: run the same command again when the other one is done"
            )
    table.expected_version = table.version


def _changes_rows(action: Action) -> bool:
    # PROTOCOL.md, "Add File and Remove File": `dataChange` false promises that the commit only rearranged rows that the
    # table already had. Writers that do not set it are assumed to have changed some.
    return any(kind in action and action[kind].get("dataChange", True) for kind in ("add", "remove"))


def _write_entry(table: CommitTarget, version: int, data: bytes) -> bool:
    """Create the version's entry; True if this writer created it.

    The random `txnId` makes the bytes of every entry unique, so equal bytes mean that this writer wrote it.
    """
    return table.store.write_once(data, entry_path(table.path, version))
