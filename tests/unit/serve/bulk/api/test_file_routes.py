"""Tests of OpenAI's Files API."""

import openai
import pytest

from tests.unit.serve.bulk.api.batch_client import begin_with, contents, ended, line, upload


def test_files_are_listed_in_pages_in_both_orders(service):
    for number in range(3):
        service.call("POST", "/v1/files", files={"file": (f"{number}", "{}")}, data={"purpose": "batch"})
    all_of_them = [one["id"] for one in service.call("GET", "/v1/files").json()["data"]]
    first = service.call("GET", "/v1/files?limit=2").json()
    rest = service.call("GET", f"/v1/files?after={first['last_id']}").json()
    assert [one["id"] for one in first["data"] + rest["data"]] == all_of_them and first["has_more"]
    assert [one["id"] for one in service.call("GET", "/v1/files?order=asc").json()["data"]] == all_of_them[::-1]


def test_an_empty_file_and_another_purpose_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=("x.jsonl", b""), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="only 'batch'"):
        client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")


def test_an_output_file_cannot_be_deleted_by_itself(service, completed_batch):
    response = service.call("DELETE", f"/v1/files/{completed_batch['output_file_id']}")
    assert response.status_code == 400 and completed_batch["id"] in response.json()["error"]["message"]


def test_files_and_their_batches_are_listed_read_back_and_deleted(client):
    file = upload(client, [line("a", prompt="a cat")])
    assert file.filename == "lines.jsonl" and client.files.retrieve(file.id).bytes == file.bytes
    assert contents(client, file.id) == [line("a", prompt="a cat")]
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    batches = [begin_with(client, file) for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == [batch.id for batch in batches[::-1]], "the client asks for further pages itself"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert ended(client, batches[0]).status == "completed", "a batch does not need its file any more"


def test_a_repeated_upload_under_one_idempotency_key_is_one_file(service):
    def upload(content, owner="ann"):
        return service.call("POST", "/v1/files", owner, files={"file": ("x.jsonl", content)},
                            data={"purpose": "batch"}, headers={"idempotency-key": "k"})  # fmt: skip

    first, again, other, bobs = upload("{}"), upload("{}"), upload("[]"), upload("[]", "bob")
    assert first.json() == again.json() and "digest" not in first.json()
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_key_reused"
    assert bobs.status_code == 200 and len(service.call("GET", "/v1/files").json()["data"]) == 1
