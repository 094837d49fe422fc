"""Tests of rows in order, pages, ZIP files and contact sheets."""

import csv
import io
import random
import zipfile

import pytest
from PIL import Image

from emoji_ldm.serve.bulk.item_schema import completed_row, failed_row
from emoji_ldm.serve.bulk.job_archive import job_sheet, page_end, rows_in_order, zip_parts
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.instant_backend import make_job, png_of


@pytest.fixture
def table(store):
    """The table of a job of 40 images, committed shard by shard in random order; image 5 failed."""
    job, jobs = make_job(store, 40), JobStore(store)
    state, shards = JobState(jobs, job), list(jobs.shards(job))
    random.Random(1).shuffle(shards)
    for shard in shards:
        rows = [failed_row(item, "no") if item.index == 5 else completed_row(item, png_of(item.request))
                for item in shard.items]  # fmt: skip
        assert state.commit({shard.name: rows})
    return state.table


def test_rows_of_files_in_any_order_are_merged_from_any_start(table):
    assert [row["item_id"] for row in rows_in_order(table)] == [f"{index:08d}" for index in range(40)]
    rows = list(rows_in_order(table, ("seed",), "00000013"))
    assert [set(row) for row in rows] == [{"item_id", "seed"}] * 27 and rows[0]["item_id"] == "00000013"


def test_a_page_ends_at_its_limit_or_size_but_holds_at_least_one_image(table):
    sizes = [row["size"] for row in rows_in_order(table, ("size",))]
    assert page_end(table, "", 10, 2**60) == ("00000009", sum(sizes[:10]), True)
    assert page_end(table, "00000038", 10, 2**60) == ("00000039", sum(sizes[38:]), False)
    assert page_end(table, "", None, 1) == ("00000000", sizes[0], True)
    assert page_end(table, "00000040", None, 1) == ("", 0, False)


def test_the_same_rows_give_the_same_zip(table):
    first, again = (b"".join(zip_parts("set_1", rows_in_order(table))) for _ in range(2))
    assert first == again
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 41
        rows = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode())))
    assert [row["file"] == "" for row in rows].index(True) == 5 and rows[5]["reason"] == "no"
    assert [row["request_id"] for row in rows] == [f"set_1-{index}" for index in range(40)]


def test_a_sheet_shows_finished_images_only(table):
    assert Image.open(io.BytesIO(job_sheet(rows_in_order(table)))).format == "PNG"
    assert job_sheet([]) is None
