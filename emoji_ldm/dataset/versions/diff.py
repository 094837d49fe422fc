"""`dataset diff`: rows that were added, removed or changed between two versions of a table.

Only files that the two versions do not share are read. Rows are compared by one 64-bit hash per field (Python's keyed
hash, valid in this process only), so memory grows with the number of rows, never with their images: 8 bytes per field
and the key, about 200 bytes a row. Two different values collide with probability 2**-64.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoji_ldm.dataset.delta.parquet_reader import iter_batches
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import TableSpec

# Images of 2,000 rows take tens of megabytes, and that much is in memory at a time.
BATCH_ROWS = 2000
WIDTH = 80
Fields = tuple[str, ...]


@dataclass(frozen=True)
class TableDiff:
    """Rows of `b` against rows of `a`, by key."""

    a: Table
    b: Table
    added: list[str]
    removed: list[str]
    changed: dict[str, Fields]  # {key: names of the fields that differ}
    num_files: int  # read on both sides
    num_shared: int  # files of both versions, which were not read

    @property
    def keys(self) -> set[str]:
        """Keys of all rows that differ."""
        return {*self.added, *self.removed, *self.changed}

    def fields(self) -> dict[str, int]:
        """{field: changed rows in which it differs}, the most frequent first."""
        names = [name for fields in self.changed.values() for name in fields]
        return {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}

    def to_dict(self, num_rows: int) -> dict[str, Any]:
        """Counts and the first `num_rows` keys of each kind, ready for JSON."""
        first = dict(sorted(self.changed.items())[:num_rows])
        return {"table": self.b.spec.name, "from": self.a.version, "to": self.b.version,
                "rows": {"from": self.a.count(), "to": self.b.count()},
                "added": len(self.added), "removed": len(self.removed), "changed": len(self.changed),
                "fields": self.fields(), "first_added": self.added[:num_rows],
                "first_removed": self.removed[:num_rows],
                "first_changed": {key: list(fields) for key, fields in first.items()}}  # fmt: skip


def diff(a: Table, b: Table, *, only: Collection[str] | None = None) -> TableDiff:
    """Compare two versions of one table row by row: all rows, or those of the keys `only`. Keys are sorted.

    Raises:
        ConfigError: They are versions of different tables.
        DatasetError: A version lost files to a vacuum.
    """
    if a.spec.name != b.spec.name:
        raise ConfigError(f"{a.spec.name} and {b.spec.name} are different tables: compare two versions of one table")
    # Files are compared by their resolved paths, so that a branch shares files with its base.
    files_a, files_b = _sources(a), _sources(b)
    # A file that both versions contain holds the same rows in both, because data files never change. After an append,
    # only the appended files are left to read.
    shared = files_a & files_b
    # pyarrow releases the interpreter lock, so one side is read and decompressed while the other is hashed.
    with ThreadPoolExecutor(2) as pool:
        reading_a, reading_b = (
            pool.submit(_RowHashes.read, side, files - shared, only) for side, files in ((a, files_a), (b, files_b))
        )
        rows_a, rows_b = reading_a.result(), reading_b.result()
    # One index per row of b; it is null if a has no such key.
    # A row that moved from one file to another, as in an upsert or a compaction, has its key on both sides and equal
    # hashes, so it counts as neither added nor removed.
    index_in_a = pc.index_in(rows_b.keys, value_set=rows_a.keys)
    added = rows_b.keys.filter(pc.is_null(index_in_a))
    removed = rows_a.keys.filter(pc.invert(pc.is_in(rows_a.keys, value_set=rows_b.keys)))
    num_files = len(files_a ^ files_b)
    return TableDiff(
        a, b, sorted(added.to_pylist()), sorted(removed.to_pylist()), _changed_fields(a, rows_a, rows_b, index_in_a),
        num_files, len(shared),
    )  # fmt: skip


def _changed_fields(table: Table, rows_a: _RowHashes, rows_b: _RowHashes, index_in_a: pa.Array) -> dict[str, Fields]:
    """{key: names of the fields that differ} of rows that both sides have."""
    # Both index arrays have one entry per row that both sides have, in the order of b, so that hashes can be compared
    # row by row at once.
    common_b = np.flatnonzero(pc.is_valid(index_in_a).to_numpy(zero_copy_only=False))
    common_a = pc.drop_null(index_in_a).to_numpy()
    differs = rows_a.hashes[common_a] != rows_b.hashes[common_b]  # (rows, fields)
    rows = np.flatnonzero(differs.any(axis=1))
    names = np.array([name for name in table.spec.schema.names if name != table.spec.key])
    keys = rows_b.keys.take(pa.array(common_b[rows])).to_pylist()
    return {key: tuple(map(str, names[differs[row]])) for key, row in zip(keys, rows, strict=True)}


def format_diff(difference: TableDiff, num_rows: int) -> str:
    """Counts and the first `num_rows` keys of each kind, in lines of at most 80 columns."""
    facts = difference.to_dict(num_rows)
    rows = facts["rows"]
    lines = [f"{facts['table']}  {_name(difference.a)} ({rows['from']:,} rows) -> {_name(difference.b)} "
             f"({rows['to']:,} rows)",
             f"  added {facts['added']:,}   removed {facts['removed']:,}   changed {facts['changed']:,}"]  # fmt: skip
    if facts["fields"]:
        lines += _wrapped("  fields: ", (f"{name} {count:,}" for name, count in facts["fields"].items()))
    for sign, kind in (("+", "added"), ("-", "removed")):
        lines += [f"  {sign} {key[: WIDTH - 4]}" for key in facts[f"first_{kind}"]]
    for key, fields in facts["first_changed"].items():
        lines += _wrapped(f"  ~ {key[:20]}  ", fields)
    hidden = sum(max(0, facts[kind] - num_rows) for kind in ("added", "removed", "changed"))
    return "\n".join([*lines, *([f"  ... and {hidden:,} more rows (--rows N, --json)"] if hidden else [])]) + "\n"


@dataclass(frozen=True)
class _RowHashes:
    """Keys of rows, and a hash of each other field."""

    keys: pa.Array
    hashes: NDArray[np.int64]  # (N, fields without the key)

    @classmethod
    def read(cls, table: Table, sources: Iterable[str], only: Collection[str] | None) -> _RowHashes:
        chosen = None if only is None else pa.array(only, pa.string())
        keys, hashes = [pa.array([], pa.string())], [np.empty((0, len(table.spec.schema) - 1), np.int64)]
        for source in sorted(sources):
            with table.read_errors(), table.store.filesystem.open_input_file(source) as stream:
                for batch in _batches(pq.ParquetFile(stream), table.spec, chosen):
                    keys.append(batch.column(table.spec.key))
                    rest = [batch.column(name) for name in table.spec.schema.names if name != table.spec.key]
                    hashes.append(np.stack([_hashes(column) for column in rest], axis=1))
        return cls(pa.concat_arrays(keys), np.concatenate(hashes))


def _batches(file: pq.ParquetFile, spec: TableSpec, chosen: pa.Array | None) -> Iterator[pa.RecordBatch]:
    """Rows of the chosen keys, or all; of a file that holds none of them only the key column is read."""
    if chosen is None:
        yield from iter_batches(file, spec.schema, BATCH_ROWS)
    # The key column is small; most files hold none of the chosen keys and are not read further.
    elif pc.any(pc.is_in(file.read([spec.key]).column(0).cast(pa.string()), chosen)).as_py():
        for batch in iter_batches(file, spec.schema, BATCH_ROWS):
            yield batch.filter(pc.is_in(batch.column(spec.key), chosen))


def _hashes(column: pa.Array) -> NDArray[np.int64]:
    """`(N,)` one hash per value; equal values of one type have equal hashes within this process."""
    kind = column.type
    if pa.types.is_struct(kind):
        parts = [_hashes(part) for part in column.flatten()]
        # A struct, such as an image, is hashed by the hashes of its parts, so that no dict is built per row.
        return np.fromiter(map(hash, zip(*(part.tolist() for part in parts), strict=True)), np.int64, len(column))
    # Integers are hashed far more quickly than datetime objects.
    if pa.types.is_temporal(kind):
        column = column.cast(pa.int64())
    values: Iterable[Any] = column.to_pylist()
    if pa.types.is_list(kind):
        values = (None if value is None else tuple(value) for value in values)
    elif not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        # In Python, hash(-1) equals hash(-2), and each NaN object has a hash of its own. Texts of numbers have neither
        # problem.
        values = map(repr, values)
    return np.fromiter(map(hash, values), np.int64, len(column))


def _sources(table: Table) -> set[str]:
    return {table.resolve(path) for path in table.live_files()}


def _name(table: Table) -> str:
    return f"@{table.version}" if table.exists else "(does not exist)"


def _wrapped(head: str, words: Iterable[str]) -> list[str]:
    lines = [head]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > WIDTH:
            lines.append(" " * len(head))
        lines[-1] += word + "  "
    return [line.rstrip() for line in lines]


def diff_tables(tables_a: Mapping[str, Table], tables_b: Mapping[str, Table]) -> list[TableDiff]:
    """Differences of all tables that exist on at least one side, in the given order."""
    pairs = ((tables_a[name], tables_b[name]) for name in tables_a if name in tables_b)
    return [diff(a, b) for a, b in pairs if a.exists or b.exists]
