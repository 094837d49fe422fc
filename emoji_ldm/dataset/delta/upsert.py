"""Plans of versions that replace rows or files (see `delta_commit.commit_entry`).

Data files never change, so a row is replaced by rewriting its file without it, in the same version that adds the new
row ("copy on write"). Readers of the old version keep the old file; readers of the new one never see both rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.delta_commit import CommitTarget
from emoji_ldm.dataset.delta.delta_log import LogEntry
from emoji_ldm.dataset.delta.parquet_reader import iter_batches
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS, DataFile
from emoji_ldm.errors import DatasetError


def plan_upsert(
    table: CommitTarget,
    files: Sequence[DataFile],
    keys: Collection[str],
    app_id: str | None,
    metadata: Mapping[str, str],
) -> Callable[[], LogEntry | None]:
    """A plan that adds `files` and drops every older row whose key is in `keys`; None once `app_id`, if any, is done.

    The plan may be called several times, after lost races; a rewritten file is reused while its original is live.
    """
    # `rewritten` outlives a single try: {path: replacements}, None for a file that holds none of the keys. Data files
    # never change, so what was found out about one stays true however often the race is lost.
    dropped_keys, rewritten = sorted(set(keys)), dict[str, list[DataFile] | None]()

    def plan() -> LogEntry | None:
        # The winner of a lost race may have been the same shard, run twice by mistake or after a timeout. Without this
        # check its rows would be in the table twice.
        if app_id and table.committed(app_id):
            return None
        # Only files that no earlier try has examined are read; after a lost race these are few.
        live = table.live_files()
        for path in live.keys() - rewritten.keys():
            rewritten[path] = _rewritten_without(table, live[path], dropped_keys)
        # An empty list means that no row of the file is left: the file is removed, and none is added for it.
        # Files that are not live any more drop out here: whoever removed them has rewritten them, and their successors
        # are live and were examined above. What this writer made of the old ones stays behind as orphans.
        touched = {path: new for path in live if (new := rewritten[path]) is not None}
        add = [*files, *(file for new in touched.values() for file in new)]
        return LogEntry(add, [live[path] for path in touched], {app_id: True} if app_id else {}, metadata, "MERGE")

    return plan


def plan_replace(table: CommitTarget, remove: Collection[str], entry: LogEntry) -> Callable[[], LogEntry | None]:
    """A plan that removes the live files `remove` besides what `entry` says; None once the entry's shards are done.

    Raises:
        DatasetError: (by the plan) Another writer has removed one of them.
    """

    def plan() -> LogEntry | None:
        # Nothing is left to do only if every shard that the entry marks is done already. An entry that marks none is
        # committed on every call.
        if entry.shard_states and all(table.committed(name) for name in entry.shard_states):
            return None
        # A plain append does not depend on the files of the table, and listing them is the expensive part of a plan.
        live = table.live_files() if remove else {}
        # The caller read those files to make their replacements. If another writer replaced one first, its new rows are
        # not in the replacements and would be lost, so the work has to be done again from the start.
        if gone := [path for path in remove if path not in live]:
            raise DatasetError(
                f"table {table.spec.name} changed meanwhile: {len(gone)} of its files were replaced by another writer; "
                "run the command again"
            )
        # Removal actions need the size, which only the log knows.
        files = [live[path] for path in remove]
        return LogEntry(entry.add, files, entry.shard_states, entry.metadata, entry.operation, entry.data_change)

    return plan


def _rewritten_without(table: CommitTarget, file: DataFile, keys: Sequence[str]) -> list[DataFile] | None:
    """The file written again without the rows of these sorted keys; None if it holds none of them.

    Three checks, the cheapest first: the bounds in the log, the file's key column (cached), and only then its rows.
    """
    bounds, column = file.bounds(table.spec.key), table.spec.key
    # Both positions are equal if no wanted key lies between the smallest and the largest of the file. Appending a null
    # character to the largest gives the next possible text, so that a key equal to it counts as inside.
    if bounds and bisect_left(keys, bounds[0]) == bisect_left(keys, bounds[1] + "\0"):
        return None
    dropped = pa.array(keys, pa.string())
    source, store = table.resolve(file.path), table.store
    if not pc.any(pc.is_in(table.keys_of(file.path), dropped)).as_py():
        return None

    def remaining_rows() -> Iterator[pa.Table]:
        with table.read_errors(), store.filesystem.open_input_file(source) as stream:
            for batch in iter_batches(pq.ParquetFile(stream), table.spec.schema, ROW_GROUP_ROWS):
                yield pa.Table.from_batches([batch.filter(pc.invert(pc.is_in(batch.column(column), dropped)))])

    return list(table.write_files(remaining_rows()))
