"""Tests of the output and error files of batches."""

import json

import pytest

from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.api.bulk_service import BulkService

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return BulkService(tmp_path_factory.mktemp("downloads"))


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


def test_computed_sizes_equal_the_bytes_of_the_files(service, batch):
    jobs = JobStore(service.store)
    job = jobs.find(batch["id"])
    for name in ("output_file_id", "error_file_id"):
        assert batch_files.size_of(jobs, job, batch[name]) == len(
            service.call("GET", f"/v1/files/{batch[name]}/content").text
        )


def test_an_image_given_up_is_a_server_error_and_a_refused_one_a_client_error(service):
    gone, wrong = (
        batch_files._failure([{"status": "failed", "reason": reason}])
        for reason in (f"{RETRIES_EXHAUSTED}: x", "no lora")
    )
    assert (gone["status_code"], gone["body"]["error"]["type"]) == (500, "server_error")
    assert (wrong["status_code"], wrong["body"]["error"]["type"]) == (400, "invalid_request_error")
