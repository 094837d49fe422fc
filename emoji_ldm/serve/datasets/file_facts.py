"""What is computed of each data file once, such as where the rows of an image are, or how many outcomes there are.

Data files never change, so a new version of a table costs its new files alone. A table that a crawl has just filled has
a file for every 64 images; read one after the other, each would cost the latency of the store several times. So all
files that are not known yet are read by one scan, many at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from emoji_ldm.dataset.table import Table

FILES_AT_ONCE = 32

Fact = TypeVar("Fact")


class FileFacts(Generic[Fact]):
    """A fact of every file of a table; those that were asked for last are kept, for all tables and threads."""

    def __init__(self, make: Callable[[pa.Table], Fact], max_rows: int) -> None:
        """Compute facts by `make`, from some columns of all rows of a file; keep those of files with so many rows."""
        self.make, self.max_rows = make, max_rows
        self._kept = OrderedDict[tuple[str, tuple[str, ...]], tuple[int, Fact]]()  # by path in the file system, columns
        self._num_rows = 0
        self._lock = threading.Lock()

    def of(self, table: Table, *columns: str) -> dict[str, Fact]:
        """Return the fact of each file of the table, oldest first, {path: fact}; raises StoreError."""
        sources = {table.resolve(path): path for path in table.live_files()}
        # Whoever asks for the same files meanwhile waits, and then finds them here.
        with self._lock:
            missing = [source for source in sources if (source, columns) not in self._kept]
            with table.read_errors():
                for source, rows in scan_files(table, missing, columns):
                    self._keep((source, columns), rows)
            found = {path: self._kept[source, columns][1] for source, path in sources.items()}
            for source in sources:
                self._kept.move_to_end((source, columns))
            while self._num_rows > self.max_rows and len(self._kept) > 1:
                self._num_rows -= self._kept.popitem(last=False)[1][0]
        return found

    def _keep(self, key: tuple[str, tuple[str, ...]], rows: pa.Table) -> None:
        self._kept[key] = rows.num_rows, self.make(rows)
        self._num_rows += rows.num_rows


def scan_files(table: Table, sources: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield (source, its rows) of files of a table, by their paths in the file system, many read at a time."""
    if not sources:
        return
    schema = pa.schema([table.spec.schema.field(name) for name in columns])
    dataset = ds.dataset(list(sources), schema=schema, format="parquet", filesystem=table.store.filesystem)
    batches = dataset.scanner(columns=list(columns), fragment_readahead=FILES_AT_ONCE).scan_batches()
    # Batches come in the order of the files; a file without rows has none.
    seen = set[str]()
    for source, group in groupby(batches, lambda batch: batch.fragment.path):
        seen.add(source)
        yield source, pa.Table.from_batches([each.record_batch for each in group], schema)
    for source in sources:
        if source not in seen:
            yield source, schema.empty_table()
