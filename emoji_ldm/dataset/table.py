"""`Table`: a Delta table of the store. Workers write Parquet files, and one driver commits each shard exactly once.

A data file is invisible until it is committed: a worker that dies leaves an orphan, never a row. A commit names its
shard (such as 64 image URLs) as a Delta application transaction: committing it again, after any crash, changes nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, creation_entry, entry_path, read_entry
from emoji_ldm.dataset.delta.parquet_reader import read_groups, read_rows
from emoji_ldm.dataset.delta.parquet_writer import ROW_GROUP_ROWS, DataFile, write_files
from emoji_ldm.dataset.delta.snapshot import missing_files, open_table, read_live_files
from emoji_ldm.dataset.delta.upsert import plan_replace, plan_upsert
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store

GROUPS_PER_READ = 10  # row groups; reading a whole file at once would hold 128 MB of images


class Table:
    """One table of a store, at its newest version or pinned to one. Opening it reads nothing."""

    def __init__(self, store: Store, spec: TableSpec, version: int | None = None) -> None:
        """Name the table; the first commit creates it.

        Args:
            store: Main line or branch.
            spec: Name, schema and key column.
            version: Pins the table, which takes no commits then; -1 is the table before it was created.
        """
        self.store, self.spec, self.pinned = store, spec, version
        self.expected_version: int | None = None  # set it to let commits fail if others changed rows since
        self._delta: DeltaTable | None = None
        self.key_cache: dict[str, pa.ChunkedArray] = {}  # {path: keys}; whoever has read them may fill it
        self._shard_cache: dict[str, tuple[int, bool]] = {}  # {app id: (version, whether it was done then)}
        self._live_cache: tuple[int, dict[str, DataFile]] = (-1, {})  # (version, {path: file})

    def write_file(self, rows: pa.Table) -> DataFile:
        """Write rows (at least one) as one uncommitted Parquet file."""
        assert rows.num_rows, "a file holds at least one row"
        return next(write_files(self.store, self._folder, self.spec, [rows], file_bytes=None))

    def write_files(self, tables: Iterable[pa.Table]) -> Iterator[DataFile]:
        """Stream rows into uncommitted Parquet files of about 128 MB."""
        return write_files(self.store, self._folder, self.spec, tables)

    def commit(self, files: Sequence[DataFile], *, app_id: str, metadata: Mapping[str, str]) -> int | None:
        """Add files to the table in one version, once per `app_id`.

        Args:
            files: From `write_file`; none makes a version that only marks the shard as done.
            app_id: Name of the shard, the same in all runs that would do the same work.
            metadata: Lineage, stored in the version's log entry.

        Returns:
            The new version, or None if this shard was committed before (and not undone since).

        Raises:
            DatasetError: The table has another schema, is pinned, or other writers leave no room.
        """
        # A plain append is a replacement that removes nothing.
        return self.replace((), files, app_id=app_id, metadata=metadata)

    def upsert(
        self, files: Sequence[DataFile], keys: Collection[str], *, app_id: str, metadata: Mapping[str, str]
    ) -> int | None:
        """Add files and drop, in the same version, older rows whose key is in `keys`; once per `app_id`.

        Returns:
            The new version, or None if this shard was committed before (and not undone since).
        """
        self._create()
        return commit_entry(self, plan_upsert(self, files, keys, app_id, metadata))

    def replace(
        self, remove: Collection[str], add: Sequence[DataFile], *, app_id: str | None = None,
        metadata: Mapping[str, str], operation: str = "WRITE", data_change: bool = True,
    ) -> int | None:  # fmt: skip
        """Remove live files and add others in one version, once per `app_id` where one is given.

        Args:
            remove: Paths as `live_files` names them.
            add: From `write_file`.
            app_id: Name of the work, the same in all runs that would do it; None does it on each call.
            metadata: Lineage, stored in the version's log entry.
            operation: Name of the change in the log.
            data_change: False if the set of rows stays the same, as when files are joined.

        Returns:
            The new version, or None if it was done before.

        Raises:
            DatasetError: A file of `remove` is not live any more, because another writer replaced it.
        """
        self._create()
        # Without a name, the work is not recorded and can be done again, as a user's command may want.
        shard_states = {app_id: True} if app_id else {}
        entry = LogEntry(add, (), shard_states, metadata, operation, data_change)
        return commit_entry(self, plan_replace(self, remove, entry))

    def committed(self, app_id: str) -> bool:
        """Whether the shard of this name was committed, and not undone since."""
        delta = self._open()
        if delta is None:
            return False
        known_version, done = self._shard_cache.get(app_id, (None, False))
        if known_version is None:
            # delta-rs reads the log since its last checkpoint for this, which is too slow to do at every commit.
            with self.read_errors():
                done = (delta.transaction_version(app_id) or 0) > 0
        else:
            # From then on the entries since the last answer are enough: usually none or one.
            for version in range(known_version + 1, delta.version() + 1):
                done = _shard_state(read_entry(self, version), app_id, done)
        self._shard_cache[app_id] = (delta.version(), done)
        return done

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._open() is not None

    @property
    def version(self) -> int:
        """Newest version that this object has seen, -1 if the table does not exist."""
        delta = self._open()
        return -1 if delta is None else delta.version()

    def refresh(self) -> None:
        """See what others committed since the table was opened."""
        # The next access opens the newest version.
        self._delta = None

    def refresh_incrementally(self) -> None:
        """As `refresh`, of a table that exists, by reading the new log entries only."""
        with self.read_errors():
            self.delta().update_incremental()

    def read(self, columns: Sequence[str] | None = None, *, filter: pc.Expression | None = None) -> pa.Table:
        """Rows of the table, optionally some columns and rows; empty if the table does not exist."""
        with self.read_errors():
            names = self.spec.schema.names if columns is None else columns
            return read_rows(self._sources(), self.store.filesystem, self.spec.schema, names, filter)

    def batches(
        self, columns: Sequence[str], *, batch_rows: int = ROW_GROUP_ROWS, paths: Iterable[str] | None = None,
        groups_per_read: int = GROUPS_PER_READ,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """Rows in batches of at most `batch_rows`, oldest files first: memory stays flat, new rows come last.

        All files are read, or `paths` of `live_files`; so many row groups at a time.
        """
        for path in self.live_files() if paths is None else paths:
            with self.read_errors(), self.store.filesystem.open_input_file(self.resolve(path)) as stream:
                for rows in read_groups(stream, self._schema_of(columns), groups_per_read):
                    yield from rows.to_batches(max_chunksize=batch_rows)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows, without reading the rest."""
        with self.read_errors():
            dataset = ds.dataset(self._sources(), schema=self.spec.schema, format="parquet",
                                 filesystem=self.store.filesystem)  # fmt: skip
            return dataset.head(num_rows)

    def count(self) -> int:
        """Number of rows, from the log alone."""
        return sum(file.num_rows for file in self.live_files().values())

    def keys(self) -> set[str]:
        """Every key of the table."""
        return set(self.read([self.spec.key]).column(0).to_pylist())

    def keys_of(self, path: str) -> pa.ChunkedArray:
        """The keys of one data file; cached, since files never change and each upsert needs those of all files."""
        if path not in self.key_cache:
            source = self.resolve(path)
            with self.read_errors():
                names = read_rows([source], self.store.filesystem, self.spec.schema, [self.spec.key], None)
            live = self.live_files()
            self.key_cache = {known: keys for known, keys in self.key_cache.items() if known in live}
            self.key_cache[path] = names.column(0)
        return self.key_cache[path]

    def locate(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Which data files hold these keys: {path: keys}, so that a shard reads only its own files."""
        # A dict keeps the order of the files, so that workers read the same files in the same order in every run.
        requested, found = set(keys), {}
        for path in self.live_files():
            hits = [key for key in self.keys_of(path).to_pylist() if key in requested]
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
        with self.read_errors():
            return [] if delta is None else delta.history(limit)

    @property
    def path(self) -> str:
        """The table's folder, relative to the store."""
        return self.store.table_path(self.spec.name)

    def resolve(self, path: str) -> str:
        """Path of a data file in the store's file system; a branch's file may lie in the folder it branched from."""
        return posixpath.normpath(f"{self._folder}/{path}")

    def live_files(self) -> dict[str, DataFile]:
        """{path: file} of this version's files, oldest first.

        Raises:
            DatasetError: The table is pinned to a version that lost files to a vacuum.
        """
        delta = self._open()
        if delta is None:
            return {}
        # Live files change only with the version, and many calls ask for them.
        if self._live_cache[0] != delta.version():
            with self.read_errors():
                found = {file.path: file for file in read_live_files(self.store, self._folder, delta)}
                if self.pinned is not None:
                    self._check_files(found)
            self._live_cache = (delta.version(), found)
        return self._live_cache[1]

    def delta(self) -> DeltaTable:
        """The open Delta table, which must exist."""
        delta = self._open()
        assert delta is not None, "the table exists"
        return delta

    def read_errors(self) -> AbstractContextManager[None]:
        """Within it, a store or log that cannot be read is a StoreError that names the table."""
        return self.store.io_errors(f"read table {self.spec.name}", DeltaError)

    @property
    def _folder(self) -> str:
        return self.store.path(self.path)

    def _sources(self) -> list[str]:  # listing the folder would find orphans as well
        return [self.resolve(path) for path in self.live_files()]

    def _read_file(self, path: str, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
        chosen = pc.field(self.spec.key).isin(list(keys))
        with self.read_errors():
            return read_rows([self.resolve(path)], self.store.filesystem, self.spec.schema, columns, chosen)

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.spec.schema.field(name) for name in columns])

    def _open(self) -> DeltaTable | None:
        if self._delta is None and self.pinned != -1:
            self._delta = open_table(self.store, self.spec, self.pinned)
        return self._delta

    def _create(self) -> None:
        """Create the table if it does not exist; the first of several writers does it for all."""
        # A pinned table is a view of the past, which nobody can change.
        if self.pinned is not None:
            raise DatasetError(f"table {self.spec.name} is pinned to version {self.pinned}; only the newest is written")
        if self._open() is None:
            self.store.mark_format()
            self.store.write_if_absent(creation_entry(self.spec), entry_path(self.path, 0))

    def _check_files(self, paths: Collection[str]) -> None:
        sources = [self.resolve(path) for path in paths]
        if gone := missing_files(self.store, sources):
            raise DatasetError(
                f"{self.spec.name}@{self.pinned} cannot be read: {len(gone)} of its {len(sources)} files were "
                "deleted by a vacuum; choose a newer version (emoji-ldm dataset log)"
            )


def _shard_state(actions: Iterable[Action], app_id: str, before: bool) -> bool:
    """Whether the shard is done after these actions, if it was done or not `before` them."""
    states = [action["txn"]["version"] > 0 for action in actions if action.get("txn", {}).get("appId") == app_id]
    return states[-1] if states else before
