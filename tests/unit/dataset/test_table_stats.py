"""Statistics: the right counts, at most 80 columns wide."""

import json

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.table_stats import format_stats, table_stats
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import CAPTIONS, IMAGES, OUTCOMES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images


def test_stats_count_rows_captions_and_attributes(tmp_path):
    store = Store(str(tmp_path))
    tables = {spec.name: Table(store, spec) for spec in (IMAGES, OUTCOMES, CAPTIONS)}
    with pytest.raises(DatasetError, match="no tables"):
        table_stats(tables)
    ids = fill_images(store, blobs(10), files=2)
    fill_captions(store, [(image_id, "metadata", "two words") for image_id in ids[:8]], expression="happy")
    fill_captions(store, [(ids[8], "qwen2.5-vl", "")], status="failed", reason="empty " * 40)
    for table in tables.values():
        table.refresh()
    data = json.loads(json.dumps(table_stats(tables)))
    assert (data["tables"]["images"]["rows"], data["tables"]["images"]["files"]) == (10, 2)
    assert data["tables"]["images"]["bytes"] > 10_000 and "outcomes" not in data["tables"]
    assert data["images"]["tags"]["Blobs"] <= 10 and data["images"]["sizes_px"] == {"128 x 128": 10}
    assert (data["images"]["alpha_share"], data["images"]["animated_share"]) == (1.0, 0.0)
    assert data["captions"]["engines"]["metadata"]["ok"] == 8
    assert data["captions"]["engines"]["qwen2.5-vl"]["failed"] == 1
    assert data["captions"]["words"]["mean"] == 2 and data["captions"]["images_without"] == 2
    assert data["captions"]["attributes_filled"]["expression"] == 1 and data["captions"]["expressions"] == {"happy": 8}
    text = format_stats(data)
    assert max(map(len, text.splitlines())) <= 80 and "1 x empty" in text and "expression 100.0%" in text
