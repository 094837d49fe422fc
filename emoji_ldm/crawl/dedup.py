"""Deduplication of a finished shard: which of its images are new, across shards, runs and resumes.

Two images are duplicates if their canonical pixels are equal, or if they look the same: the same drawing in another
size or encoding, with padding, or over another background. New images are compared with kept images only, never with
other duplicates, so a chain of small differences cannot merge two images that look different. Of several duplicates,
the one that was committed first is kept.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.config import key_of
from emoji_ldm.crawl.frontier import chunks
from emoji_ldm.dataset.table import Table
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.images.fingerprint_layout import is_current
from emoji_ldm.images.near_duplicate_index import NearDuplicate, NearDuplicateIndex
from emoji_ldm.outcomes import Outcome
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import OUTCOMES

ROWS_PER_REWRITE = 1000  # images that are written again in one commit
ROWS_PER_BATCH = 4096  # rows that are Python objects at the same time while known images are loaded


class KnownImages:
    """The images that are kept, by id and by appearance. About 3 kB of memory each."""

    def __init__(self) -> None:
        """Start without images."""
        self.source_url_by_id: dict[str, str] = {}
        self.index = NearDuplicateIndex()

    @classmethod
    def load(cls, images: pa.Table) -> KnownImages:
        """Load rows {image_id, source_url, fingerprint}; those without a fingerprint are matched by pixels only."""
        known = cls()
        for batch in images.to_batches(max_chunksize=ROWS_PER_BATCH):
            rows = batch.to_pydict()
            # Converted in batches, since a Python object per value takes many times the memory of the Arrow column.
            known.source_url_by_id.update(zip(rows["image_id"], rows["source_url"], strict=True))
            known.add_fingerprints(zip(rows["image_id"], rows["fingerprint"], strict=True))
        return known

    def add_fingerprints(self, pairs: Iterable[tuple[str, bytes | None]]) -> None:
        """Index (image_id, fingerprint) pairs by appearance; pairs without a fingerprint are skipped."""
        present = [(image_id, value) for image_id, value in pairs if value]
        self.index.add([image_id for image_id, _ in present], [value for _, value in present])


def renew_fingerprints(images: Table, metadata: Callable[[str, dict[str, int]], dict[str, str]]) -> int:
    """Measure stored images again whose fingerprint an older version made; returns how many.

    Args:
        images: The table; rows with a new fingerprint replace the old ones.
        metadata: `metadata(app_id, counts)` returns the metadata of a commit.
    """
    old = list[str]()
    for batch in images.read(["image_id", "fingerprint"]).to_batches(max_chunksize=ROWS_PER_BATCH):
        pairs = zip(batch["image_id"].to_pylist(), batch["fingerprint"].to_pylist(), strict=True)
        old += [image_id for image_id, value in pairs if value and not is_current(value)]
    if old:
        print_status(f"measuring the appearance of {len(old):,} stored images again: an older version knew less of it")
    for image_ids in chunks(sorted(old), ROWS_PER_REWRITE):
        rows = images.read(filter=pc.field("image_id").isin(image_ids))
        values = [fingerprint(_pixels(image["bytes"])) for image in rows["image"].to_pylist()]
        rows = rows.set_column(rows.schema.get_field_index("fingerprint"), "fingerprint", pa.array(values, pa.binary()))
        app_id = f"crawl-fingerprints:{key_of(images.version, image_ids)}"
        commit = metadata(app_id, {"measured again": len(rows)})
        images.upsert([images.write_file(rows)], image_ids, app_id=app_id, metadata=commit)
    return len(old)


def _pixels(png: bytes) -> NDArray[np.uint8]:
    """Decode a canonical image, which is our own file."""
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


def resolve_duplicates(outcomes: pa.Table, known: KnownImages, *, near: bool) -> tuple[pa.Table, set[str]]:
    """Turn kept URLs whose image is already known from another URL into duplicates.

    Args:
        outcomes: Rows of a shard as its worker returned them, with an additional column `fingerprint`.
        known: Every committed image; the new ones are added.
        near: Whether images that only look the same are duplicates too.

    Returns:
        The final outcomes, and the source URLs whose images are to be added. An image that was already committed with
        the same URL (its shard was interrupted between two commits) is kept, but not added again.
    """
    # Rows are resolved in their own order: the first URL of a shard with certain pixels keeps them.
    rows, new = outcomes.to_pylist(), dict[str, tuple[str, bytes | None]]()  # {url: (image_id, fingerprint)}
    fingerprints = [row.pop("fingerprint") for row in rows]
    similar = _near_duplicates(rows, fingerprints, known) if near else {}
    for row, value in zip(rows, fingerprints, strict=True):
        # `known` grows inside the loop, so that later rows of the shard see the images of earlier ones.
        if row["outcome"] == Outcome.KEPT and not _mark_duplicate(row, similar.get(row["image_id"], []), known):
            known.source_url_by_id[row["image_id"]] = row["url"]
            new[row["url"]] = row["image_id"], value
    known.add_fingerprints(new.values())
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema), set(new)


def _near_duplicates(
    rows: list[dict[str, Any]], fingerprints: list[bytes | None], known: KnownImages
) -> dict[str, list[NearDuplicate]]:
    """Return, for each new image of a shard, the known images and those of the shard that look the same, by distance.

    All lookups are made before any image is accepted, in two batches. Whether a match within the shard counts is
    decided later, by `_mark_duplicate`: it counts only if that image was kept.
    """
    # Images with known pixels need no lookup: they are duplicates by their id alone.
    queries = {row["image_id"]: value for row, value in zip(rows, fingerprints, strict=True)
               if value and row["outcome"] == Outcome.KEPT
               and row["image_id"] not in known.source_url_by_id}  # fmt: skip
    ids, values, shard = list(queries), list(queries.values()), NearDuplicateIndex()
    shard.add(ids, values)
    results = zip(ids, known.index.find(values), shard.find(values), strict=True)
    return {image_id: sorted(committed + others) for image_id, committed, others in results}


def _mark_duplicate(row: dict[str, Any], similar: list[NearDuplicate], known: KnownImages) -> bool:
    """Return whether the image of a kept URL is already known; its row then names the known image and its URL."""
    owner, reason = known.source_url_by_id.get(row["image_id"]), "same pixels as {}"
    # Equal pixels come first. Otherwise the nearest similar image that was really kept counts.
    match = next((match for match in similar if match.image_id in known.source_url_by_id), None)
    if owner is None and match:
        owner = known.source_url_by_id[match.image_id]
        reason = f"looks like {{}} (distance {match.distance:.3f})"
        row["image_id"] = match.image_id
    # The same URL again is not its own duplicate: its shard is repeated, or the file changed its encoding only.
    if owner is not None and owner != row["url"]:
        row["outcome"], row["reason"] = Outcome.DUPLICATE.value, reason.replace("{}", owner)
    return owner is not None
