"""Tests of OpenAI's Batch API with the official client against a real server."""

import base64
import io
import json
import time

import openai
import pytest

from tests.unit.serve.bulk.api.batch_client import URL, begin, begin_with, contents, ended, line, upload
from tests.unit.serve.bulk.instant_backend import png_of


@pytest.mark.slow
def test_a_batch_gives_one_line_per_request_with_the_body_of_the_images_api(client, backend):
    lines = [line("a", prompt="a cat", n=3, seed=5), line("b", prompt="a dog"), line("c", prompt="refuse", n=2)]
    batch = ended(client, begin(client, lines, metadata={"who": "me"}))
    assert batch.status == "completed" and batch.metadata == {"who": "me"} and batch.completed_at >= batch.created_at
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    good = {one["custom_id"]: one["response"] for one in contents(client, batch.output_file_id)}
    assert list(good) == ["a", "b"] and all(response["status_code"] == 200 for response in good.values())
    images = openai.types.ImagesResponse.model_validate(good["a"]["body"])
    assert [image.seed for image in images.data] == [5, 6, 7]
    drawn = {task.request.seed: png_of(task.request) for task in backend.tasks if task.request.prompt == "a cat"}
    assert [base64.b64decode(image.b64_json) for image in images.data] == [drawn[5], drawn[6], drawn[7]]
    [bad] = contents(client, batch.error_file_id)
    assert bad["custom_id"] == "c" and bad["response"]["body"]["error"]["message"] == "the model cannot draw this"
    for file_id in (batch.output_file_id, batch.error_file_id):
        file = client.files.retrieve(file_id)
        assert file.purpose == "batch_output" and file.bytes == len(client.files.content(file_id).content)


def test_output_options_of_a_request_are_honoured(client):
    from PIL import Image

    batch = ended(client, begin(client, [line("a", prompt="a", output_format="webp", background="opaque")]))
    [one] = contents(client, batch.output_file_id)
    data = base64.b64decode(one["response"]["body"]["data"][0]["b64_json"])
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP" and image.mode == "RGB"


def test_an_invalid_line_becomes_its_own_error_and_the_others_are_drawn(client):
    lines = [
        line("a", prompt="a"),
        line("b", prompt="a", steps=0),
        line("c"),
        {**line("d", prompt="a"), "url": "/v1/x"},
        {"method": "POST"},
        line("a", prompt="again"),
        line("e", prompt="e"),
    ]
    batch = ended(client, begin(client, lines))
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 2, 5)
    assert [one["custom_id"] for one in contents(client, batch.output_file_id)] == ["a", "e"]
    bad = {one["custom_id"]: one["response"] for one in contents(client, batch.error_file_id)}
    assert list(bad) == ["b", "c", "d", "line-5", "line-6"]
    assert {response["status_code"] for response in bad.values()} == {400}
    messages = [response["body"]["error"]["message"] for response in bad.values()]
    for message, text in zip(messages, ["steps", "prompt", "url", "custom_id", "line 1 already"], strict=True):
        assert text in message


def test_a_batch_without_a_valid_line_fails_and_each_is_named(client):
    batch = begin(client, [line("b", prompt="a", steps=0), line("c"), {**line("d", prompt="a"), "url": "/v1/x"}])
    assert batch.status == "failed" and batch.failed_at and batch.output_file_id is None
    found = [(error.line, error.param) for error in batch.errors.data]
    assert found == [(1, "body.steps"), (2, "body.prompt"), (3, "url")]
    assert client.batches.cancel(batch.id).status == "failed"


def test_a_file_of_bad_lines_makes_no_large_job(client):
    """Nobody pays for a batch that fails, so what is stored of it is bounded: a line may have 256 KB."""
    batch = begin(client, [{**line(f"{number}", prompt="a"), "x" * 100_000: 1} for number in range(30)])
    assert batch.status == "failed" and len(batch.errors.data) == 20
    assert all(len(error.message) <= 300 and len(error.param) <= 300 for error in batch.errors.data)


@pytest.mark.slow
def test_a_cancelled_batch_gives_the_finished_requests_and_names_the_others(client, backend, monkeypatch):
    monkeypatch.setattr(backend, "pause_s", 0.1)  # on a busy machine the batch must not end before it is cancelled
    batch = begin(client, [line(str(number), prompt=f"p{number}", n=10) for number in range(1000)])
    while not client.batches.retrieve(batch.id).request_counts.completed:
        time.sleep(0.05)
    batch = client.batches.cancel(batch.id)
    assert batch.status == "cancelled" and batch.cancelled_at
    good, bad = contents(client, batch.output_file_id), contents(client, batch.error_file_id)
    assert len(good) == batch.request_counts.completed > 0
    assert {one["custom_id"] for one in good + bad} == {str(number) for number in range(1000)}
    assert len(good) + len(bad) == 1000 and {one["error"]["code"] for one in bad} == {"batch_cancelled"}


def test_the_same_idempotency_key_is_the_same_batch(client):
    file = upload(client, [line("a", prompt="a cat")])

    def create():
        return client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h",
                                     extra_headers={"Idempotency-Key": "once"})  # fmt: skip

    assert create().id == create().id


def test_a_malformed_file_fails_the_batch_and_a_missing_one_or_another_endpoint_is_refused(client):
    file = client.files.create(file=("x.jsonl", b"\xff\xfe\n"), purpose="batch")
    batch = begin_with(client, file)
    assert batch.status == "failed" and batch.errors.data[0].line == 1
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.batches.create(input_file_id="file-no", endpoint=URL, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")


def test_a_batch_beyond_the_quota_is_refused_and_not_created_as_failed(service, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # so that the test lies within one minute of the clock
    file = {"file": ("x.jsonl", json.dumps(line("a", prompt="a cat", n=10)))}
    file_id = service.call("POST", "/v1/files", "bob", files=file, data={"purpose": "batch"}).json()["id"]
    body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
    statuses = [service.call("POST", "/v1/batches", "bob", json=body).status_code for _ in range(7)]
    assert statuses == [200] * 6 + [429]
    assert len(service.call("GET", "/v1/batches", "bob").json()["data"]) == 6


def test_a_batch_that_fails_its_validation_is_told_to_its_webhook_too(service):
    from emoji_ldm.serve.bulk.job_store import HOOKS

    file = {"file": ("x.jsonl", "{}")}
    file_id = service.call("POST", "/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
    webhook = {"url": "https://example.org", "secret": "whsec_" + "QUJD" * 8}
    body = {"input_file_id": file_id, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    batch = service.call("POST", "/v1/batches", json={**body, "webhook": webhook}).json()
    assert batch["status"] == "failed" and service.store.list(*HOOKS) == [batch["id"]]
    assert "whsec_" not in service.call("GET", f"/v1/batches/{batch['id']}").text
