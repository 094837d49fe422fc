"""Format `hf`: Parquet for Hugging Face's viewer and `datasets.load_dataset`, of which new versions upload little.

The hub stores files as content-defined chunks of about 64 KiB and uploads only new ones. So images lie uncompressed
(PNG hardly shrinks), and both pages and row groups end where the content says so: a little after an added or removed
row, boundaries fall where they fell before, and the chunks are the same again. With longer row groups a changed caption
would invalidate less of the images, with shorter ones boundaries align sooner.
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
# The viewer refuses scans of more than 286 MiB, and a row group is the least that it scans.
MAX_GROUP_ROWS, MAX_GROUP_BYTES = 100, 64_000_000
# From 75 rows on, a row group ends after one image in 8, which its id selects. So a little after a row that was added
# or removed, groups end at the same images as before.
MIN_GROUP_ROWS, GROUP_END_RATE = 75, 8
TEXTS = pa.list_(pa.string())
COLUMNS: dict[str, pa.DataType] = {
    "image": IMAGE_TYPE, "caption": pa.string(), "captions": TEXTS, "title": pa.string(), "tags": TEXTS,
    "image_id": pa.string(), "width": pa.int32(), "height": pa.int32(), "has_alpha": pa.bool_(),
    "num_frames": pa.int32(), "source_url": pa.string(), "page_url": pa.string(), "source_format": pa.string(),
    "fetched_at": pa.timestamp("us", tz="UTC"),
}  # fmt: skip
# PNG is compressed already, so compressing it again would gain next to nothing. And within a compressed page, one
# changed row would change all bytes after it.
COMPRESSION = {"image.bytes": "none"}  # all other columns use zstd


def write_huggingface(output: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Write shards `data/{part}-00000-of-000NN.parquet` and, last, the data card `README.md`."""
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        # Rows of all parts arrive interleaved, so every part has its writer open. Each has an exit stack of its own,
        # inside the common one, which closes what is open if the export fails.
        parts = {
            name: _SplitWriter(stack.enter_context(ExitStack()), output, name, num) for name, num in plan.parts.items()
        }
        for row in rows:
            parts[row["part"]].add(row)
        for name, part in parts.items():
            sizes[name] = part.close()
    features = {name: _feature(kind) for name, kind in COLUMNS.items()}
    output.write(dataset_card(plan, features, sizes).encode(), "README.md")


def schema() -> pa.Schema:
    """The columns, with the metadata that makes `datasets` decode images."""
    features = {name: _feature(kind) for name, kind in COLUMNS.items()}
    # `datasets` looks for its features under this key of the Arrow schema; without them an image is a struct of bytes.
    return pa.schema(COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


class _SplitWriter:
    """Writes the shards of one part; memory holds one row group."""

    def __init__(self, stack: ExitStack, output: Store, name: str, num_rows: int) -> None:
        self.stack, self.output, self.name = stack, output, name
        self.num_shards, self.shard = -(-num_rows // ROWS_PER_SHARD), 0
        self.group: list[Row] = []
        self.rows = self.group_bytes = self.bytes = 0
        self.writer: Any = None
        self.sink: Any = None

    def add(self, row: Row) -> None:
        self.group.append(row)
        self.rows += 1
        self.group_bytes += len(row["image"]["bytes"])
        # A row group ends at a limit, or, once it is long enough, after an image whose id says so.
        full = len(self.group) >= MAX_GROUP_ROWS or self.group_bytes >= MAX_GROUP_BYTES
        if full or (len(self.group) >= MIN_GROUP_ROWS and int(row["image_id"][-8:], 16) % GROUP_END_RATE == 0):
            self._flush()
        # Shards are cut by row count because the file name states the number of shards before the first is written.
        if self.rows == ROWS_PER_SHARD:
            self.close()

    def close(self) -> int:
        """Close the open shard and return the bytes of all shards so far."""
        self._flush()
        if self.writer is not None:
            self.writer.close()
            # The size is complete once the writer has appended the footer, and has to be read before the sink is
            # closed.
            self.bytes += self.sink.tell()
            self.stack.close()
        self.writer, self.rows = None, 0
        return self.bytes

    def _flush(self) -> None:
        if not self.group:
            return
        if self.writer is None:
            # A shard is opened by its first row group, so that no empty file is left after a part that ends at a
            # shard's limit.
            name = f"data/{self.name}-{self.shard:05d}-of-{self.num_shards:05d}.parquet"
            self.sink = self.stack.enter_context(open_output_file(self.output, name))
            self.writer, self.shard = _writer(self.sink), self.shard + 1
        self.writer.write_table(pa.Table.from_pylist(self.group, schema=schema()), row_group_size=len(self.group))
        self.group, self.group_bytes = [], 0


def _writer(sink: Any) -> pq.ParquetWriter:
    leaves = [leaf for name, kind in COLUMNS.items() for leaf in _leaves(name, kind)]
    compression = {leaf: COMPRESSION.get(leaf, "zstd") for leaf in leaves}
    # A dictionary pays for values that repeat. PNG bytes are all distinct, so it would only cost memory.
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
