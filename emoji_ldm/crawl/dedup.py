"""Which images of a finished shard are new: duplicates are dropped over shards, runs and resumes.

Two images are duplicates if their canonical pixels are equal, or if they look the same: the same drawing in another
size or encoding, with padding, over another background. Only kept images are compared with, so looks cannot drift
along a chain of duplicates; the first one that was committed wins.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from emoji_ldm.images.near_duplicate_index import NearDuplicate, NearDuplicateIndex
from emoji_ldm.outcomes import Outcome
from emoji_ldm.schemas import OUTCOMES


class KnownImages:
    """The images that are kept: whose they are, and how they look. About 1.5 kB of memory each."""

    def __init__(self) -> None:
        """None yet."""
        self.owners: dict[str, str] = {}  # {image_id: source_url}
        self.looks = NearDuplicateIndex()

    @classmethod
    def load(cls, images: pa.Table) -> KnownImages:
        """Of rows {image_id, source_url, fingerprint}; those without a fingerprint are only known by their pixels."""
        known = cls()
        for batch in images.to_batches(max_chunksize=4096):
            rows = batch.to_pydict()
            known.owners.update(zip(rows["image_id"], rows["source_url"], strict=True))
            seen = [(i, look) for i, look in zip(rows["image_id"], rows["fingerprint"], strict=True) if look]
            known.looks.extend([image_id for image_id, _ in seen], [look for _, look in seen])
        return known


def resolve_duplicates(outcomes: pa.Table, known: KnownImages, *, near: bool) -> tuple[pa.Table, set[str]]:
    """Turn kept URLs whose image is known from another URL into duplicates.

    Args:
        outcomes: Rows of a shard as its worker gave them, with a column `fingerprint` besides.
        known: Every committed image; the new ones are added.
        near: Whether images that only look the same are duplicates too.

    Returns:
        The final outcomes, and the source URLs whose images are to be added. An image that is committed already
        with the same URL (its shard was cut off between two commits) is kept, but not added again.
    """
    rows, new = outcomes.to_pylist(), dict[str, tuple[str, bytes | None]]()  # {url: (image_id, look)}
    looks = [row.pop("fingerprint") for row in rows]
    alike = _near_duplicates(rows, looks, known) if near else {}
    for row, look in zip(rows, looks, strict=True):
        if row["outcome"] == Outcome.KEPT and not _mark_duplicate(row, alike.get(row["image_id"], []), known):
            known.owners[row["image_id"]] = row["url"]
            new[row["url"]] = row["image_id"], look
    filed = [(image_id, look) for image_id, look in new.values() if look]
    known.looks.extend([image_id for image_id, _ in filed], [look for _, look in filed])
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema), set(new)


def _near_duplicates(
    rows: list[dict[str, Any]], looks: list[bytes | None], known: KnownImages
) -> dict[str, list[NearDuplicate]]:
    """Of each image of a shard those, known or of the shard, that look the same; the most alike first."""
    asked = {row["image_id"]: look for row, look in zip(rows, looks, strict=True)
             if look and row["outcome"] == Outcome.KEPT and row["image_id"] not in known.owners}  # fmt: skip
    ids, values, shard = list(asked), list(asked.values()), NearDuplicateIndex()
    shard.extend(ids, values)
    both = zip(ids, known.looks.find(values), shard.find(values), strict=True)
    return {image_id: sorted(committed + others) for image_id, committed, others in both}


def _mark_duplicate(row: dict[str, Any], alike: list[NearDuplicate], known: KnownImages) -> bool:
    """Whether the image of a kept URL is known by now; the row then names the known one and whose it is."""
    owner, reason = known.owners.get(row["image_id"]), "same pixels as {}"
    match = next((match for match in alike if match.image_id in known.owners), None)
    if owner is None and match:
        owner, reason = known.owners[match.image_id], f"looks like {{}} (distance {match.distance:.3f})"
        row["image_id"] = match.image_id
    if owner is not None and owner != row["url"]:
        row["outcome"], row["reason"] = Outcome.DUPLICATE.value, reason.replace("{}", owner)
    return owner is not None
