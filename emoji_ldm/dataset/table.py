"""A Delta table of the store: workers write Parquet files, one driver commits each shard once.

A file is nothing until it is committed: a worker that dies leaves an orphan, never a
row. A commit carries its shard's name as a Delta app transaction, so that committing a
shard again, in any process, changes nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.records import TableSpec
from emoji_ldm.store import Store

ROW_GROUP_ROWS = 100  # the size that Hugging Face's viewer wants for pictures
KEEP_HISTORY = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}


@dataclass(frozen=True)
class DataFile:
    """Facts of a Parquet file that was written but perhaps not committed yet."""

    path: str  # inside the table's folder
    size: int  # bytes
    num_rows: int
    stats: str  # Delta statistics, JSON

    def to_json(self) -> str:
        """The facts as one line, to cross process borders."""
        return json.dumps(asdict(self))


class Table:
    """One table of a store. Opening it reads nothing; it appears with its first commit."""

    def __init__(self, store: Store, spec: TableSpec) -> None:
        """Name the table; nothing is read or made yet."""
        self.store, self.spec = store, spec
        self._delta: DeltaTable | None = None

    def write_file(self, rows: pa.Table) -> DataFile:
        """Write rows as an uncommitted Parquet file; the name is new, so nothing is ever replaced."""
        rows = rows.select(self.spec.schema.names).cast(self.spec.schema)
        path = f"part-{uuid.uuid4().hex}.parquet"
        target = f"{self._folder}/{path}"
        try:
            if not self.store.is_s3:
                self.store.filesystem.create_dir(self._folder)
            pq.write_table(rows, target, filesystem=self.store.filesystem, row_group_size=ROW_GROUP_ROWS,
                           compression="zstd", write_page_index=True)  # fmt: skip
            size = self.store.filesystem.get_file_info(target).size
        except OSError as error:
            raise StoreError(f"cannot write table {self.spec.name} in {self.store.uri}: {error}") from None
        return DataFile(path, size, rows.num_rows, self._stats(rows))

    def commit(self, files: Sequence[DataFile], *, app_id: str, metadata: Mapping[str, str]) -> int | None:
        """Make files part of the table in one version, once per `app_id`.

        Args:
            files: From `write_file`; none makes a version that only marks the shard as done.
            app_id: Names the shard over all runs that would do the same work.
            metadata: Lineage, kept in the version's log entry.

        Returns:
            The new version, or None if this shard was committed before.

        Raises:
            DatasetError: The table has another schema, or the log refuses the commit.
        """
        delta = self._open_or_create()
        for _ in range(10):
            if delta.transaction_version(app_id) is not None:
                return None
            try:
                delta.create_write_transaction(
                    [_action(file) for file in files], "append", Schema.from_arrow(self.spec.schema),
                    commit_properties=CommitProperties(dict(metadata), 20, [Transaction(app_id, 1)]),
                )  # fmt: skip
            except CommitFailedError:
                delta.update_incremental()  # another writer came first: is our shard in now?
                continue
            except DeltaError as error:
                raise DatasetError(f"table {self.spec.name} in {self.store.uri} refuses a commit: {error}") from None
            delta.update_incremental()
            return int(delta.version())
        raise DatasetError(f"table {self.spec.name} in {self.store.uri}: ten commits in a row lost to other writers")

    def committed(self, app_id: str) -> bool:
        """Whether the shard of this name is in the table."""
        delta = self._open()
        return delta is not None and delta.transaction_version(app_id) is not None

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
        return self._dataset().to_table(columns=list(columns) if columns else None, filter=filter)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows, without reading the rest."""
        return self._dataset().head(num_rows)

    def count(self) -> int:
        """Number of rows."""
        return sum(self._files().values())

    def keys(self) -> set[str]:
        """Every key of the table."""
        return set(self.read([self.spec.key]).column(0).to_pylist())

    def locate(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Which data files hold these keys: {file: keys}, so that a shard reads only its own files."""
        wanted, found = set(keys), {}
        for path in self._files():
            names = pq.read_table(f"{self._folder}/{path}", columns=[self.spec.key], filesystem=self.store.filesystem)
            hits = [key for key in names.column(0).to_pylist() if key in wanted]
            if hits:
                found[path] = hits
        return found

    def read_located(self, located: Mapping[str, Sequence[str]], columns: Sequence[str]) -> pa.Table:
        """The rows that `locate` found."""
        parts = [self._read_file(path, keys, columns) for path, keys in located.items()]
        return pa.concat_tables(parts) if parts else self._schema_of(columns).empty_table()

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits with their metadata, newest first."""
        delta = self._open()
        return [] if delta is None else delta.history(limit)

    @cached_property
    def _folder(self) -> str:
        return self.store.path("tables", self.spec.name)

    def _files(self) -> dict[str, int]:
        """{path: rows} of the committed files."""
        delta = self._open()
        if delta is None:
            return {}
        actions = pa.table(delta.get_add_actions(flatten=True))
        return dict(zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True))

    def _dataset(self) -> ds.Dataset:
        paths = [f"{self._folder}/{path}" for path in self._files()]
        return ds.dataset(paths, schema=self.spec.schema, format="parquet", filesystem=self.store.filesystem)

    def _read_file(self, path: str, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
        chosen = pc.field(self.spec.key).isin(list(keys))
        target = f"{self._folder}/{path}"
        table = pq.read_table(target, columns=list(columns), filters=chosen, filesystem=self.store.filesystem)
        return table.cast(self._schema_of(columns))

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.spec.schema.field(name) for name in columns])

    def _stats(self, rows: pa.Table) -> str:
        if not rows.num_rows:
            return json.dumps({"numRecords": 0})
        extremes = pc.min_max(rows[self.spec.key]).as_py()
        low, high = {self.spec.key: extremes["min"]}, {self.spec.key: extremes["max"]}
        return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": {}})

    def _open(self) -> DeltaTable | None:
        if self._delta is None:
            try:
                self._delta = DeltaTable(
                    self.store.table_uri(self.spec.name), storage_options=self.store.storage_options()
                )
            except TableNotFoundError:
                return None
            except (DeltaError, OSError) as error:
                raise StoreError(f"cannot open table {self.spec.name} in {self.store.uri}: {error}") from None
            self._check_schema(self._delta)
        return self._delta

    def _open_or_create(self) -> DeltaTable:
        delta = self._open()
        if delta is not None:
            return delta
        uri, schema = self.store.table_uri(self.spec.name), Schema.from_arrow(self.spec.schema)
        try:
            DeltaTable.create(uri, schema, mode="ignore", name=self.spec.name, configuration=KEEP_HISTORY,
                              storage_options=self.store.storage_options())  # fmt: skip
        except (DeltaError, OSError) as error:
            raise StoreError(f"cannot make table {self.spec.name} in {self.store.uri}: {error}") from None
        delta = self._open()
        assert delta is not None, "a table that was just made is there"
        return delta

    def _check_schema(self, delta: DeltaTable) -> None:
        ours = {field.name: str(field.type) for field in Schema.from_arrow(self.spec.schema).fields}
        theirs = {field.name: str(field.type) for field in delta.schema().fields}
        if ours != theirs:
            odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise DatasetError(
                f"table {self.spec.name} in {self.store.uri} has another schema (columns {', '.join(odd)} differ); "
                "it was made by another version or program: use another store"
            )


def _action(file: DataFile) -> AddAction:
    return AddAction(file.path, file.size, {}, int(time.time() * 1000), True, file.stats)
