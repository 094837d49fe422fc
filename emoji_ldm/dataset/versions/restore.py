"""`dataset restore` and `dataset revert`: new versions that bring back old rows; the history stays complete.

`restore` makes the newest version equal to an old one: files are referenced again, none is copied. `revert` undoes a
single commit and keeps later ones: it compares the versions before and after that commit and writes the difference
back. Both undo shards as well. A shard whose rows go is marked as not done in the same commit, one whose rows come
back as done, so that running a stage again does exactly the work that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import LogEntry, shard_states
from emoji_ldm.dataset.delta.parquet_reader import iter_batches
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS
from emoji_ldm.dataset.delta.upsert import plan_upsert
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.diff import TableDiff, diff
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.dataset.versions.refs import Point
from emoji_ldm.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class RestoreResult:
    """What a restore or revert did to one table."""

    table: str
    before: int  # the version to restore in order to undo this
    version: int | None  # None if there was nothing to do
    counts: dict[str, int] = field(default_factory=dict)


def restore(point: Point, table: Table, run: RunInfo) -> RestoreResult:
    """Commit a version of `table` with the rows that it has at `point`.

    A table that the point does not name stays as it is.

    Raises:
        ConfigError: The point is on another branch than the table.
        DatasetError: The old version lost files to a vacuum, or a vacuum is running.
    """
    old = point.table(table.spec)
    # Version numbers of one branch mean nothing in another.
    if point.store.branch != table.store.branch:
        where = f"branch {point.store.branch}" if point.store.branch else "the main line"
        raise ConfigError(f"{point.label} is on {where}: restore it there (branch={point.store.branch or 'null'})")
    before, counts = table.version, {"added": 0, "removed": 0}
    if not point.names(table.spec):
        return RestoreResult(table.spec.name, before, None, counts)

    def plan() -> LogEntry | None:
        # A lost lease means that a vacuum may have begun, so the plan must not name old files any more. Each attempt
        # asks again, since races may have taken minutes.
        lock.renew()
        # Compared by path: data files never change, so equal paths hold equal rows.
        live = table.live_files()
        add = [target[path] for path in target if path not in live]
        remove = [live[path] for path in live if path not in target]
        if not add and not remove:
            return None
        counts.update(added=sum(f.num_rows for f in add), removed=sum(f.num_rows for f in remove))
        # Shards follow their rows in the same commit. If their marks stayed, a later run would believe that rows exist
        # which the restore has taken away, and never make them again.
        shard_states = _changed_shard_states(table, old, max(old.version, 0) + 1)
        metadata = Lineage(run, "restore", {table.spec.name: old.version}).metadata(counts, point.label)
        return LogEntry(add, remove, shard_states, metadata, "RESTORE")

    # Old files are referenced again, so no vacuum may delete them meanwhile.
    with store_lock(table.store, "restore") as lock:
        target = old.live_files()
        return RestoreResult(table.spec.name, before, commit_entry(table, plan), counts)


def revert(table: Table, version: int, run: RunInfo) -> RestoreResult:
    """Undo what one commit did to rows, and keep what later ones did.

    Raises:
        ConfigError: There is no such version, or it changed no rows.
        DatasetError: A later commit changed the same rows.
    """
    spec, store = table.spec, table.store
    if not 1 <= version <= table.version:
        raise ConfigError(f"{spec.name}@{version} cannot be reverted: commits are {spec.name}@1 to @{table.version}")
    old, new = Table(store, spec, version - 1), Table(store, spec, version)
    # Rows are compared and not files, since a commit may have rewritten whole files to change a few of their rows.
    undone = diff(old, new)
    # Only this one entry is examined: the shards that it marked, and how they stood before it.
    undone_shards = _changed_shard_states(new, old, version)
    if not undone.keys and not undone_shards:
        raise ConfigError(f"{spec.name}@{version} changed no rows: there is nothing to revert")
    restored_keys = sorted({*undone.removed, *undone.changed})
    # New files are written even for rows that an old file still holds, because that file may hold other rows as well,
    # which later commits have replaced.
    files = list(table.write_files(_restored_rows(old, undone, restored_keys))) if restored_keys else []
    dropped_keys = [*undone.added, *undone.changed]
    counts = {"added": len(undone.removed), "removed": len(undone.added), "changed": len(undone.changed)}
    metadata = Lineage(run, "revert", {spec.name: version}).metadata(counts, f"{spec.name}@{version}")
    # No app id is given: a second revert of the same commit is refused by the check in the plan, and a commit that was
    # restored after a revert can be reverted again.
    rewrite, before = plan_upsert(table, files, dropped_keys, None, metadata), table.version

    def plan() -> LogEntry | None:
        # A row that a later commit changed again has no value that both would agree on.
        # The check belongs to the plan and is made for each attempt, since a writer that won the race may have changed
        # one of the rows.
        later = diff(new, Table(store, spec, table.version), only=undone.keys)
        if both := sorted(later.keys & undone.keys):
            raise DatasetError(
                f"{spec.name}@{version} cannot be reverted: {len(both):,} of its {len(undone.keys):,} rows were "
                f"changed again later (first: {both[0][:16]}); restore a version instead (emoji-ldm dataset restore)"
            )
        # The upsert knows which live files hold the rows. Only its lists of files are used; name, marks and lineage are
        # those of the revert.
        entry = rewrite()
        assert entry is not None, "an upsert without app id is never done already"
        return LogEntry(entry.add, entry.remove, undone_shards, metadata, "REVERT")

    return RestoreResult(spec.name, before, commit_entry(table, plan), counts)


def _changed_shard_states(new: Table, old: Table, first: int) -> dict[str, bool]:
    """{app id: whether it is done at `old`} of the shards that versions from `first` on to `new` marked otherwise."""
    return {name: old.committed(name) for name, done in shard_states(new, first).items() if done != old.committed(name)}


def _restored_rows(old: Table, undone: TableDiff, keys: list[str]) -> Iterable[pa.Table]:
    """The rows of these keys as they were, read from the files that the commit removed."""
    chosen = pa.array(keys, pa.string())
    unchanged_files = set(undone.b.live_files())
    for path in old.live_files():
        if path not in unchanged_files:
            with old.read_errors(), old.store.filesystem.open_input_file(old.resolve(path)) as stream:
                for batch in iter_batches(pq.ParquetFile(stream), old.spec.schema, ROW_GROUP_ROWS):
                    yield pa.Table.from_batches([batch.filter(pc.is_in(batch.column(old.spec.key), chosen))])
