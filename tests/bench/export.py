"""How much of a Hugging Face export its next version can reuse when 10 % of the rows change.

It is counted twice: by Parquet column chunk (`appended`, ...), and as the hub stores files (`appended_hub`, ...), in
content-defined chunks of about 64 KiB. For comparison, the same rows as plain Parquet (`..._plain`: zstd, row groups of
100) are counted as the hub does. Captions that change throughout the set cost the hub a chunk per row group, which is
much where images are small and row groups hold at most 100 of them.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.config import key_of
from emoji_ldm.dataset.export import export
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.formats.huggingface import COLUMNS
from emoji_ldm.dataset.table import Table
from emoji_ldm.demo.sample_images import fixture_images
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store

CHANGED = 0.1
LEAST, MOST, MASK_BITS = 8 * 1024, 128 * 1024, 16  # smallest and largest chunk in bytes; the mean is about 64 KiB
GEAR = np.random.default_rng(0).integers(0, 2**32, 256, dtype=np.uint32)
CHANGES = ("appended", "recaptioned", "dropped_run", "replaced_run", "replaced_at_random")


def run(*, quick: bool) -> dict[str, Any]:
    """Share of the second version's bytes that the first one has, by kind of change; and rows per second."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = pictures(1500 if quick else 6000)
        size = len(rows) * 10 // 11
        base, more = rows[:size], rows[size:]
        figures["rows"] = size
        seconds = [timed(base, Path(folder, f"time{number}")) for number in range(3)]
        figures["rows_per_s"] = round(size / median(seconds))
        before, without_care = written(base, {}, Path(folder, "base")), list(chunks(plain(base, {})))
        for change in CHANGES:
            after, captions = changed(change, base, more)
            data = written(after, captions, Path(folder, change))
            figures[change] = share(columns(before), columns(data))
            figures[f"{change}_hub"] = share(chunks(before), chunks(data))
            figures[f"{change}_plain"] = share(without_care, chunks(plain(after, captions)))
    floor = dict.fromkeys(("appended_hub", "dropped_run_hub", "replaced_run_hub", "recaptioned"), 0.8)
    holds = all(figures[name] >= least for name, least in floor.items())
    return {"figures": figures, "floor": floor, "target": {"recaptioned_hub": 0.8}, "holds": holds}


