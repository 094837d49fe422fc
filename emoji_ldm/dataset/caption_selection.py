"""Which captions of an image are used, and in which order: one rule for training, statistics and exports."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.dataset.table import Table

HUMAN = "human"
ENGINE_RANK = {HUMAN: 0, "metadata": 2}
"""Order of engines: people first, measured sentences last, models between them (rank 1)."""
SELECTION_COLUMNS = ["image_id", "engine", "number", "caption"]


def select_captions(captions: Table) -> pa.Table:
    """The captions to use: columns `image_id` and `caption`, both `large_string`, sorted by image.

    Those of an image have status ok, are distinct, and ordered by engine, number and text. If people wrote captions of
    an image, only theirs are used. The order depends on the rows alone, never on the files that hold them, since
    training and exports have to be reproducible.
    """
    return choose_captions(captions.read(SELECTION_COLUMNS, filter=pc.field("status") == "ok"))


def choose_captions(rows: pa.Table) -> pa.Table:
    """What `select_captions` returns for a whole table, of these rows: `SELECTION_COLUMNS`, all with status ok."""
    # 32-bit offsets would end at 2 GB of text.
    image_ids, texts = (rows[name].cast(pa.large_string()) for name in ("image_id", "caption"))
    by_people = pc.equal(rows["engine"], HUMAN)
    used = pc.or_(by_people, pc.invert(pc.is_in(image_ids, pc.unique(image_ids.filter(by_people)))))
    others = pc.if_else(pc.equal(rows["engine"], "metadata"), ENGINE_RANK["metadata"], 1)
    # Engine name, number and text break ties. Without them the order of equal ranks would be that of the files, which a
    # compaction changes.
    order = ["image_id", "rank", "engine", "number", "caption"]
    columns = [image_ids, pc.if_else(by_people, 0, others), rows["engine"], pc.fill_null(rows["number"], 0), texts]
    chosen = pa.table(columns, names=order).filter(used).sort_by([(name, "ascending") for name in order])
    # Two engines may write the same sentence, which is used once: where it comes first.
    numbered = chosen.append_column("position", pa.array(range(len(chosen)), pa.int64()))
    first = numbered.group_by(["image_id", "caption"], use_threads=False).aggregate([("position", "min")])
    positions = first["position_min"].combine_chunks()
    return chosen.select(["image_id", "caption"]).take(positions.take(pc.sort_indices(positions)))


def good_captions(captions: Table) -> dict[str, list[str]]:
    """{image_id: its captions}, as `select_captions` orders them."""
    rows, found = select_captions(captions), dict[str, list[str]]()
    for image_id, caption in zip(rows["image_id"].to_pylist(), rows["caption"].to_pylist(), strict=True):
        found.setdefault(image_id, []).append(caption)
    return found
