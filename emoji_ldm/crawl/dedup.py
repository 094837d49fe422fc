"""Which images of a finished shard are new: exact duplicates are dropped over shards, runs and resumes."""

from __future__ import annotations

import pyarrow as pa

from emoji_ldm.crawl.outcomes import Outcome
from emoji_ldm.records import OUTCOMES


def settle(outcomes: pa.Table, known: dict[str, str]) -> tuple[pa.Table, set[str]]:
    """Turn kept URLs whose pixels are known from another URL into duplicates.

    Args:
        outcomes: Rows of a shard as its worker gave them.
        known: {image_id: source_url} of every committed image; the new ones are added.

    Returns:
        The final outcomes, and the source URLs whose images are to be added. An image that is committed already
        with the same URL (its shard was cut off between two commits) is kept, but not added again.
    """
    rows, new = outcomes.to_pylist(), set[str]()
    for row in rows:
        if row["outcome"] != Outcome.KEPT:
            continue
        owner = known.get(row["image_id"])
        if owner is None:
            known[row["image_id"]] = row["url"]
            new.add(row["url"])
        elif owner != row["url"]:
            row["outcome"], row["reason"] = Outcome.DUPLICATE.value, f"same pixels as {owner}"
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema), new
