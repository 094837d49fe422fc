"""`dataset verify`: checks every file, key and pixel against what the tables say about them."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emoji_ldm.dataset.delta.parquet_reader import cast_rows
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.table import Table
from emoji_ldm.progress import track
from emoji_ldm.schemas import IMAGES

REFERENCING_TABLES = ("captions", "latents")  # their image_id refers to `images`
NUM_THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class IntegrityProblem:
    """One defect of a table: where it is, and what is wrong."""

    table: str
    file: str
    key: str  # of the row; empty if the whole file is concerned
    reason: str

    def __str__(self) -> str:
        """The defect in one line."""
        return f"{self.table}  {self.key or self.file}  {self.reason}"


@dataclass
class VerificationReport:
    """What was checked, and what is wrong."""

    rows: dict[str, int] = field(default_factory=dict)  # {table: rows read}
    problems: list[IntegrityProblem] = field(default_factory=list)
    orphans: list[IntegrityProblem] = field(default_factory=list)
    """Captions and latents of removed images, as a refresh of the crawl leaves them: harmless, readers skip them."""


def verify(tables: Mapping[str, Table]) -> VerificationReport:
    """Check tables, {name: table}; problems are collected, never raised.

    Every file exists with its size and row count; statistics enclose the keys; keys are distinct; the pixels of every
    image hash to its id. Rows of images that do not exist are reported apart, as orphans. Memory holds all keys and
    one row group.
    """
    # Damage is what this command is for, so it is collected and never raised: one broken file must not hide the state
    # of the others.
    report, image_ids = VerificationReport(), set[str]()
    # Images come first, since the other tables refer to their ids.
    for name in sorted(tables, key=lambda name: name != IMAGES.name):
        table, seen = tables[name], set[str]()
        # A table that was never written has nothing to check.
        if not table.exists:
            continue
        refers = name in REFERENCING_TABLES and IMAGES.name in tables
        with track(f"verify {name}", table.count(), "rows") as progress:
            for file in table.live_files().values():
                for rows in _readable_row_groups(table, file, report.problems):
                    report.problems += _key_problems(table, file, rows, seen)
                    if name == IMAGES.name:
                        report.problems += _pixel_problems(file, rows)
                    if refers:
                        report.orphans += _orphans(table, file, rows, image_ids)
                    report.rows[name] = report.rows.get(name, 0) + rows.num_rows
                    progress.advance(rows.num_rows)
        if name == IMAGES.name:
            image_ids = seen
    return report


def png_pixel_hash(png: bytes) -> str:
    """The id that a PNG should have: the hash of its pixels, by the function that named it (images.normalize)."""
    from PIL import Image

    from emoji_ldm.images.normalize import pixel_hash

    # Ids are hashes of decoded RGBA pixels, so that another PNG compression of the same picture keeps its id.
    with Image.open(io.BytesIO(png)) as image:
        pixels = image.convert("RGBA")
    return pixel_hash(pixels.width, pixels.height, pixels.tobytes())


def _readable_row_groups(table: Table, file: DataFile, problems: list[IntegrityProblem]) -> Iterator[pa.Table]:
    """The row groups of a file, without those that cannot be read."""
    name, source, filesystem = table.spec.name, table.resolve(file.path), table.store.filesystem
    with table.read_errors():
        info = filesystem.get_file_info(source)
    if not info.is_file or info.size != file.size:
        found = f"has {info.size:,} bytes" if info.is_file else "does not exist"
        problems.append(IntegrityProblem(name, file.path, "", f"{found}, should have {file.size:,}"))
        return
    try:
        with filesystem.open_input_file(source) as stream:
            yield from (cast_rows(rows, table.spec.schema) for rows in _row_groups(name, file, stream, problems))
    except (OSError, pa.ArrowException) as error:
        problems.append(IntegrityProblem(name, file.path, "", f"is not a Parquet file: {_one_line(error)}"))


def _row_groups(
    name: str, file: DataFile, stream: pa.NativeFile, problems: list[IntegrityProblem]
) -> Iterator[pa.Table]:
    """Row groups, read with page checksums; one that fails is read without them, to find out which rows are damaged."""
    checked, unchecked = pq.ParquetFile(stream, page_checksum_verification=True), pq.ParquetFile(stream)
    num_rows = checked.metadata.num_rows
    if num_rows != file.num_rows:
        problems.append(IntegrityProblem(name, file.path, "", f"has {num_rows:,} rows, the log says {file.num_rows:,}"))
    for group in range(checked.num_row_groups):
        # The checked reader refuses a whole row group for one damaged page, and that is recorded. The unchecked one may
        # still give its rows, so that the checks of keys and pixels can name the images that are lost.
        for reader in (checked, unchecked):
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
            yield IntegrityProblem(name, file.path, key, "key occurs twice")
        # Readers skip files by these bounds, so a key outside of them would be invisible to upserts and duplicate
        # itself.
        elif bounds and not bounds[0] <= key <= bounds[1]:
            yield IntegrityProblem(name, file.path, key, "key is outside the file's statistics")
        seen.add(key)


def _pixel_problems(file: DataFile, rows: pa.Table) -> Iterator[IntegrityProblem]:
    images = pc.struct_field(rows.column("image"), ["bytes"]).to_pylist()
    # Pillow releases the interpreter lock while it decodes, so threads use all cores.
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(_hash_or_reason, images))
    for key, digest in zip(rows.column("image_id").to_pylist(), found, strict=True):
        # A hash has no spaces, a reason does: that tells a wrong hash from an image that could not be decoded.
        if digest != key:
            yield IntegrityProblem(
                IMAGES.name, file.path, str(key), digest if " " in digest else "pixels have another hash"
            )


def _hash_or_reason(png: bytes | None) -> str:
    try:
        return png_pixel_hash(png or b"")
    # These are the exceptions that Pillow raises for a broken PNG.
    except (OSError, ValueError, SyntaxError) as error:
        return f"image cannot be decoded: {_one_line(error)}"


def _orphans(table: Table, file: DataFile, rows: pa.Table, images: Collection[str]) -> Iterator[IntegrityProblem]:
    for key, image_id in zip(*(rows.column(name).to_pylist() for name in (table.spec.key, "image_id")), strict=True):
        # The other direction, images without captions or latents, is not checked: stages that have not run yet leave
        # such gaps.
        if image_id not in images:
            yield IntegrityProblem(table.spec.name, file.path, str(key), f"there is no image {str(image_id)[:16]}")
