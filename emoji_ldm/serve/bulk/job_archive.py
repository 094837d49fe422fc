"""What is drawn of a job so far, as people take it away: rows, ZIP, contact sheet."""

from __future__ import annotations

import csv
import heapq
import io
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import pyarrow.parquet as pq

from emoji_ldm.dataset.table import Table
from emoji_ldm.generate.output_folder import MAX_ON_SHEET, contact_sheet
from emoji_ldm.serve.bulk.item_schema import ITEMS, ItemRow

BATCH_ROWS = 64
SPOOL_BYTES = 8 * 2**20
ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # of every file in a ZIP, so that the same pictures give the same bytes
COLUMNS = ("file", "custom_id", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", "scheduler", "width",
           "height", "lora", "model", "model_key", "style", "status", "reason")  # fmt: skip


def rows_in_order(table: Table, columns: Sequence[str] = (), start: str = "") -> Iterator[ItemRow]:
    """Committed rows from the key `start` on, in order of the job; holds a part of a few files at a time.

    Files hold nearly consecutive rows: each is opened when its first row comes next.
    """
    names = list(dict.fromkeys(["item_id", *(columns or ITEMS.schema.names)]))
    files = ((file.bounds("item_id"), path) for path, file in table.live().items())
    waiting = deque(sorted((bounds[0], path) for bounds, path in files if bounds and bounds[1] >= start))
    opened: list[tuple[str, ItemRow, Iterator[ItemRow]]] = []
    while waiting or opened:
        while waiting and (not opened or waiting[0][0] <= opened[0][0]):
            _push(opened, _rows(table, waiting.popleft()[1], names))
        key, row, rest = heapq.heappop(opened)
        _push(opened, rest)
        if key >= start:
            yield row


def page_end(table: Table, start: str, limit: int | None, most_bytes: int) -> tuple[str, int, bool]:
    """The key up to which rows from the key `start` on fit into so many pictures and bytes (the first one always
    does), their bytes, and whether there are more.
    """
    last, size = "", 0
    for number, row in enumerate(rows_in_order(table, ("size",), start)):
        if number == limit or (last and size + row["size"] > most_bytes):
            return last, size, True
        last, size = row["item_id"], size + row["size"]
    return last, size, False


def zip_parts(rows: Iterable[ItemRow]) -> Iterator[bytes]:
    """A ZIP with the pictures, prompts.csv and a contact sheet, part by part; memory stays flat."""
    sink, on_sheet = _Sink(), list[tuple[bytes, str]]()
    with (
        zipfile.ZipFile(sink, "w") as archive,
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="utf-8", newline="") as spool,
    ):
        table = csv.DictWriter(spool, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow(csv_row(row))
            if row["status"] == "ok":
                archive.writestr(zipfile.ZipInfo(row["image"]["path"], ZIP_TIMESTAMP), row["image"]["bytes"])
                if len(on_sheet) < MAX_ON_SHEET:
                    on_sheet.append((row["image"]["bytes"], row["prompt"]))
                yield sink.take()
        spool.seek(0)
        entry = zipfile.ZipInfo("prompts.csv", ZIP_TIMESTAMP)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w") as target:
            while text := spool.read(2**16):
                target.write(text.encode())
        if on_sheet:
            archive.writestr(zipfile.ZipInfo("sheet.png", ZIP_TIMESTAMP), contact_sheet(on_sheet))
    yield sink.take()


def csv_row(row: ItemRow) -> ItemRow:
    """A row with the name of its file, as prompts.csv lists it."""
    return {**row, "file": row["image"]["path"] if row["status"] == "ok" else ""}


def job_sheet(rows: Iterable[ItemRow]) -> bytes | None:
    """The contact sheet of the first pictures; None if there are none yet."""
    pictures = list[tuple[bytes, str]]()
    for row in rows:
        if row["status"] == "ok":
            pictures.append((row["image"]["bytes"], row["prompt"]))
        if len(pictures) == MAX_ON_SHEET:
            break
    return contact_sheet(pictures) if pictures else None


class _Sink(io.RawIOBase):
    """Takes what a ZipFile writes; it cannot be sought in."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


def _push(opened: list[tuple[str, ItemRow, Iterator[ItemRow]]], rows: Iterator[ItemRow]) -> None:
    if (row := next(rows, None)) is not None:
        heapq.heappush(opened, (row["item_id"], row, rows))


def _rows(table: Table, path: str, columns: list[str]) -> Iterator[ItemRow]:
    with table.reading(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
