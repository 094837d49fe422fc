"""Which captions of an image count, and in which order: one rule for training, statistics and exports."""

from __future__ import annotations

import pyarrow.compute as pc

from emoji_ldm.dataset.table import Table

HUMAN = "human"
ENGINE_RANK = {HUMAN: 0, "metadata": 2}
"""Order of engines: people first, measured sentences last, all others between them."""


def good_captions(captions: Table) -> dict[str, list[str]]:
    """{image_id: its good captions}, distinct, by engine, number and text; where people wrote one, theirs only.

    The order depends on the rows alone, never on the files they lie in.
    """
    columns = ["image_id", "engine", "number", "caption"]
    rows = captions.read(columns, filter=pc.field("status") == "ok").to_pylist()
    rows.sort(key=lambda row: (ENGINE_RANK.get(row["engine"], 1), row["engine"], row["number"] or 0, row["caption"]))
    found: dict[str, dict[str, None]] = {}  # a dict keeps the order and drops repeats
    told = {row["image_id"] for row in rows if row["engine"] == HUMAN}  # by people, who know better
    for row in rows:
        if row["engine"] == HUMAN or row["image_id"] not in told:
            found.setdefault(row["image_id"], {})[row["caption"]] = None
    return {image_id: list(several) for image_id, several in found.items()}
