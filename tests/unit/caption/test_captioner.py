import pytest

from emoji_ldm.caption.captioner import build, caption_rows, engine_key
from emoji_ldm.caption.metadata import describe_all
from emoji_ldm.config import CaptionConfig
from emoji_ldm.records import CAPTIONS
from tests.emoji import blobs, image_rows

METADATA = CaptionConfig()


def test_rows_follow_their_images_and_the_schema():
    images = image_rows(blobs(20))
    rows = caption_rows(build(METADATA), METADATA, images)
    assert rows.schema == CAPTIONS.schema
    assert rows["image_id"].to_pylist() == images["image_id"].to_pylist()
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert len(set(rows["caption_id"].to_pylist())) == 20


def test_a_broken_picture_is_one_failed_row():
    images = image_rows(blobs(5)).to_pylist()
    images[2]["image"] = {"bytes": b"no picture", "path": ""}
    rows = caption_rows(describe_all, METADATA, image_rows(blobs(0)).from_pylist(images)).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok", "ok"]
    assert rows[2]["reason"].startswith("unreadable picture")
    assert rows[2]["caption"] == ""


@pytest.mark.parametrize(("change", "same"), [
    ({"batch_size": 3}, True), ({"num_workers": 9}, True), ({"model": "other/model"}, False), ({"size_px": 448}, False),
])  # fmt: skip
def test_the_engine_key_holds_what_decides_the_caption(change, same):
    config = CaptionConfig(engine="qwen2.5-vl")
    assert (engine_key(config) == engine_key(config.model_copy(update=change))) == same
    assert engine_key(config) != engine_key(METADATA)
