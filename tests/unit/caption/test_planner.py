"""Plans of captions to make."""

import json

import pyarrow as pa

from emoji_ldm.caption.planner import COLUMNS, CaptionPlan, plan_captions, plan_column


def rows_of(*rows):
    return pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def test_a_plan_is_what_was_asked_for_minus_what_exists():
    done = rows_of(("k0", "a", 0, 1, "ok", "A blob."), ("k1", "a", 1, 3, "failed", ""), ("k2", "b", 0, 3, "failed", ""))
    assert plan_captions(["a", "b"], done, num_captions=1, retry=False) == {}
    more = plan_captions(["a", "b", "c"], done, num_captions=3, retry=False)
    assert {image_id: found.missing for image_id, found in more.items()} == {
        "a": {2: 0}, "b": {1: 0, 2: 0}, "c": {0: 0, 1: 0, 2: 0},
    }  # fmt: skip
    assert more["a"].good_captions == {0: "A blob."}
    again = plan_captions(["a", "b"], done, num_captions=2, retry=True)
    assert (again["a"].missing, again["a"].replaces) == ({1: 3}, ["k1"])
    assert (again["b"].missing, again["b"].replaces) == ({0: 3, 1: 0}, ["k2"])


def test_a_plan_survives_json():
    plan = CaptionPlan({1: 3}, {0: "A blob."}, ["k1"])
    (text,) = plan_column({"a": plan}, ["a"]).to_pylist()
    assert CaptionPlan.from_json(json.loads(text)) == plan
