"""`dataset restore` and `dataset revert`: new versions that bring back old rows; nothing of the history is lost.

Shards whose rows go are marked as not done in the same commit, and those whose rows come
back as done: running a stage again then does exactly what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.config import Config
from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import LogEntry, shard_states
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS
from emoji_ldm.dataset.delta.upsert import plan_upsert
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.diff import TableDiff, diff
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.dataset.versions.refs import Point
from emoji_ldm.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class RestoreResult:
    """What a restore or revert did to one table."""

    table: str
    before: int  # the version that brings back what was there
    version: int | None  # None: nothing to do
    counts: dict[str, int] = field(default_factory=dict)


def restore(config: Config, point: Point, table: Table) -> RestoreResult:
    """Give the newest version of `table` the rows that it has at `point`; files are named again, not copied.

    A table that the point does not name stays as it is.

    Raises:
        DatasetError: The old version lost files to a vacuum, or a vacuum is at work.
    """
    old = point.table(table.spec)
    if point.store.branch != table.store.branch:
        where = f"branch {point.store.branch}" if point.store.branch else "the main line"
        raise ConfigError(f"{point.label} is on {where}: restore it there (branch={point.store.branch or 'null'})")
    before, counts = table.version, {"added": 0, "removed": 0}
    if not point.names(table.spec):
        return RestoreResult(table.spec.name, before, None, counts)

    def plan() -> LogEntry | None:
        held.keep()
        live = table.live()
        add = [wanted[path] for path in wanted if path not in live]
        remove = [live[path] for path in live if path not in wanted]
        if not add and not remove:
            return None
        counts.update(added=sum(f.num_rows for f in add), removed=sum(f.num_rows for f in remove))
        marks = _changed_shard_states(table, old, max(old.version, 0) + 1)
        metadata = Lineage(config, "restore", {table.spec.name: old.version}).metadata(counts, point.label)
        return LogEntry(add, remove, marks, metadata, "RESTORE")

    with store_lock(table.store, "restore") as held:
        wanted = old.live()
        return RestoreResult(table.spec.name, before, commit_entry(table, plan), counts)


def revert(config: Config, table: Table, version: int) -> RestoreResult:
    """Undo what one commit did to rows, and keep what later ones did.

    Raises:
        ConfigError: The version is not there, or changed no rows.
        DatasetError: A later commit changed the same rows.
    """
    spec, store = table.spec, table.store
    if not 1 <= version <= table.version:
        raise ConfigError(f"{spec.name}@{version} cannot be reverted: commits are {spec.name}@1 to @{table.version}")
    old, new = Table(store, spec, version - 1), Table(store, spec, version)
    done = diff(old, new)
    marks = _changed_shard_states(new, old, version)
    if not done.keys and not marks:
        raise ConfigError(f"{spec.name}@{version} changed no rows: there is nothing to revert")
    back = sorted({*done.removed, *done.changed})
    files = list(table.write_files(_restored_rows(old, done, back))) if back else []
    gone = [*done.added, *done.changed]
    counts = {"added": len(done.removed), "removed": len(done.added), "changed": len(done.changed)}
    metadata = Lineage(config, "revert", {spec.name: version}).metadata(counts, f"{spec.name}@{version}")
    rewrite, before = plan_upsert(table, files, gone, None, metadata), table.version

    def plan() -> LogEntry | None:
        later = diff(new, Table(store, spec, table.version), only=done.keys)
        if both := sorted(later.keys & done.keys):
            raise DatasetError(
                f"{spec.name}@{version} cannot be reverted: {len(both):,} of its {len(done.keys):,} rows were changed "
                f"again later (first: {both[0][:16]}); restore a version instead (emoji-ldm dataset restore)"
            )
        entry = rewrite()
        assert entry is not None, "without a shard there is always something to do"
        return LogEntry(entry.add, entry.remove, marks, metadata, "REVERT")

    return RestoreResult(spec.name, before, commit_entry(table, plan), counts)


def _changed_shard_states(now: Table, old: Table, first: int) -> dict[str, bool]:
    """{shard: whether it is done at `old`} for the shards that versions from `first` on marked otherwise."""
    return {name: old.committed(name) for name, done in shard_states(now, first).items() if done != old.committed(name)}


def _restored_rows(old: Table, done: TableDiff, keys: list[str]) -> Iterable[pa.Table]:
    """The rows of these keys as they were, from files that the commit took out."""
    chosen = pa.array(keys, pa.string())
    kept = set(done.b.live())
    for path in old.live():
        if path not in kept:
            with old.reading(), old.store.filesystem.open_input_file(old.resolve(path)) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(ROW_GROUP_ROWS):
                    yield pa.Table.from_batches([batch.filter(pc.is_in(batch.column(old.spec.key), chosen))])
