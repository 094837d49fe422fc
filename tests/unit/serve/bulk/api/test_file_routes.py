"""Tests of OpenAI's Files API."""

import json
import time

import openai
import pytest

from tests.unit.serve.bulk.api.bulk_service import BulkService
from tests.unit.serve.bulk.instant_backend import InstantBackend
from tests.unit.serve.bulk.live_service import serving


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return BulkService(tmp_path_factory.mktemp("downloads"))


def test_files_are_listed_in_pages_in_both_orders(service):
    for number in range(3):
        service.call("POST", "/v1/files", files={"file": (f"{number}", "{}")}, data={"purpose": "batch"})
    all_of_them = [one["id"] for one in service.call("GET", "/v1/files").json()["data"]]
    first = service.call("GET", "/v1/files?limit=2").json()
    rest = service.call("GET", f"/v1/files?after={first['last_id']}").json()
    assert [one["id"] for one in first["data"] + rest["data"]] == all_of_them and first["has_more"]
    assert [one["id"] for one in service.call("GET", "/v1/files?order=asc").json()["data"]] == all_of_them[::-1]


URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def backend():
    return InstantBackend(0.002)


@pytest.fixture(scope="module")
def client(tmp_path_factory, backend):
    with (
        serving(tmp_path_factory.mktemp("batches"), backend) as (url, key),
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as found,
    ):
        yield found


def line(custom_id, **body):
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "demo", **body}}


def upload(client, lines):
    text = "".join(json.dumps(one) + "\n" for one in lines)
    return client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")


def ended(client, batch):
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def contents(client, file_id):
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def test_an_empty_or_malformed_file_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=("x.jsonl", b""), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="only 'batch'"):
        client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    file = client.files.create(file=("x.jsonl", b"\xff\xfe\n"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    assert batch.status == "failed" and batch.errors.data[0].line == 1
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-no", endpoint=URL, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")


def test_files_and_their_batches_are_listed_read_back_and_deleted(client):
    file = upload(client, [line("a", prompt="a cat")])
    assert file.filename == "lines.jsonl" and client.files.retrieve(file.id).bytes == file.bytes
    assert contents(client, file.id) == [line("a", prompt="a cat")]
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    batches = [client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h") for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == [batch.id for batch in batches[::-1]], "the client asks for further pages itself"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert ended(client, batches[0]).status == "completed", "a batch does not need its file any more"