def pictures(num: int) -> list[dict[str, Any]]:
    """Rows of `images`: real emoji in varied colours, about 4 kB each, in order of arrival."""
    rows, art, rng = [], [_pixels(picture.data) for picture in fixture_images()], np.random.default_rng(0)
    for number in range(num):
        pixels = art[number % len(art)].copy()
        seen = pixels[..., 3] > 0
        pixels[seen, :3] = pixels[seen, :3] * rng.uniform(0.4, 1, 3) + rng.uniform(0, 60, 3)
        out = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(out, "PNG", compress_level=4)
        image_id = hashlib.sha256(out.getvalue()).hexdigest()
        rows.append({
            "image_id": image_id, "image": {"bytes": out.getvalue(), "path": f"{image_id}.png"},
            "title": f"emoji {number}", "tags": ["Blobs"], "width": 128, "height": 128, "has_alpha": True,
            "num_frames": 1, "source_url": f"https://emoji.test/{image_id[:12]}.png", "page_url": "https://emoji.test/",
            "source_format": "PNG", "fetched_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        })  # fmt: skip
    return rows


def changed(change: str, base: list[dict[str, Any]], more: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    """The second version's rows, and captions that differ from the first's: {image_id: caption}."""
    num, start = int(len(base) * CHANGED), len(base) // 3
    if change == "appended":
        return [*base, *more], {}
    if change == "recaptioned":
        return base, {row["image_id"]: f"{caption(row)}, second version" for row in random.Random(0).sample(base, num)}
    if change == "dropped_run":
        return [*base[:start], *base[start + num :]], {}
    if change == "replaced_run":
        return [*base[:start], *more[:num], *base[start + num :]], {}
    after = list(base)
    for place, row in zip(random.Random(0).sample(range(len(base)), num), more, strict=False):
        after[place] = row
    return after, {}


def caption(row: dict[str, Any]) -> str:
    """A caption of the usual length."""
    return (f"{row['title']} emoji with a round head, oval eyes, open mouth, happy expression, "
            f"yellow skin color, waving, with a transparent background.")  # fmt: skip


def written(rows: list[dict[str, Any]], captions: dict[str, str], folder: Path) -> bytes:
    """The one Parquet file of an export of these rows."""
    tables = committed(rows, captions, folder)
    export(*tables, ExportOptions("hf", str(folder / "out")))
    (file,) = (folder / "out" / "data").iterdir()
    return file.read_bytes()


def timed(rows: list[dict[str, Any]], folder: Path) -> float:
    """Seconds of one export."""
    tables = committed(rows, {}, folder)
    began = time.perf_counter()
    export(*tables, ExportOptions("hf", str(folder / "out")))
    return time.perf_counter() - began


def committed(rows: list[dict[str, Any]], captions: dict[str, str], folder: Path) -> tuple[Table, Table]:
    """A store with these rows in files of 200, and a caption for each."""
    store = Store(str(folder / "store"))
    images, sentences = Table(store, IMAGES), Table(store, CAPTIONS)
    parts = [rows[start : start + 200] for start in range(0, len(rows), 200)]
    for number, part in enumerate(parts):  # one commit each, since files are ordered by the version that added them
        file = images.write_file(pa.Table.from_pylist(part, schema=IMAGES.schema))
        images.commit([file], app_id=str(number), metadata={})
    told = [
        {"caption_id": key_of(row["image_id"]), "image_id": row["image_id"], "engine": "metadata", "engine_key": "",
         "caption": captions.get(row["image_id"], caption(row)), "number": 0, "status": "ok", "reason": ""}
        for row in rows
    ]  # fmt: skip
    sentences.commit(
        [sentences.write_file(pa.Table.from_pylist(told, schema=CAPTIONS.schema))], app_id="c", metadata={}
    )
    return images, sentences


def plain(rows: list[dict[str, Any]], captions: dict[str, str]) -> bytes:
    """The same rows as a plain Parquet file."""
    told = [row | {"caption": captions.get(row["image_id"], caption(row))} for row in rows]
    told = [row | {"captions": [row["caption"]]} for row in told]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(told, schema=pa.schema(COLUMNS)), sink, row_group_size=100, compression="zstd")
    return bytes(sink.getvalue())


def share(before: Iterable[bytes], after: Iterable[bytes]) -> float:
    """Share of the bytes of the parts `after` that are among `before`."""
    known, parts = set(before), list(after)
    return round(sum(len(part) for part in parts if part in known) / sum(map(len, parts)), 3)


def columns(data: bytes) -> Iterator[bytes]:
    """The column chunks of a Parquet file."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            start = column.dictionary_page_offset or column.data_page_offset
            yield data[start : start + column.total_compressed_size]


def chunks(data: bytes) -> Iterator[bytes]:
    """Content-defined chunks: a cut where the gear hash of the last 32 bytes begins with 16 zero bits."""
    gears = GEAR[np.frombuffer(data, np.uint8)]
    hashes = np.zeros(len(gears), np.uint32)
    for back in range(32):
        hashes[back:] += gears[: len(gears) - back] << np.uint32(back)
    places = np.flatnonzero(hashes >> np.uint32(32 - MASK_BITS) == 0) + 1
    start = 0
    while start < len(data):
        following = np.searchsorted(places, start + LEAST)
        end = int(places[following]) if following < len(places) else len(data)
        end = min(end, start + MOST, len(data))
        yield data[start:end]
        start = end


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGBA")).astype(np.uint8)
