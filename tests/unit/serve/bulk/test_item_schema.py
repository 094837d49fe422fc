"""Tests of the rows of a job's table."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk.bulk_job import JobItem, JobLine
from emoji_ldm.serve.bulk.item_schema import ITEMS, completed_row, failed_row, unstorable_row
from tests.unit.serve.bulk.instant_backend import png_of


def item(**output):
    request = GenerationRequest("a cat", seed=4, steps=9)
    return JobItem(7, JobLine("a", "demo", request, output=output), 2, request)


def test_a_completed_row_describes_its_file():
    png = png_of(item().request)
    row = completed_row(item(), png)
    assert row["image"] == {"bytes": png, "path": "0007_a-cat_4.png"} and row["size"] == len(png)
    assert (row["item_id"], row["number"], row["width"], row["height"]) == ("00000007", 2, 8, 8)
    assert (row["status"], row["steps"], row["model_key"]) == ("ok", 9, "k1")
    assert set(row) == set(ITEMS.schema.names)


def test_output_options_of_the_line_convert_the_file():
    row = completed_row(item(format="webp", background="opaque"), png_of(item().request))
    assert row["image"]["path"] == "0007_a-cat_4.webp"
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        assert (image.format, image.mode) == ("WEBP", "RGB")
    with pytest.raises(OSError, match="cannot identify"):
        completed_row(item(), b"no image")


def test_an_unstorable_row_becomes_one_that_parquet_can_hold():
    row = {**failed_row(item(), ""), "custom_id": "\ud800"}
    with pytest.raises(UnicodeEncodeError):
        pa.Table.from_pylist([row], ITEMS.schema)
    [stored] = pa.Table.from_pylist([unstorable_row(row, "why")], ITEMS.schema).to_pylist()
    assert (stored["custom_id"], stored["status"], stored["reason"]) == ("\\ud800", "failed", "why")
