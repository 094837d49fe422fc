"""Real emoji as rows of the table `images`, for tests of the stages after the crawl."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import pyarrow as pa

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.demo.sample_images import SampleImage, fixture_images, openmoji_images
from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store


@cache
def openmoji(num: int) -> tuple[SampleImage, ...]:
    """OpenMoji faces, animals, food and hearts, alternating, 128 px."""
    return tuple(openmoji_images(num, None))


@cache
def blobs(num: int) -> tuple[SampleImage, ...]:
    """The first images of the committed fixture, 128 px."""
    return tuple(fixture_images()[:num])


def image_rows(pictures: tuple[SampleImage, ...]) -> pa.Table:
    """Rows as the crawl writes them."""
    rows = []
    for picture in pictures:
        kept = normalize_image(picture.data, size_px=128, max_px=4096)
        rows.append({
            "image_id": kept.image_id, "image": {"bytes": kept.png, "path": f"{picture.name}.png"},
            "title": picture.title, "tags": list(picture.tags), "width": kept.width, "height": kept.height,
            "has_alpha": kept.has_alpha, "num_frames": 1, "source_url": f"https://emoji.test/{picture.name}",
            "page_url": "https://emoji.test/", "source_format": "PNG", "fetched_at": datetime.now(UTC),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=IMAGES.schema)


def fill_images(store: Store, pictures: tuple[SampleImage, ...], *, files: int = 2) -> list[str]:
    """Commit images in a number of files; returns their ids."""
    table, rows = Table(store, IMAGES), image_rows(pictures)
    lineage = Lineage(RunInfo("default", Config(store=store.uri).to_json()), "crawl", {})
    size = -(-rows.num_rows // files)
    for start in range(0, rows.num_rows, size):
        file = table.write_file(rows.slice(start, size))
        table.commit([file], app_id=f"crawl:{start}", metadata=lineage.metadata({}, str(start)))
    ids: list[str] = rows["image_id"].to_pylist()
    return ids
