"""Format `webdataset`: tar shards of `{image_id}.png`, `.json` and, if there are captions, `.txt`.

Equal rows give equal bytes: times, owners and modes in the tar headers are fixed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack

from emoji_ldm.dataset.formats.atomic_output import open_output_file
from emoji_ldm.dataset.formats.export_options import ExportPlan, Row
from emoji_ldm.store import Store

SHARD_BYTES = 100_000_000
SHARD_ROWS = 10_000
JSON_FIELDS = (
    "image_id", "title", "tags", "caption", "captions", "width", "height", "has_alpha", "num_frames", "source_url",
    "page_url", "source_format",
)  # fmt: skip


def write_webdataset(output: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Write shards `{part}-000000.tar` of about 100 MB."""
    with ExitStack() as stack:
        shards = {part: stack.enter_context(_TarShardWriter(output, part)) for part in plan.parts}
        for row in rows:
            shards[row["part"]].add(row, with_text=bool(plan.captioned))


class _TarShardWriter:
    """Writes the shards of one part, one at a time."""

    def __init__(self, output: Store, part: str) -> None:
        self.output, self.part, self.number, self.rows, self.bytes = output, part, 0, 0, 0
        self.open = ExitStack()
        self.tar: tarfile.TarFile | None = None

    def __enter__(self) -> _TarShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.open.close()

    def add(self, row: Row, *, with_text: bool) -> None:
        # Shards are cut by size as well as by count, so the number of shards is not known beforehand and their names do
        # not state it.
        if self.tar is None or self.rows >= SHARD_ROWS or self.bytes >= SHARD_BYTES:
            self.tar = self._next()
        facts = {name: row[name] for name in JSON_FIELDS} | {"fetched_at": row["fetched_at"].isoformat()}
        members = {"png": row["image"]["bytes"], "json": json.dumps(facts, ensure_ascii=False).encode()}
        # An image without a caption gets an empty text, because readers expect the same files in every sample.
        if with_text:
            members["txt"] = (row["caption"] or "").encode()
        for ending, data in members.items():
            # The defaults of `TarInfo` fix time, owner and mode, which real files would not.
            info = tarfile.TarInfo(f"{row['image_id']}.{ending}")
            info.size = len(data)
            self.tar.addfile(info, io.BytesIO(data))
            self.bytes += len(data)
        self.rows += 1

    def _next(self) -> tarfile.TarFile:
        self.open.close()
        file = self.open.enter_context(open_output_file(self.output, f"{self.part}-{self.number:06d}.tar"))
        self.number, self.rows, self.bytes = self.number + 1, 0, 0
        # Mode `w|` writes a plain stream without seeking, as an upload to S3 requires. USTAR headers hold no extensions
        # that differ between versions of Python.
        return self.open.enter_context(tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT))
