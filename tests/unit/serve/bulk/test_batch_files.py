"""Tests of byte ranges, of uploaded files, and of the output and error files of batches."""

import base64
import io
import json
import random
import tempfile
import time

import pytest

from emoji_ldm.errors import EmptyUploadError, StoreError, UploadNotFoundError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.batch_files import CONTENT, FOLDER, HEADER, UploadStore, range_reader, slice_chunks
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine, new_job_id
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, failed_row
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.instant_backend import create, make_job, png_of, progress_of, run_jobs

PROMPTS = ["a cat", "refuse", "a dog", "a cow"]


def test_any_range_of_chunks_equals_the_slice_of_their_concatenation():
    rng = random.Random(0)
    data = bytes(range(100))
    for _ in range(200):
        cuts = sorted(rng.sample(range(101), 5))
        chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        start, end = sorted(rng.sample(range(101), 2))
        assert b"".join(slice_chunks(iter(chunks), start, end)) == data[start:end]


def test_chunks_past_the_end_are_not_read():
    chunks = iter([b"abc", b"def", b"ghi"])
    assert b"".join(slice_chunks(chunks, 1, 5)) == b"bcde"
    assert next(chunks) == b"ghi"


def test_a_file_of_the_store_is_read_in_chunks(store, monkeypatch):
    monkeypatch.setattr(batch_files, "CHUNK_BYTES", 3)
    store.write(b"0123456789", "sets", "file")
    read = range_reader(store, store.path("sets", "file"))
    assert list(read(2, 9)) == [b"234", b"567", b"8"] and b"".join(read(8, 99)) == b"89"
    with pytest.raises(StoreError, match="cannot read a file"):
        list(range_reader(store, store.path("nowhere"))(0, 1))


@pytest.fixture
def uploads(store):
    return UploadStore(store)


def add(uploads, data=b"one\ntwo\n", owner="ann", name="lines.jsonl"):
    with tempfile.SpooledTemporaryFile(1024) as source:
        source.write(data)
        return uploads.add(owner, name, source)


def test_a_file_is_read_back_by_lines_and_by_ranges(uploads):
    file = add(uploads)
    assert (file.bytes, file.filename, uploads.get(file.id, "ann")) == (8, "lines.jsonl", file)
    with uploads.open(file) as stream:
        assert list(stream) == [b"one\n", b"two\n"]
    assert b"".join(uploads.read_range(file, 2, 6)) == b"e\ntw"


def test_an_empty_file_is_refused_and_leaves_nothing(uploads, store):
    with pytest.raises(EmptyUploadError):
        uploads.add("ann", "x", io.BytesIO())
    assert store.list(*FOLDER) == []


def test_files_of_other_owners_and_malformed_ids_are_not_found(uploads):
    file = add(uploads)
    for file_id, owner in ((file.id, "bob"), ("file-0", "ann"), (f"../{file.id}", "ann"), (file.id[:-1] + "x", "ann")):
        with pytest.raises(UploadNotFoundError, match="there is no file"):
            uploads.get(file_id, owner)


def test_a_file_without_its_header_does_not_exist(uploads, store):
    file = add(uploads)
    store.remove(*FOLDER, file.id, HEADER)
    assert store.exists(*FOLDER, file.id, CONTENT) and uploads.listing("ann") == []
    with pytest.raises(UploadNotFoundError):
        uploads.get(file.id, "ann")


def test_listings_contain_the_owner_s_files_until_they_are_deleted(uploads):
    mine = {add(uploads, name=f"{number}").id for number in range(3)}
    add(uploads, owner="bob")
    assert {file.id for file in uploads.listing("ann")} == mine
    for file in uploads.listing("ann"):
        uploads.delete(file)
    assert uploads.listing("ann") == [] and len(uploads.listing("bob")) == 1


