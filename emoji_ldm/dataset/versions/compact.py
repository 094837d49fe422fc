"""`dataset compact`: small files joined into files of 128 MB and more, in one version that changes no row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from emoji_ldm.config import Config
from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import LogEntry
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS, TARGET_FILE_BYTES, DataFile, write_files
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table


@dataclass(frozen=True)
class CompactionResult:
    """Files of a table before and after."""

    table: str
    before: int
    after: int
    size: int  # bytes
    version: int | None  # None: there was nothing to join


def compact(config: Config, table: Table, *, file_bytes: int = TARGET_FILE_BYTES) -> CompactionResult:
    """Join the small files of a table; at most ceil(bytes / file_bytes) + 1 files are left of what was there.

    Rows stream through, a row group at a time. Whoever appends meanwhile is not disturbed;
    of files that another writer replaces meanwhile the older commit stands, and theirs is
    left out of the joining.
    """
    groups = list(_groups(table.live().values(), file_bytes))
    before = len(table.live())
    joined = [(group, _join(table, group)) for group in groups]

    def plan() -> LogEntry | None:
        live = table.live()
        whole = [(group, new) for group, new in joined if all(file.path in live for file in group)]
        if not whole:
            return None
        remove = [file for group, _ in whole for file in group]
        counts = {"files": len(remove), "into": len(whole)}
        metadata = Lineage(config, "compact", {}).metadata(counts, "")
        return LogEntry([new for _, new in whole], remove, {}, metadata, "OPTIMIZE", data_change=False)

    version = commit_entry(table, plan) if joined else None
    size = sum(file.size for file in table.live().values())
    return CompactionResult(table.spec.name, before, len(table.live()), size, version)


def _groups(files: Iterable[DataFile], file_bytes: int) -> Iterator[list[DataFile]]:
    """Small files in order, in groups that reach the wanted size; a last group of one stays as it is."""
    group: list[DataFile] = []
    for file in files:
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
            with table.reading(), table.store.filesystem.open_input_file(table.resolve(file.path)) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(ROW_GROUP_ROWS):
                    yield pa.Table.from_batches([batch])

    (joined,) = write_files(table.store, table.store.path(table.path), table.spec, rows(), file_bytes=None)
    return joined
