"""What is large or strange: downloads in parts, bodies that would hold up others, ids and fields that are none."""

import io
import json
import re
import time
import zipfile
from itertools import chain, islice

import pytest

from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.api import downloads, set_routes
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, failed_row
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.api.test_set_routes import Service
from tests.unit.serve.bulk.instant_backend import make_job

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return Service(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def drawn(service):
    """Id of a set of 20 pictures."""
    job_id = service.create(prompts=[f"p{number}" for number in range(20)])
    service.draw()
    return job_id


@pytest.fixture(scope="module")
def batch(service):
    """An ended batch, with a line that fails."""
    bodies = [{"prompt": "a cat", "n": 3}, {"prompt": "refuse"}, {"prompt": "a dog"}, {"prompt": "a cow"}]
    lines = [{"custom_id": str(n), "method": "POST", "url": URL, "body": body} for n, body in enumerate(bodies)]
    file = {"file": ("x.jsonl", "\n".join(map(json.dumps, lines)))}
    file_id = service.call("POST", "/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
    body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
    job_id = service.call("POST", "/v1/batches", json=body).json()["id"]
    service.draw()
    return service.call("GET", f"/v1/batches/{job_id}").json()


def names(answer):
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return [name for name in archive.namelist() if re.match(r"\d", name)]


def test_a_large_zip_comes_in_parts_that_lead_to_each_other(service, drawn, monkeypatch):
    whole = service.call("GET", f"/v1/emoji-sets/{drawn}/zip")
    assert "link" not in whole.headers and len(names(whole)) == 20
    found, url = [], f"/v1/emoji-sets/{drawn}/zip?limit=7"
    while url:
        part = service.call("GET", url)
        found.append(names(part))
        url = part.links.get("next", {}).get("url")
    assert [len(part) for part in found] == [7, 7, 6] and list(chain(*found)) == names(whole)
    monkeypatch.setattr(set_routes, "PART_BYTES", 300)
    assert 0 < len(names(service.call("GET", f"/v1/emoji-sets/{drawn}/zip?limit=7"))) < 7, "nor more bytes than that"
    monkeypatch.setattr(downloads, "WHOLE_BYTES", 1000)
    refused = service.call("GET", f"/v1/emoji-sets/{drawn}/zip")
    assert refused.status_code == 413 and "limit=" in refused.json()["error"]["message"]


def test_files_are_read_in_ranges_and_large_ones_only_so(service, drawn, batch, monkeypatch):
    file, *_ = service.call("GET", f"/v1/emoji-sets/{drawn}/parquet").json()["data"]
    paths = [f"/v1/emoji-sets/{drawn}/parquet/{file['name']}"]
    paths += [f"/v1/files/{batch[name]}/content" for name in ("output_file_id", "error_file_id", "input_file_id")]
    monkeypatch.setattr(downloads, "PART_BYTES", 400)
    for path in paths:
        whole, data = service.call("GET", path).content, b""
        while len(data) < len(whole):
            part = service.call("GET", path, headers={"range": f"bytes={len(data)}-"})
            assert part.status_code == 206 and 0 < len(part.content) <= 400
            end = len(data) + len(part.content) - 1
            assert part.headers["content-range"] == f"bytes {len(data)}-{end}/{len(whole)}"
            data += part.content
        assert data == whole
        past = service.call("GET", path, headers={"range": f"bytes={len(whole)}-"})
        assert past.status_code == 416 and past.headers["content-range"] == f"bytes */{len(whole)}"
    monkeypatch.setattr(downloads, "WHOLE_BYTES", 100)
    assert service.call("GET", paths[0]).status_code == 413
    assert service.call("GET", paths[0], headers={"range": "bytes=3-5"}).content == whole_of(service, drawn, file)[3:6]


def whole_of(service, job_id, file):
    """The bytes of a Parquet file, from the store."""
    [path] = [path for path in service.files() if path.name == file["name"].rpartition("/")[2]]
    return path.read_bytes()


def test_only_a_few_downloads_run_at_once_and_others_are_told_when_to_come_back(service, drawn, monkeypatch):
    monkeypatch.setattr(downloads, "AT_ONCE", 0)
    answer = service.call("GET", f"/v1/emoji-sets/{drawn}/zip")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert answer.json()["error"]["code"] == "too_many_downloads"
    monkeypatch.undo()
    assert service.call("GET", f"/v1/emoji-sets/{drawn}/zip").status_code == 200
    assert downloads.DownloadResponse.under_way == 0


def test_sizes_of_outputs_count_the_pictures_of_their_own_lines(service, batch):
    jobs = JobStore(service.store)
    job = jobs.find(batch["id"])
    for name in ("output_file_id", "error_file_id"):
        assert batch_files.size_of(jobs, job, batch[name]) == len(
            service.call("GET", f"/v1/files/{batch[name]}/content").text
        )


def test_a_picture_given_up_is_the_service_s_fault(service):
    gone, wrong = (
        batch_files._bad([{"status": "failed", "reason": reason}]) for reason in (f"{RETRIES_EXHAUSTED}: x", "no lora")
    )
    assert (gone["status_code"], gone["body"]["error"]["type"]) == (500, "server_error")
    assert (wrong["status_code"], wrong["body"]["error"]["type"]) == (400, "invalid_request_error")


def test_the_end_of_a_long_job_is_told_by_its_newest_entry(service, monkeypatch):
    job, jobs = make_job(service.store, 100), JobStore(service.store)
    drawing, read = JobState(jobs, job), []
    for shard in islice(jobs.shards(job), 5):
        drawing.commit({shard.name: [failed_row(picture, "no") for picture in shard.pictures]})
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_state.entries", lambda _, first: read.append(first) or iter(()))
    counts = service.status(job.id)["counts"]
    after = service.call("POST", f"/v1/emoji-sets/{job.id}/cancel").json()
    assert after["status"] == "cancelled" and after["counts"] == counts and counts["failed"] == 40
    assert read and min(read) > 5, "none of the former entries"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/emoji-sets/set_%00", 404),
        (f"/v1/emoji-sets/set_{'a' * 300}", 404),
        (f"/v1/emoji-sets/set_{'٣' * 32}", 404),
        ("/v1/batches/batch_%00", 404),
        (f"/v1/files/file-{'a' * 5000}", 404),
        ("/v1/files/file-out-batch_%00/content", 404),
        (f"/v1/emoji-sets/JOB/items?after={'9' * 5000}", 400),
        ("/v1/emoji-sets/JOB/items?after=٣", 400),
        ("/v1/emoji-sets/JOB/zip?after=-1", 400),
        ("/v1/emoji-sets/JOB/zip?limit=0", 400),
        ("/v1/files?order=sideways", 400),
    ],
)
def test_what_is_no_id_is_not_there(service, drawn, path, status):
    assert service.call("GET", path.replace("JOB", drawn)).status_code == status


