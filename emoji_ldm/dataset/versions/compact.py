"""`dataset compact`: joins small files into files of at least 128 MB, in one version that changes no row.

Every shard commits files of its own, so a table grows many small ones, and each costs readers a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import LogEntry
from emoji_ldm.dataset.delta.parquet_reader import iter_batches
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS, TARGET_FILE_BYTES, DataFile, write_files
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table


@dataclass(frozen=True)
class CompactionResult:
    """What a compaction did to one table."""

    table: str
    before: int  # files
    after: int
    size: int  # bytes of all files
    version: int | None  # None if there was nothing to join


def compact(
    table: Table, run: RunInfo, *, file_bytes: int = TARGET_FILE_BYTES, only: Collection[str] | None = None
) -> CompactionResult:
    """Join the small files of a table, or those of `only`; at most ceil(bytes / file_bytes) + 1 of them are left.

    Rows are streamed, one row group at a time. Writers may commit meanwhile: appended files are not touched, and a
    group of which another writer replaced a file is left as it is.
    """
    files = [file for path, file in table.live_files().items() if only is None or path in only]
    groups = list(_groups(files, file_bytes))
    before = len(table.live_files())
    # Reading and writing, which may take minutes, happen before the commit. The plan below only exchanges names, so a
    # race that is lost costs little.
    joined = [(group, _join(table, group)) for group in groups]

    def plan() -> LogEntry | None:
        live = table.live_files()
        # A group whose files are all live still holds the same rows, since files never change. If an upsert has
        # rewritten one of them, the joined file would bring its old rows back, so the whole group is given up.
        intact = [(group, new) for group, new in joined if all(file.path in live for file in group)]
        # If every group lost a file to another writer, the joined files stay orphans for the next vacuum.
        if not intact:
            return None
        remove = [file for group, _ in intact for file in group]
        counts = {"files": len(remove), "into": len(intact)}
        metadata = Lineage(run, "compact", {}).metadata(counts, "")
        # `dataChange` is false, since every row stays: a job that guards against other writers may go on, and streaming
        # readers of Delta do not see the rows again.
        return LogEntry([new for _, new in intact], remove, {}, metadata, "OPTIMIZE", data_change=False)

    version = commit_entry(table, plan) if joined else None
    size = sum(file.size for file in table.live_files().values())
    return CompactionResult(table.spec.name, before, len(table.live_files()), size, version)


def _groups(files: Iterable[DataFile], file_bytes: int) -> Iterator[list[DataFile]]:
    """Small files in order, in groups that reach the target size; a last group of one file stays as it is."""
    group: list[DataFile] = []
    for file in files:
        # Large files are left out of all groups: rewriting them would gain nothing.
        if file.size < file_bytes:
            group.append(file)
        if sum(part.size for part in group) >= file_bytes:
            yield group
            group = []
    if len(group) > 1:
        yield group


def _join(table: Table, group: Sequence[DataFile]) -> DataFile:
    def rows() -> Iterator[pa.Table]:
        for file in group:
            with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(file.path)) as stream:
                for batch in iter_batches(pq.ParquetFile(stream), table.spec.schema, ROW_GROUP_ROWS):
                    yield pa.Table.from_batches([batch])

    (joined,) = write_files(table.store, table.store.path(table.path), table.spec, rows(), file_bytes=None)
    return joined
