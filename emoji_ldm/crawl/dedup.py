"""Which images of a finished shard are new: duplicates are dropped over shards, runs and resumes.

Two images are duplicates if their canonical pixels are equal, or if they look the same: the same drawing in another
size or encoding, with padding, over another background. Only kept images are compared with, so looks cannot drift
along a chain of duplicates; the first one that was committed wins.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from emoji_ldm.crawl.near import NearIndex
from emoji_ldm.crawl.outcomes import Outcome
from emoji_ldm.records import OUTCOMES


class Known:
    """The images that are kept: whose they are, and how they look. About 1.5 kB of memory each."""

    def __init__(self) -> None:
        """None yet."""
        self.owners: dict[str, str] = {}  # {image_id: source_url}
        self.looks = NearIndex()

    @classmethod
    def load(cls, images: pa.Table) -> Known:
        """Of rows {image_id, source_url, fingerprint}; those without a fingerprint are only known by their pixels."""
        known = cls()
        for batch in images.to_batches(max_chunksize=4096):
            rows = batch.to_pydict()
            known.owners.update(zip(rows["image_id"], rows["source_url"], strict=True))
            seen = [(i, look) for i, look in zip(rows["image_id"], rows["fingerprint"], strict=True) if look]
            known.looks.extend([image_id for image_id, _ in seen], [look for _, look in seen])
        return known

    def add(self, image_id: str, source_url: str, fingerprint: bytes | None) -> None:
        """Keep one more image."""
        self.owners[image_id] = source_url
        if fingerprint:
            self.looks.add(image_id, fingerprint)


def settle(outcomes: pa.Table, known: Known, *, near: bool) -> tuple[pa.Table, set[str]]:
    """Turn kept URLs whose image is known from another URL into duplicates.

    Args:
        outcomes: Rows of a shard as its worker gave them, with a column `fingerprint` besides.
        known: Every committed image; the new ones are added.
        near: Whether images that only look the same are duplicates too.

    Returns:
        The final outcomes, and the source URLs whose images are to be added. An image that is committed already
        with the same URL (its shard was cut off between two commits) is kept, but not added again.
    """
    rows, new = outcomes.to_pylist(), set[str]()
    for row in rows:
        look = row.pop("fingerprint")
        if row["outcome"] == Outcome.KEPT and not _repeats(row, look if near else None, known):
            known.add(row["image_id"], row["url"], look)
            new.add(row["url"])
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema), new


def _repeats(row: dict[str, Any], look: bytes | None, known: Known) -> bool:
    """Whether the image of a kept URL is known; the row then names the known one and whose it is."""
    owner, reason = known.owners.get(row["image_id"]), "same pixels as {}"
    if owner is None and look and (match := known.looks.find(look)):
        owner, reason = known.owners[match.image_id], f"looks like {{}} (distance {match.distance:.3f})"
        row["image_id"] = match.image_id
    if owner is not None and owner != row["url"]:
        row["outcome"], row["reason"] = Outcome.DUPLICATE.value, reason.replace("{}", owner)
    return owner is not None