@pytest.fixture
def batch(store):
    """A completed batch of three images per prompt, one of which the model refuses."""
    now = time.time()
    lines = [JobLine(prompt, "demo", GenerationRequest(prompt, seed=5), 3) for prompt in PROMPTS]
    job = create(store, BulkJob(new_job_id("batch", "ann"), "batch", "ann", now, now + 60, {}), lines)
    run_jobs(store)
    return job


def read(store, job, file_id, start=0, end=2**40):
    return b"".join(batch_files.read_range(JobStore(store), job, file_id, start, end))


def entries(store, job, file_id):
    return [json.loads(line) for line in read(store, job, file_id).splitlines()]


def test_finished_requests_are_in_the_output_file_and_failed_ones_in_the_error_file(store, batch):
    ids = batch_files.file_ids(batch, progress_of(store, batch))
    output, errors = entries(store, batch, ids["output_file_id"]), entries(store, batch, ids["error_file_id"])
    assert [entry["custom_id"] for entry in output] == ["a cat", "a dog", "a cow"]
    images = output[1]["response"]["body"]["data"]
    ids_of_requests = [entry["response"]["request_id"] for entry in (*output, *errors) if entry["response"]]
    assert all(request_id.startswith(f"{batch.id}-") for request_id in ids_of_requests)
    assert len(set(ids_of_requests)) == len(ids_of_requests) > 3
    assert [base64.b64decode(image["b64_json"]) for image in images] == [
        png_of(GenerationRequest("a dog", seed=seed)) for seed in (5, 6, 7)
    ]
    [error] = errors
    assert error["response"]["status_code"] == 400 and error["response"]["body"]["error"]["code"] == "not_drawn"


def test_computed_sizes_and_ranges_equal_those_of_the_whole_file(store, batch):
    rng = random.Random(0)
    for file_id in batch_files.file_ids(batch, progress_of(store, batch)).values():
        whole = read(store, batch, file_id)
        assert batch_files.size_of(JobStore(store), batch, file_id) == len(whole)
        assert batch_files.file_object(JobStore(store), batch, file_id)["bytes"] == len(whole)
        for _ in range(10):
            start, end = sorted(rng.sample(range(len(whole) + 1), 2))
            assert read(store, batch, file_id, start, end) == whole[start:end]


def test_an_image_given_up_is_a_server_error(store):
    job, jobs = make_job(store, 1, kind="batch"), JobStore(store)
    [shard] = jobs.shards(job)
    JobState(jobs, job).commit({shard.name: [failed_row(shard.items[0], f"{RETRIES_EXHAUSTED}: a replica died")]})
    [entry] = entries(store, job, f"{batch_files.ERROR_PREFIX}{job.id}")
    assert entry["response"]["status_code"] == 500
    assert entry["response"]["body"]["error"]["type"] == "server_error"


def test_requests_that_a_cancelled_batch_did_not_reach_are_in_the_error_file(store):
    job, jobs = make_job(store, 3, kind="batch"), JobStore(store)
    assert batch_files.file_ids(job, progress_of(store, job)) == {"output_file_id": None, "error_file_id": None}
    JobState(jobs, job).cancel()
    ids = batch_files.file_ids(job, progress_of(store, job))
    assert ids["output_file_id"] is None and batch_files.batch_id(ids["error_file_id"]) == job.id
    errors = entries(store, job, ids["error_file_id"])
    assert [entry["error"]["code"] for entry in errors] == ["batch_cancelled"] * 3


def test_two_owners_who_share_the_hash_in_ids_do_not_share_files(store, monkeypatch):
    monkeypatch.setattr(batch_files, "owner_hash", lambda owner: "0" * 8)
    uploads = UploadStore(store)
    file = add(uploads, owner="ann")
    assert uploads.get(file.id, "ann") == file and uploads.listing("ann") == [file]
    assert uploads.listing("bob") == []
    with pytest.raises(UploadNotFoundError):
        uploads.get(file.id, "bob")
