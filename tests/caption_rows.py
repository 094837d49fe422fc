"""Rows of the table `captions`, for tests of the stages that read it."""

from __future__ import annotations

import pyarrow as pa

from emoji_ldm.config import key_of
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store


def fill_captions(store: Store, captions: list[tuple[str, str, str]], **columns: object) -> Table:
    """Commit captions (image_id, engine, text) with status "ok" as one version; `columns` overrides other columns."""
    rows = [
        {"caption_id": key_of(image_id, engine, text), "image_id": image_id, "caption": text, "engine": engine,
         "engine_key": engine, "number": 0, "attempts": 1, "status": "ok", "reason": "", **columns}
        for image_id, engine, text in captions
    ]  # fmt: skip
    table = Table(store, CAPTIONS)
    file = table.write_file(pa.Table.from_pylist(rows, schema=CAPTIONS.schema))
    table.commit([file], app_id=key_of(captions, columns), metadata={})
    return table
