"""Download of an emoji set into a folder, which resumes where an earlier download was interrupted.

    <folder>/NNNN_<prompt>_<seed>.png, prompts.csv, sheet.png
    <folder>/.fetched/set           id of the set
    <folder>/.fetched/<file>.json   rows of one Parquet file of the set, written after all its images

The Parquet files of a set never change, so a marker means that its file need not be downloaded again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from emoji_ldm.errors import ConfigError, JobError
from emoji_ldm.generate.output_folder import MAX_ON_SHEET, contact_sheet
from emoji_ldm.progress import track
from emoji_ldm.serve.bulk.job_archive import COLUMNS, csv_row
from emoji_ldm.serve.bulk.set_client import EmojiSetClient

MARKER_FOLDER = ".fetched"


def download_set(client: EmojiSetClient, job_id: str, folder: Path) -> int:
    """Write all finished images, `prompts.csv` and `sheet.png`; returns the number of images in the folder.

    Raises:
        ConfigError: The folder cannot be written, or contains another set.
        JobError: The service does not answer.
    """
    files = client.parquet(job_id)
    try:
        _claim(folder, job_id)
        with track("fetch", sum(file["pictures"] for file in files), "images") as progress:
            for file in files:
                marker = folder / MARKER_FOLDER / f"{file['name']}.json"
                # The marker is written last, after all images of the file: it exists only if they do.
                if not marker.is_file():
                    _write(marker, json.dumps(_unpack(job_id, client.download(job_id, file["name"]), folder)).encode())
                progress.advance(file["pictures"])
        return _finish(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error}; choose another folder") from None


def _claim(folder: Path, job_id: str) -> None:
    """Reserve the folder for this set, so that the images of two sets do not mix."""
    (folder / MARKER_FOLDER).mkdir(parents=True, exist_ok=True)
    owner = folder / MARKER_FOLDER / "set"
    if owner.is_file() and owner.read_text() != job_id:
        raise ConfigError(f"{folder} holds images of {owner.read_text()}; choose another folder")
    _write(owner, job_id.encode())


def _unpack(job_id: str, data: bytes, folder: Path) -> list[dict[str, Any]]:
    """Write the images of one Parquet file; returns its rows for prompts.csv."""
    rows = []
    # Row batches keep one copy of the images in memory beside the file itself.
    for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            entry = csv_row(job_id, row)
            if entry["file"]:
                # The name comes from the service; "../x" would be written outside of the folder.
                if PurePosixPath(entry["file"]).name != entry["file"]:
                    raise JobError(f"the service names a file {entry['file']!r}, which is no plain name")
                _write(folder / entry["file"], row["image"]["bytes"])
            # Only what prompts.csv needs is kept in the marker; the images are files of their own.
            rows.append({name: entry[name] for name in ("item_id", *COLUMNS)})
    return rows


def _finish(folder: Path) -> int:
    """Write prompts.csv and the contact sheet for all images in the folder."""
    # Markers come in the order of the folder, rows in that of the job.
    rows = sorted(_downloaded(folder), key=lambda row: str(row["item_id"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(folder / "prompts.csv", table.getvalue().encode())
    completed = [row for row in rows if row["file"]]
    if completed:
        images = [((folder / row["file"]).read_bytes(), row["prompt"]) for row in completed[:MAX_ON_SHEET]]
        _write(folder / "sheet.png", contact_sheet(images))
    return len(completed)


def _downloaded(folder: Path) -> Iterator[dict[str, Any]]:
    for marker in (folder / MARKER_FOLDER).glob("*.json"):
        yield from json.loads(marker.read_bytes())


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    # The temporary name starts with a dot, so that an interrupted download leaves no visible half image.
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(data)
    partial.replace(path)
