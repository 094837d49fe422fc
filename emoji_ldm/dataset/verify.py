"""`dataset verify`: every file, every key and every pixel checked against what the tables say of them."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.table import Table
from emoji_ldm.progress import track
from emoji_ldm.schemas import IMAGES

REFERENCING_TABLES = ("captions", "latents")  # tables whose image_id is one of the images
NUM_THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class IntegrityProblem:
    """One finding."""

    table: str
    file: str
    key: str  # of the row; empty if it is about the file
    reason: str

    def __str__(self) -> str:
        """The finding in one line."""
        return f"{self.table}  {self.key or self.file}  {self.reason}"


@dataclass
class VerificationReport:
    """What was checked, and what is wrong."""

    rows: dict[str, int] = field(default_factory=dict)  # {table: rows read}
    problems: list[IntegrityProblem] = field(default_factory=list)
    orphans: list[IntegrityProblem] = field(default_factory=list)
    """Captions and latents of images that are no more, as a refresh leaves them: readers pass them by, no damage."""


def verify(tables: Mapping[str, Table]) -> VerificationReport:
    """Check tables, {name: table}; damage is collected, never raised. Memory: all keys, and one row group.

    Checked: every file is there with its size and rows; statistics enclose the keys; keys are distinct; the pixels
    of every image hash to its id. Rows of images that are not there are told apart from damage.
    """
    result, images = VerificationReport(), set[str]()
    for name in sorted(tables, key=lambda name: name != IMAGES.name):  # images first: others refer to them
        table, seen = tables[name], set[str]()
        if not table.exists:
            continue
        refers = name in REFERENCING_TABLES and IMAGES.name in tables
        with track(f"verify {name}", table.count(), "rows") as progress:
            for file in table.live_files().values():
                for rows in _readable_row_groups(table, file, result.problems):
                    result.problems += _key_problems(table, file, rows, seen)
                    if name == IMAGES.name:
                        result.problems += _pixel_problems(file, rows)
                    if refers:
                        result.orphans += _orphans(table, file, rows, images)
                    result.rows[name] = result.rows.get(name, 0) + rows.num_rows
                    progress.advance(rows.num_rows)
        if name == IMAGES.name:
            images = seen
    return result


def png_pixel_hash(png: bytes) -> str:
    """The id of a picture: sha256 of "WxH:" and its RGBA bytes, as emoji_ldm.images.normalize gives it."""
    from PIL import Image

    from emoji_ldm.images.normalize import pixel_hash

    with Image.open(io.BytesIO(png)) as image:
        pixels = image.convert("RGBA")
    return pixel_hash(pixels.width, pixels.height, pixels.tobytes())


def _readable_row_groups(table: Table, file: DataFile, problems: list[IntegrityProblem]) -> Iterator[pa.Table]:
    """The row groups of a file that can be read."""
    name, source, filesystem = table.spec.name, table.resolve(file.path), table.store.filesystem
    with table.read_errors():
        info = filesystem.get_file_info(source)
    if not info.is_file or info.size != file.size:
        found = f"has {info.size:,} bytes" if info.is_file else "is not there"
        problems.append(IntegrityProblem(name, file.path, "", f"{found}, should have {file.size:,}"))
        return
    try:
        with filesystem.open_input_file(source) as stream:
            yield from _row_groups(name, file, stream, problems)
    except (OSError, pa.ArrowException) as error:
        problems.append(IntegrityProblem(name, file.path, "", f"is no Parquet file: {_one_line(error)}"))


def _row_groups(
    name: str, file: DataFile, stream: pa.NativeFile, problems: list[IntegrityProblem]
) -> Iterator[pa.Table]:
    """Row groups by their checksums; one that fails is read once more without, so that its rows can be told apart."""
    checked, loose = pq.ParquetFile(stream, page_checksum_verification=True), pq.ParquetFile(stream)
    num_rows = checked.metadata.num_rows
    if num_rows != file.num_rows:
        problems.append(IntegrityProblem(name, file.path, "", f"has {num_rows:,} rows, the log says {file.num_rows:,}"))
    for group in range(checked.num_row_groups):
        for reader in (checked, loose):
            try:
                rows = reader.read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                problems.append(
                    IntegrityProblem(name, file.path, "", f"row group {group} cannot be read: {_one_line(error)}")
                )
            else:
                yield rows
                break


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


def _key_problems(table: Table, file: DataFile, rows: pa.Table, seen: set[str]) -> Iterator[IntegrityProblem]:
    name, column = table.spec.name, rows.column(table.spec.key)
    bounds = file.bounds(table.spec.key)
    for key in column.to_pylist():
        if key is None:
            yield IntegrityProblem(name, file.path, "", "a row has no key")
        elif key in seen:
            yield IntegrityProblem(name, file.path, key, "key is there twice")
        elif bounds and not bounds[0] <= key <= bounds[1]:
            yield IntegrityProblem(name, file.path, key, "key is outside the file's statistics")
        seen.add(key)


def _pixel_problems(file: DataFile, rows: pa.Table) -> Iterator[IntegrityProblem]:
    pictures = pc.struct_field(rows.column("image"), ["bytes"]).to_pylist()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(_hash_or_reason, pictures))
    for key, digest in zip(rows.column("image_id").to_pylist(), found, strict=True):
        if digest != key:
            yield IntegrityProblem(
                IMAGES.name, file.path, str(key), digest if " " in digest else "pixels have another hash"
            )


def _hash_or_reason(png: bytes | None) -> str:
    try:
        return png_pixel_hash(png or b"")
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken PNG
        return f"picture cannot be decoded: {_one_line(error)}"


def _orphans(table: Table, file: DataFile, rows: pa.Table, images: Collection[str]) -> Iterator[IntegrityProblem]:
    for key, image_id in zip(*(rows.column(name).to_pylist() for name in (table.spec.key, "image_id")), strict=True):
        if image_id not in images:
            yield IntegrityProblem(table.spec.name, file.path, str(key), f"there is no image {str(image_id)[:16]}")