def test_fields_of_forms_that_would_be_passed_over_are_refused(service):
    file = {"file": ("x.jsonl", '{"custom_id": "a", "prompt": "a"}')}
    odd = service.call("POST", "/v1/emoji-sets", files=file, data={"n": "4"})
    assert odd.status_code == 400 and odd.json()["error"]["param"] == "n"
    days = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    ends = service.call("POST", "/v1/files", files=file, data=days)
    assert ends.status_code == 400 and ends.json()["error"]["param"].startswith("expires_after")
    long = service.call("POST", "/v1/emoji-sets", files=file, data={"parameters": " " * 100_000 + "{}"})
    assert long.status_code == 400 and "64KB" in long.json()["error"]["message"]


def test_files_are_listed_in_pages_both_ways(service):
    for number in range(3):
        service.call("POST", "/v1/files", files={"file": (f"{number}", "{}")}, data={"purpose": "batch"})
    all_of_them = [one["id"] for one in service.call("GET", "/v1/files").json()["data"]]
    first = service.call("GET", "/v1/files?limit=2").json()
    rest = service.call("GET", f"/v1/files?after={first['last_id']}").json()
    assert [one["id"] for one in first["data"] + rest["data"]] == all_of_them and first["has_more"]
    assert [one["id"] for one in service.call("GET", "/v1/files?order=asc").json()["data"]] == all_of_them[::-1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"prompts": ["' + "a" * (9 * 2**20) + '"]}', 413),
        ('{"prompts": ' + "[[]," * 300_000 + "1]}", 400),
        (json.dumps({"prompts": ["a"], "styles": ["{prompt}" + "x" * 4000]}), 400),
        (json.dumps({"prompts": ["a"], "metadata": {"k": "v" * 513}}), 400),
    ],
    ids=["long", "nested", "style", "metadata"],
)
def test_bodies_that_would_hold_up_others_are_refused_at_once(service, body, status):
    began = time.process_time()
    answer = service.call("POST", "/v1/emoji-sets", content=body, headers={"content-type": "application/json"})
    print(f"{answer.status_code} after {time.process_time() - began:.2f} s of CPU time")
    assert answer.status_code == status
