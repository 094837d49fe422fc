"""Format hf: Parquet that `datasets` opens."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emoji_ldm.dataset.formats import huggingface
from tests.unit.dataset.exports import SPLITS, open_dataset, run_export


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.slow
def test_datasets_opens_the_parquet_as_pictures_within_the_viewers_limits(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "ROWS_PER_SHARD", 10)
    facts = run_export(tables, tmp_path / "out", format="hf", splits=SPLITS, license="cc-by-4.0")
    loaded = open_dataset(tmp_path / "out", tmp_path / "cache")
    assert {part: rows.num_rows for part, rows in loaded.items()} == facts["parts"]
    ids = [row["image_id"] for row in tables[0].read(["image_id"]).to_pylist()]
    rows = {row["image_id"]: row for part in loaded.values() for row in part}
    assert type(next(iter(loaded.values())).features["image"]).__name__ == "Image"
    for row in tables[0].read(["image_id", "image"]).to_pylist():
        assert (np.asarray(rows[row["image_id"]]["image"]) == pixels(row["image"]["bytes"])).all()
    best = next(row for row in rows.values() if row["caption"] == "by hand")
    assert best["captions"] == ["by hand"], "where people wrote a caption, it is the only one"
    assert rows[ids[1]]["captions"] == ["seen too", "measured\ttoo"], "measured sentences last"
    assert sum(row["caption"] is None for row in rows.values()) == 28
    files = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(files) > 3 and files[0].startswith("train-00000-of-0000") and files[-1].startswith("val-")
    for path in (tmp_path / "out/data").iterdir():
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        assert all(group.num_rows <= 100 and group.total_byte_size < 100e6 for group in groups)
        assert all(group.column(0).has_offset_index for group in groups)
