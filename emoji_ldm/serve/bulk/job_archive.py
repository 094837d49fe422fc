"""What a bulk job has generated so far, in the shapes in which users take it away: rows, ZIP file, contact sheet."""

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
from emoji_ldm.serve.bulk.bulk_job import item_request_id
from emoji_ldm.serve.bulk.item_schema import ITEMS, ItemRow

# Rows of one read. Images have some 10 KB, so this is less than a megabyte per open file.
BATCH_ROWS = 64
SPOOL_BYTES = 8 * 2**20
ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # of every file in a ZIP, so that the same images give the same bytes
COLUMNS = ("file", "custom_id", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", "scheduler", "width",
           "height", "lora", "model", "model_key", "style", "status", "reason", "request_id")  # fmt: skip


def rows_in_order(table: Table, columns: Sequence[str] = (), start: str = "") -> Iterator[ItemRow]:
    """Yield the committed rows with item_id >= `start`, ordered by item_id.

    Shards are committed roughly in order, so the files' ranges of item_id overlap little. This is a k-way merge: each
    file is opened when its smallest item_id is due, which keeps a few row batches in memory instead of all files.
    """
    names = list(dict.fromkeys(["item_id", *(columns or ITEMS.schema.names)]))
    files = ((file.bounds("item_id"), path) for path, file in table.live_files().items())
    # Statistics in the Delta log give each file's smallest and largest item_id, so files before `start` are skipped
    # unread.
    waiting = deque(sorted((bounds[0], path) for bounds, path in files if bounds and bounds[1] >= start))
    opened: list[tuple[str, ItemRow, Iterator[ItemRow]]] = []  # a heap by the item_id of each file's next row
    while waiting or opened:
        while waiting and (not opened or waiting[0][0] <= opened[0][0]):
            _push(opened, _rows(table, waiting.popleft()[1], names))
        # Item ids are unique within a job, so the heap never compares two rows, which are dictionaries and have no
        # order.
        key, row, rest = heapq.heappop(opened)
        _push(opened, rest)
        if key >= start:
            yield row


def page_end(table: Table, start: str, limit: int | None, max_bytes: int) -> tuple[str, int, bool]:
    """Find where a page of images ends.

    Args:
        table: The job's table.
        start: item_id of the first row.
        limit: Maximum number of rows.
        max_bytes: Maximum size of the images; the first one is always included.

    Returns:
        item_id of the last row of the page, bytes of its images, and whether more rows follow.
    """
    last, size = "", 0
    for number, row in enumerate(rows_in_order(table, ("size",), start)):
        # Checked before the row is added, so that a page never exceeds its limit, except by a first image that is
        # larger by itself.
        if number == limit or (last and size + row["size"] > max_bytes):
            return last, size, True
        last, size = row["item_id"], size + row["size"]
    return last, size, False


def zip_parts(job_id: str, rows: Iterable[ItemRow]) -> Iterator[bytes]:
    """Yield the chunks of a ZIP with a job's images, prompts.csv and a contact sheet; memory use does not grow with it.

    prompts.csv can be written only after all rows were seen, so it waits in a file that spills to disk.
    """
    sink, on_sheet = _Sink(), list[tuple[bytes, str]]()
    with (
        zipfile.ZipFile(sink, "w") as archive,
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="utf-8", newline="") as spool,
    ):
        table = csv.DictWriter(spool, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow(csv_row(job_id, row))
            if row["status"] == "ok":
                # Images are stored, not deflated: PNG, JPEG and WebP are compressed already.
                archive.writestr(zipfile.ZipInfo(row["image"]["path"], ZIP_TIMESTAMP), row["image"]["bytes"])
                if len(on_sheet) < MAX_ON_SHEET:
                    on_sheet.append((row["image"]["bytes"], row["prompt"]))
                yield sink.take()
        spool.seek(0)
        entry = zipfile.ZipInfo("prompts.csv", ZIP_TIMESTAMP)
        entry.compress_type = zipfile.ZIP_DEFLATED
        # Copied in pieces, since the list of a large job is too large for one string.
        with archive.open(entry, "w") as target:
            while text := spool.read(2**16):
                target.write(text.encode())
        if on_sheet:
            archive.writestr(zipfile.ZipInfo("sheet.png", ZIP_TIMESTAMP), contact_sheet(on_sheet))
    yield sink.take()


def csv_row(job_id: str, row: ItemRow) -> ItemRow:
    """Return a row with the columns `file` and `request_id`, as prompts.csv has it."""
    file = row["image"]["path"] if row["status"] == "ok" else ""
    return {**row, "file": file, "request_id": item_request_id(job_id, row["item_id"])}


def job_sheet(rows: Iterable[ItemRow]) -> bytes | None:
    """Return the contact sheet of the first images as PNG; None if there are none yet."""
    images = list[tuple[bytes, str]]()
    for row in rows:
        if row["status"] == "ok":
            images.append((row["image"]["bytes"], row["prompt"]))
        if len(images) == MAX_ON_SHEET:
            break
    return contact_sheet(images) if images else None


class _Sink(io.RawIOBase):
    """A write-only stream for ZipFile, which is emptied after each entry. It cannot seek: ZipFile then streams."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._chunks.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        # ZipFile has written one whole entry by now, so its chunks can be sent and forgotten.
        data, self._chunks = b"".join(self._chunks), []
        return data


def _push(opened: list[tuple[str, ItemRow, Iterator[ItemRow]]], rows: Iterator[ItemRow]) -> None:
    if (row := next(rows, None)) is not None:
        heapq.heappush(opened, (row["item_id"], row, rows))


def _rows(table: Table, path: str, columns: list[str]) -> Iterator[ItemRow]:
    with table.read_errors(), table.store.filesystem.open_input_file(table.resolve(path)) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
