"""Tests of the forms in which a set can be fetched."""

import csv
import io
import re
import zipfile
from itertools import chain

import pyarrow.parquet as pq
from PIL import Image

from emoji_ldm.serve.bulk.api import responses, set_results
from emoji_ldm.serve.bulk.api.job_requests import derived_seed
from tests.unit.serve.bulk.instant_backend import png_of


def names(response):
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        return [name for name in archive.namelist() if re.match(r"\d", name)]


def test_a_large_zip_is_split_into_parts_that_link_to_each_other(service, completed_set, monkeypatch):
    whole = service.call("GET", f"/v1/emoji-sets/{completed_set}/zip")
    assert "link" not in whole.headers and len(names(whole)) == 20
    found, url = [], f"/v1/emoji-sets/{completed_set}/zip?limit=7"
    while url:
        part = service.call("GET", url)
        found.append(names(part))
        url = part.links.get("next", {}).get("url")
    assert [len(part) for part in found] == [7, 7, 6] and list(chain(*found)) == names(whole)
    monkeypatch.setattr(set_results, "PART_BYTES", 300)
    assert 0 < len(names(service.call("GET", f"/v1/emoji-sets/{completed_set}/zip?limit=7"))) < 7, (
        "nor more bytes than that"
    )
    monkeypatch.setattr(responses, "MAX_WHOLE_BYTES", 1000)
    refused = service.call("GET", f"/v1/emoji-sets/{completed_set}/zip")
    assert refused.status_code == 413 and "limit=" in refused.json()["error"]["message"]


def test_every_prompt_is_generated_n_times_in_every_style_and_can_be_fetched_in_every_form(service):
    styles = ["{prompt}, flat", "pixel {prompt}"]
    job_id = service.create(prompts=["a cat", "a dog"], n=2, styles=styles, seed=5, steps=7, name="pets")
    before = service.status(job_id)
    assert before["status"] == "queued" and before["counts"]["total"] == 8 and before["name"] == "pets"
    service.run_jobs()
    after = service.status(job_id)
    assert after["status"] == "completed" and after["progress"] == 1
    assert after["counts"] == {"total": 8, "completed": 8, "failed": 0, "pending": 0}
    items = service.call("GET", f"/v1/emoji-sets/{job_id}/items").json()["data"]
    flat, pixel = (derived_seed(5, "00000", style) for style in (0, 1))
    assert [(row["custom_id"], row["number"], row["prompt"], row["seed"]) for row in items[:5]] == [
        ("00000", 0, "a cat, flat", flat), ("00000", 1, "a cat, flat", flat + 1), ("00000", 2, "pixel a cat", pixel),
        ("00000", 3, "pixel a cat", pixel + 1), ("00001", 0, "a dog, flat", derived_seed(5, "00001", 0))]  # fmt: skip
    assert all(row["steps"] == 7 and row["model_key"] == "k1" for row in items)
    assert [row["request_id"] for row in items] == [f"{job_id}-{index}" for index in range(8)]
    with zipfile.ZipFile(io.BytesIO(service.call("GET", f"/v1/emoji-sets/{job_id}/zip").content)) as archive:
        names = archive.namelist()
        assert (
            names[0] == f"0000_a-cat-flat_{flat}.png"
            and names[-2:] == ["prompts.csv", "sheet.png"]
            and len(names) == 10
        )
        rows = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode())))
        assert archive.testzip() is None and [row["file"] for row in rows] == names[:8]
        assert archive.read(names[0]) == png_of(service.backend.tasks[0].request)
    sheet = service.call("GET", f"/v1/emoji-sets/{job_id}/sheet")
    assert Image.open(io.BytesIO(sheet.content)).format == "PNG"
    [file] = service.call("GET", f"/v1/emoji-sets/{job_id}/parquet").json()["data"]
    data = service.call("GET", f"/v1/emoji-sets/{job_id}/parquet/{file['name']}").content
    assert pq.read_table(io.BytesIO(data)).num_rows == file["pictures"] == 8
