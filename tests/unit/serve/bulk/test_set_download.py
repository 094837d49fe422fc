"""Tests of downloads into a folder, with a client that reads from memory."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emoji_ldm.errors import ConfigError, JobError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk.bulk_job import JobLine, cut_shards
from emoji_ldm.serve.bulk.item_schema import ITEMS, completed_row, failed_row
from emoji_ldm.serve.bulk.set_download import download_set
from tests.unit.serve.bulk.instant_backend import png_of


class MemoryClient:
    """Two Parquet files: 8 images, and 8 of which the last one failed. Downloading `broken` raises once."""

    def __init__(self, broken="", path=""):
        line = JobLine("a", "demo", GenerationRequest("a cat", seed=4), 16)
        [shard] = cut_shards([line], 0, 0)
        rows = [completed_row(item, png_of(item.request)) for item in shard.items]
        rows[-1] = failed_row(shard.items[-1], "no")
        if path:
            rows[0]["image"]["path"] = path
        self.files = {"one": _parquet(rows[8:]), "two": _parquet(rows[:8])}
        self.broken, self.downloads = broken, []

    def parquet(self, job_id):
        return [{"name": name, "pictures": 8} for name in self.files]

    def download(self, job_id, name):
        self.downloads.append(name)
        if name == self.broken:
            self.broken = ""
            raise JobError("the connection was cut")
        return self.files[name]


def _parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, ITEMS.schema), stream)
    return stream.getvalue()


def test_a_set_becomes_images_a_list_in_order_and_a_contact_sheet(tmp_path):
    assert download_set(MemoryClient(), "set_1", tmp_path) == 15
    rows = list(csv.DictReader((tmp_path / "prompts.csv").open()))
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(4, 20)]
    assert rows[0]["file"] == "0000_a-cat_4.png" and (rows[15]["file"], rows[15]["reason"]) == ("", "no")
    assert (tmp_path / rows[3]["file"]).read_bytes() == png_of(GenerationRequest("a cat", seed=7))
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_an_interrupted_download_resumes_with_the_missing_file(tmp_path):
    client = MemoryClient(broken="two")
    with pytest.raises(JobError):
        download_set(client, "set_1", tmp_path)
    assert not (tmp_path / "prompts.csv").exists()
    assert download_set(client, "set_1", tmp_path) == 15
    assert client.downloads == ["one", "two", "two"]


def test_a_folder_holds_one_set_only(tmp_path):
    download_set(MemoryClient(), "set_1", tmp_path)
    with pytest.raises(ConfigError, match="holds images of set_1"):
        download_set(MemoryClient(), "set_2", tmp_path)


def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(JobError, match="no plain name"):
        download_set(MemoryClient(path="../evil.png"), "set_1", tmp_path / "set")
    assert not (tmp_path / "evil.png").exists()


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="choose another folder"):
        download_set(MemoryClient(), "set_1", tmp_path / "file")
