"""`dataset diff` of two versions with 100,000 rows each, 10 % changed, against reading both versions whole.

There are two tables: captions (16 text columns), and images with incompressible files of 6 kB. The changed rows are
spread evenly, so that every file differs and none can be skipped: the worst case.
"""

from __future__ import annotations

import hashlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.diff import diff
from emoji_ldm.schemas import CAPTIONS, IMAGES, TableSpec
from emoji_ldm.store import Store

NUM_ROWS, QUICK_ROWS = 100_000, 10_000
CHANGED_EVERY = 10
PART_ROWS = 10_000
IMAGE_BYTES = 6_000
TARGET_S = 5.0


def run(*, quick: bool) -> dict[str, Any]:
    """Seconds of one diff (median of 3), and of reading the same two versions whole."""
    num_rows, figures = QUICK_ROWS if quick else NUM_ROWS, dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        for spec, changed in ((CAPTIONS, "caption"), (IMAGES, "title")):
            before, after = _versions(Store(folder), spec, changed, num_rows)
            old, new = Table(Store(folder), spec, before), Table(Store(folder), spec, after)
            figures[f"{spec.name}_rows"] = num_rows
            figures[f"{spec.name}_diff_s"], figures[f"{spec.name}_diff_cpu_s"] = _median(
                partial(_checked, old, new, changed, num_rows)
            )
            figures[f"{spec.name}_read_s"], _ = _median(partial(_read, old, new))
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    slow = {name: value for name, value in figures.items() if name.endswith("diff_s") and value >= TARGET_S}
    target = {f"{spec.name}_diff_s": f"< {TARGET_S:g}" for spec in (CAPTIONS, IMAGES)}
    return {"figures": figures, "floor": target, "target": target, "holds": not slow}


def _versions(store: Store, spec: TableSpec, changed: str, num_rows: int) -> tuple[int, int]:
    """Commit the rows, and change every tenth of them; returns both versions."""
    table = Table(store, spec)
    files = [table.write_file(part) for part in _parts(spec, num_rows)]
    before = table.commit(files, app_id="before", metadata={})
    new = []
    for part in _parts(spec, num_rows):
        rows = part.take(pa.array(range(0, part.num_rows, CHANGED_EVERY)))
        new.append(rows.set_column(rows.schema.get_field_index(changed), changed, pa.array(["other"] * rows.num_rows)))
    rows = pa.concat_tables(new)
    after = table.upsert([table.write_file(rows)], rows[spec.key].to_pylist(), app_id="after", metadata={})
    assert before is not None and after is not None
    return before, after


def _parts(spec: TableSpec, num_rows: int) -> Iterator[pa.Table]:
    """Rows with hashed keys, text in every text column and random bytes as images; the same in every call."""
    rng = np.random.default_rng(7)
    for start in range(0, num_rows, PART_ROWS):
        count = min(PART_ROWS, num_rows - start)
        columns = {}
        for field in spec.schema:
            if field.name == spec.key:
                columns[field.name] = [hashlib.sha256(str(start + row).encode()).hexdigest() for row in range(count)]
            elif field.name == "image":
                data = rng.bytes(count * IMAGE_BYTES)
                columns[field.name] = [{"bytes": data[at : at + IMAGE_BYTES], "path": "x.png"}
                                       for at in range(0, len(data), IMAGE_BYTES)]  # fmt: skip
            elif pa.types.is_string(field.type):
                columns[field.name] = [f"{field.name} of row {start + row}" for row in range(count)]
            else:
                columns[field.name] = [None] * count
        yield pa.Table.from_pydict(columns, schema=spec.schema)


def _checked(old: Table, new: Table, changed: str, num_rows: int) -> None:
    found = diff(old, new)
    assert found.fields() == {changed: num_rows // CHANGED_EVERY} and not found.added and not found.removed
    assert found.num_shared == 0, "no file is skipped"


def _read(*tables: Table) -> None:
    for table in tables:
        for _ in table.batches(table.spec.schema.names, batch_rows=2000):
            pass


def _median(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds, medians of three runs."""
    walls, cpus = [], []
    for _ in range(3):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    return round(statistics.median(walls), 2), round(statistics.median(cpus), 2)
