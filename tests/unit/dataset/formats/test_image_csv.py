"""Format csv: numbered images by tag, and metadata.csv."""

import csv

from PIL import Image

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store
from tests.unit.dataset.exports import run_export


def test_the_reference_layout_flattens_on_the_chosen_colour(tables, tmp_path):
    facts = run_export(tables, tmp_path / "out", format="csv", background="#ff0000")
    rows = list(csv.DictReader((tmp_path / "out/metadata.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["file_name", "image_url", "image_title", "tag", "prompt"]
    assert (len(rows), facts["images"], facts["with captions"]) == (30, 30, 2)
    assert {row["file_name"] for row in rows} >= {"images/Blobs_0000000.jpg", "images/Blobs_0000001.jpg"}
    assert [row["prompt"] for row in rows[:3]] == ["by hand", "seen too", ""]
    with Image.open(tmp_path / "out" / rows[0]["file_name"]) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB") and image.getpixel((0, 0))[1] < 10  # red, not black


def test_png_keeps_alpha_and_without_captions_there_is_no_prompt(tables, tmp_path):
    images = tables[0]
    run_export((images, Table(Store(str(tmp_path / "empty")), CAPTIONS)), tmp_path / "out", format="csv", images="png")
    rows = list(csv.DictReader((tmp_path / "out/metadata.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["file_name", "image_url", "image_title", "tag"]
    row = next(batch for batch in images.batches(["image"], batch_rows=1)).to_pylist()[0]
    assert (tmp_path / "out" / rows[0]["file_name"]).read_bytes() == row["image"]["bytes"]
