"""Which captions of an image are used, and in which order: one rule for training, statistics and exports."""

from __future__ import annotations

import pyarrow.compute as pc

from emoji_ldm.dataset.table import Table

HUMAN = "human"
ENGINE_RANK = {HUMAN: 0, "metadata": 2}
"""Order of engines: people first, measured sentences last, models between them (rank 1)."""


def good_captions(captions: Table) -> dict[str, list[str]]:
    """{image_id: its captions of status ok}, distinct, ordered by engine, number and text.

    If people wrote captions of an image, only theirs are used. The order depends on the rows alone, never on the files
    that hold them, since training and exports have to be reproducible.
    """
    columns = ["image_id", "engine", "number", "caption"]
    rows = captions.read(columns, filter=pc.field("status") == "ok").to_pylist()
    # Engine name, number and text break ties. Without them the order of equal ranks would be that of the files, which a
    # compaction changes.
    rows.sort(key=lambda row: (ENGINE_RANK.get(row["engine"], 1), row["engine"], row["number"] or 0, row["caption"]))
    # The inner dicts serve as ordered sets: two engines may write the same sentence, which is used once.
    found: dict[str, dict[str, None]] = {}
    described_by_people = {row["image_id"] for row in rows if row["engine"] == HUMAN}
    for row in rows:
        if row["engine"] == HUMAN or row["image_id"] not in described_by_people:
            found.setdefault(row["image_id"], {})[row["caption"]] = None
    return {image_id: list(several) for image_id, several in found.items()}
