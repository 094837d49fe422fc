"""A Delta table of the store: workers write Parquet files, one driver commits each shard once.

A file is nothing until it is committed: a worker that dies leaves an orphan, never a
row. A commit carries its shard's name as a Delta app transaction, so that committing a
shard again, in any process, changes nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, creation_entry, entry_path, read_entry
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS, DataFile, write_files
from emoji_ldm.dataset.delta.snapshot import live_files, missing_files, open_table
from emoji_ldm.dataset.delta.upsert import plan_replace, plan_upsert
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store

__all__ = ["ROW_GROUP_ROWS", "DataFile", "Table"]


class Table:
    """One table of a store, at its newest version or a pinned one. Opening reads nothing; the first commit makes it."""

    def __init__(self, store: Store, spec: TableSpec, version: int | None = None) -> None:
        """Name the table; nothing is read or made yet. A table pinned to a version takes no
        commits; version -1 is the table before it was made.
        """
        self.store, self.spec, self.pinned = store, spec, version
        self.since: int | None = None  # newest version the writer knows; with one, others' rows end its commits
        self._delta: DeltaTable | None = None
        self._keys: dict[str, pa.ChunkedArray] = {}
        self._asked: dict[str, tuple[int, bool]] = {}  # {shard: (version, whether it was done then)}
        self._live: tuple[int, dict[str, DataFile]] = (-1, {})

    def write_file(self, rows: pa.Table) -> DataFile:
        """Write rows (at least one) as one uncommitted Parquet file."""
        assert rows.num_rows, "a file holds at least one row"
        return next(write_files(self.store, self._folder, self.spec, [rows], file_bytes=None))

    def write_files(self, tables: Iterable[pa.Table]) -> Iterator[DataFile]:
        """Stream rows into uncommitted Parquet files of about 128 MB."""
        return write_files(self.store, self._folder, self.spec, tables)

    def commit(self, files: Sequence[DataFile], *, app_id: str, metadata: Mapping[str, str]) -> int | None:
        """Make files part of the table in one version, once per `app_id`.

        Args:
            files: From `write_file`; none makes a version that only marks the shard as done.
            app_id: Names the shard over all runs that would do the same work.
            metadata: Lineage, kept in the version's log entry.

        Returns:
            The new version, or None if this shard was committed before (and not undone since).

        Raises:
            DatasetError: The table has another schema, is pinned, or other writers leave no room.
        """
        return self.replace((), files, app_id=app_id, metadata=metadata)

    def upsert(
        self, files: Sequence[DataFile], keys: Collection[str], *, app_id: str, metadata: Mapping[str, str]
    ) -> int | None:
        """Commit files and drop, in the same version, older rows whose key is in `keys`; once per `app_id`.

        Returns:
            The new version, or None if this shard was committed before (and not undone since).
        """
        self._create()
        return commit_entry(self, plan_upsert(self, files, keys, app_id, metadata))

    def replace(
        self, remove: Collection[str], add: Sequence[DataFile], *, app_id: str | None = None,
        metadata: Mapping[str, str], operation: str = "WRITE", data_change: bool = True,
    ) -> int | None:  # fmt: skip
        """Take out live files and put in others, in one version, once per `app_id` where one is given.

        Args:
            remove: Paths as `live` names them.
            add: From `write_file`.
            app_id: Names the work over all runs that would do it; None does it whenever asked.
            metadata: Lineage, kept in the version's log entry.
            operation: Name of the change in the log.
            data_change: False if the table's rows stay the same, as when files are joined.

        Returns:
            The new version, or None if it was done before.

        Raises:
            DatasetError: A file of `remove` is not live any more, since another writer replaced it.
        """
        self._create()
        shards = {app_id: True} if app_id else {}
        return commit_entry(
            self, plan_replace(self, remove, LogEntry(add, (), shards, metadata, operation, data_change))
        )

    def committed(self, app_id: str) -> bool:
        """Whether the shard of this name is in the table, and was not undone since."""
        delta = self._open()
        if delta is None:
            return False
        asked, done = self._asked.get(app_id, (None, False))
        if asked is None:  # delta-rs reads the log since its last checkpoint for this
            with self.reading():
                done = (delta.transaction_version(app_id) or 0) > 0
        else:
            for version in range(asked + 1, delta.version() + 1):
                done = _shard_state(read_entry(self, version), app_id, done)
        self._asked[app_id] = (delta.version(), done)
        return done

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._open() is not None

    @property
    def version(self) -> int:
        """Newest version that this object has seen, -1 if the table is not there."""
        delta = self._open()
        return -1 if delta is None else delta.version()

    def refresh(self) -> None:
        """See what others committed since."""
        self._delta = None

    def read(self, columns: Sequence[str] | None = None, *, filter: pc.Expression | None = None) -> pa.Table:
        """Rows of the table, optionally some columns and rows; empty if the table is not there."""
        with self.reading():
            return self._dataset().to_table(columns=list(columns) if columns else None, filter=filter)

    def batches(self, columns: Sequence[str], *, batch_rows: int = ROW_GROUP_ROWS) -> Iterator[pa.RecordBatch]:
        """All rows in parts of at most `batch_rows`, oldest files first: memory stays flat, appended rows come last."""
        for path in self.live():
            with self.reading(), self.store.filesystem.open_input_file(self.resolve(path)) as stream:
                file = pq.ParquetFile(stream, pre_buffer=True)  # one request for several column chunks
                for start in range(0, file.num_row_groups, 10):  # not all at once: that would hold the whole file
                    groups = list(range(start, min(start + 10, file.num_row_groups)))
                    rows = file.read_row_groups(groups, columns=list(columns)).cast(self._schema_of(columns))
                    yield from rows.to_batches(max_chunksize=batch_rows)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows, without reading the rest."""
        with self.reading():
            return self._dataset().head(num_rows)

    def count(self) -> int:
        """Number of rows."""
        return sum(file.num_rows for file in self.live().values())

    def keys(self) -> set[str]:
        """Every key of the table."""
        return set(self.read([self.spec.key]).column(0).to_pylist())

    def keys_of(self, path: str) -> pa.ChunkedArray:
        """The keys of one data file; kept, as files never change and each commit that replaces rows asks for all."""
        if path not in self._keys:
            source = self.resolve(path)
            with self.reading():
                names = pq.read_table(source, columns=[self.spec.key], filesystem=self.store.filesystem)
            self._keys = {
                **{old: keys for old, keys in self._keys.items() if old in self.live()},
                path: names.column(0),
            }
        return self._keys[path]

    def locate(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Which data files hold these keys: {file: keys}, so that a shard reads only its own files."""
        wanted, found = set(keys), {}
        for path in self.live():
            hits = [key for key in self.keys_of(path).to_pylist() if key in wanted]
            if hits:
                found[path] = hits
        return found

    def read_located(self, located: Mapping[str, Sequence[str]], columns: Sequence[str]) -> pa.Table:
        """The rows that `locate` found."""
        parts = [self._read_file(path, keys, columns) for path, keys in located.items()]
        return pa.concat_tables(parts) if parts else self._schema_of(columns).empty_table()

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits with their metadata, newest first; of a pinned table those up to its version."""
        if self.pinned is not None:  # delta-rs 1.6.6 misnumbers the history of a table loaded at a version
            whole = Table(self.store, self.spec).history()
            return [entry for entry in whole if entry["version"] <= self.pinned][:limit]
        delta = self._open()
        with self.reading():
            return [] if delta is None else delta.history(limit)

    @property
    def path(self) -> str:
        """The table's folder inside the store."""
        return self.store.table_path(self.spec.name)

    def resolve(self, path: str) -> str:
        """Where a data file lies in the store's filesystem; a branch's may lie in the folder that it came from."""
        return posixpath.normpath(f"{self._folder}/{path}")

    def live(self) -> dict[str, DataFile]:
        """{path: file} of the committed files, oldest first."""
        delta = self._open()
        if delta is None:
            return {}
        if self._live[0] != delta.version():
            with self.reading():
                found = {file.path: file for file in live_files(delta)}
                if self.pinned is not None:
                    self._check_files(found)
            self._live = (delta.version(), found)
        return self._live[1]

    def delta(self) -> DeltaTable:
        """The open Delta table."""
        delta = self._open()
        assert delta is not None, "the table is there"
        return delta

    def update(self) -> None:
        """Read what others committed since; cheaper than `refresh`."""
        with self.reading():
            self.delta().update_incremental()

    def reading(self) -> AbstractContextManager[None]:
        """Within it, a store or a log that cannot be read is a StoreError that names the table."""
        return self.store.reaching(f"read table {self.spec.name}", DeltaError)

    @property
    def _folder(self) -> str:
        return self.store.path(self.path)

    def _dataset(self) -> ds.Dataset:
        paths = [self.resolve(path) for path in self.live()]
        return ds.dataset(paths, schema=self.spec.schema, format="parquet", filesystem=self.store.filesystem)

    def _read_file(self, path: str, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
        chosen = pc.field(self.spec.key).isin(list(keys))
        source = self.resolve(path)
        with self.reading():
            table = pq.read_table(source, columns=list(columns), filters=chosen, filesystem=self.store.filesystem)
        return table.cast(self._schema_of(columns))

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.spec.schema.field(name) for name in columns])

    def _open(self) -> DeltaTable | None:
        if self._delta is None and self.pinned != -1:
            self._delta = open_table(self.store, self.spec, self.pinned)
        return self._delta

    def _create(self) -> None:
        """Make the table if it is not there; the first of several writers makes it for all."""
        if self.pinned is not None:
            raise DatasetError(f"table {self.spec.name} is read at version {self.pinned}; only the newest is written")
        if self._open() is None:
            self.store.write_once(creation_entry(self.spec), entry_path(self.path, 0))

    def _check_files(self, paths: Collection[str]) -> None:
        """DatasetError unless every file is there: an old version may have lost its files to a vacuum."""
        sources = [self.resolve(path) for path in paths]
        if gone := missing_files(self.store, sources):
            raise DatasetError(
                f"{self.spec.name}@{self.pinned} cannot be read: {len(gone)} of its {len(sources)} files were "
                "deleted by a vacuum; choose a newer version (emoji-ldm dataset log)"
            )


def _shard_state(actions: Iterable[Action], app_id: str, before: bool) -> bool:
    marks = [action["txn"]["version"] > 0 for action in actions if action.get("txn", {}).get("appId") == app_id]
    return marks[-1] if marks else before
