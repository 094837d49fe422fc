"""A version of the data set as the arrays that training reads: pictures.npy and records.json, in a fixed order."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.dataset.caption_selection import good_captions
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from infra.starter.drawings import NAME_MARK
from infra.starter.icons import STYLES
from infra.starter.picture_tags import PictureFacts
from infra.starter.render import premultiplied

COLUMNS = ("image_id", "image", "title", "tags", "source_url")


def write_arrays(store: Store, tag: str, folder: Path) -> int:
    """Write pictures.npy `(N, 64, 64, 4)` uint8 premultiplied and records.json of a tagged version; returns N.

    The rows depend on the version alone. They are ordered by style and name, each drawing before its recoloured copies.
    """
    tables = open_tables(store, tag, IMAGES, CAPTIONS)
    captions = good_captions(tables[CAPTIONS.name])
    found = [
        _entry(row, captions[row["image_id"]])
        for batch in tables[IMAGES.name].batches(COLUMNS)
        for row in batch.to_pylist()
    ]
    found.sort(key=lambda entry: _order(entry[1]))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", np.stack([picture for picture, _ in found]))
    (folder / "records.json").write_text(json.dumps([record for _, record in found], indent=0))
    return len(found)


def _entry(row: dict[str, Any], captions: list[str]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    facts = PictureFacts.from_tags(row["tags"])
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGBA"))
    slug = row["source_url"].rpartition(NAME_MARK)[2].partition("/")[0]
    record = {
        "label": row["title"], "slug": slug, "words": STYLES[facts.style][0], **asdict(facts), "captions": captions,
        "image_id": row["image_id"], "source_url": row["source_url"],
    }  # fmt: skip
    return premultiplied(pixels), record


def _order(record: dict[str, Any]) -> tuple[int, str, bool, str]:
    return list(STYLES).index(record["style"]), record["slug"], record["recolored"], record["color"] or ""
