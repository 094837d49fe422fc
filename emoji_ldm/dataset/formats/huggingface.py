"""Parquet as Hugging Face's viewer and `datasets.load_dataset` want it, laid out so that the next version reuses it.

An upload costs the chunks of about 64 KiB that are new. So pictures lie uncompressed (PNG hardly shrinks), and pages
and row groups end at content-defined places: soon after a row that came or went, they start where they did before.
Longer row groups would keep more of the pictures when captions change, shorter ones find their places sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emoji_ldm.dataset.formats.atomic_output import open_output_file
from emoji_ldm.dataset.formats.dataset_card import dataset_card
from emoji_ldm.dataset.formats.export_options import ExportPlan, Row
from emoji_ldm.schemas import IMAGE_TYPE
from emoji_ldm.store import Store

ROWS_PER_SHARD = 10_000
GROUP_ROWS, GROUP_BYTES = 100, 64_000_000  # at most; the viewer refuses scans of more than 286 MiB
GROUP_LEAST, GROUP_ENDS = 75, 8  # from so many rows on, a row group ends after one image in so many, chosen by its id
TEXTS = pa.list_(pa.string())
COLUMNS: dict[str, pa.DataType] = {
    "image": IMAGE_TYPE, "caption": pa.string(), "captions": TEXTS, "title": pa.string(), "tags": TEXTS,
    "image_id": pa.string(), "width": pa.int32(), "height": pa.int32(), "has_alpha": pa.bool_(),
    "num_frames": pa.int32(), "source_url": pa.string(), "page_url": pa.string(), "source_format": pa.string(),
    "fetched_at": pa.timestamp("us", tz="UTC"),
}  # fmt: skip
COMPRESSION = {"image.bytes": "none"}


def write_huggingface(place: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Shards `data/{part}-00000-of-000NN.parquet`, and last the card `README.md`."""
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        parts = {
            name: _SplitWriter(stack.enter_context(ExitStack()), place, name, num) for name, num in plan.parts.items()
        }
        for row in rows:
            parts[row["part"]].add(row)
        for name, part in parts.items():
            sizes[name] = part.close()
    features = {name: _feature(kind) for name, kind in COLUMNS.items()}
    place.write(dataset_card(plan, features, sizes).encode(), "README.md")


def schema() -> pa.Schema:
    """Columns, and the metadata that makes `datasets` see pictures."""
    features = {name: _feature(kind) for name, kind in COLUMNS.items()}
    return pa.schema(COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


class _SplitWriter:
    """The shards of one part; holds one row group."""

    def __init__(self, stack: ExitStack, place: Store, name: str, num_rows: int) -> None:
        self.stack, self.place, self.name = stack, place, name
        self.num_shards, self.shard = -(-num_rows // ROWS_PER_SHARD), 0
        self.group: list[Row] = []
        self.rows = self.group_bytes = self.bytes = 0
        self.writer: Any = None
        self.sink: Any = None

    def add(self, row: Row) -> None:
        self.group.append(row)
        self.rows += 1
        self.group_bytes += len(row["image"]["bytes"])
        full = len(self.group) >= GROUP_ROWS or self.group_bytes >= GROUP_BYTES
        if full or (len(self.group) >= GROUP_LEAST and int(row["image_id"][-8:], 16) % GROUP_ENDS == 0):
            self._flush()
        if self.rows == ROWS_PER_SHARD:
            self.close()

    def close(self) -> int:
        """End the open shard; returns the bytes of all shards so far."""
        self._flush()
        if self.writer is not None:
            self.writer.close()
            self.bytes += self.sink.tell()
            self.stack.close()
        self.writer, self.rows = None, 0
        return self.bytes

    def _flush(self) -> None:
        if not self.group:
            return
        if self.writer is None:
            name = f"data/{self.name}-{self.shard:05d}-of-{self.num_shards:05d}.parquet"
            self.sink = self.stack.enter_context(open_output_file(self.place, name))
            self.writer, self.shard = _writer(self.sink), self.shard + 1
        self.writer.write_table(pa.Table.from_pylist(self.group, schema=schema()), row_group_size=len(self.group))
        self.group, self.group_bytes = [], 0


def _writer(sink: Any) -> pq.ParquetWriter:
    leaves = [leaf for name, kind in COLUMNS.items() for leaf in _leaves(name, kind)]
    compression = {leaf: COMPRESSION.get(leaf, "zstd") for leaf in leaves}
    dictionary = [leaf for leaf in leaves if leaf not in COMPRESSION]
    return pq.ParquetWriter(
        sink, schema(), compression=compression, use_dictionary=dictionary, write_page_index=True,
        use_content_defined_chunking=True,
    )  # fmt: skip


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [f"{name}.{field.name}" for field in kind]
    return [f"{name}.list.element"] if pa.types.is_list(kind) else [name]


def _feature(kind: pa.DataType) -> Mapping[str, Any] | list[Any]:
    """A column's feature as `datasets` writes it in JSON."""
    if kind == IMAGE_TYPE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    names = {pa.timestamp("us", tz="UTC"): "timestamp[us, tz=UTC]"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}
