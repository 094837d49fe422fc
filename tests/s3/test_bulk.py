"""Bulk jobs on a real S3 server: made, drawn by two runners at once, cancelled, read, deleted."""

import asyncio
import io
import time
import zipfile

import pytest

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.batch_files import UploadStore
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import InstantBackend, create, make_job, rows_of


@pytest.mark.slow
def test_a_job_on_s3_is_drawn_once_by_two_runners_and_deleted_whole(s3_uri):
    store = Store(s3_uri)
    jobs, job = JobStore(store), make_job(store, 120)

    async def work():
        await asyncio.gather(
            *(JobRunner(store, InstantBackend(0.005), poll_s=0.1).run(until_idle=True) for _ in range(2))
        )

    asyncio.run(work())
    assert [row["item_id"] for row in rows_of(store, job)] == [f"{index:08d}" for index in range(120)]
    assert JobState(jobs, job).progress().status == "completed" and jobs.open_jobs() == []
    parts = b"".join(job_archive.zip_parts(job.id, job_archive.rows_in_order(JobState(jobs, job).table)))
    with zipfile.ZipFile(io.BytesIO(parts)) as archive:
        assert len(archive.namelist()) == 122
    again = make_job(store, 5)
    assert JobState(jobs, again).cancel() == 5 and JobState(jobs, again).progress().status == "cancelled"
    for each in (job, again):
        jobs.delete(each)
    left = [path for path in store.list("sets", recursive=True) if store.exists("sets", path)]
    assert jobs.listing("ann", "emoji_set") == left == []


def test_an_uploaded_file_is_kept_and_read_back_line_by_line(s3_uri, tmp_path):
    (tmp_path / "lines.jsonl").write_bytes(b"one\n" * 2_000_000)
    files = UploadStore(Store(s3_uri))
    with (tmp_path / "lines.jsonl").open("rb") as source:
        file = files.add("ann", "lines.jsonl", source)
    with files.open(files.get(file.id, "ann")) as stream:
        assert stream.readline(100) == b"one\n" and sum(1 for _ in stream) == 1_999_999
    assert sum(map(len, files.read_range(file, 0, file.bytes))) == file.bytes == 8_000_000
    assert b"".join(files.read_range(file, 5_000_001, 5_000_007)) == b"ne\none"
    files.delete(file)
    assert files.listing("ann") == []


@pytest.mark.slow
def test_a_job_with_a_key_is_made_once_and_after_its_deletion_anew(s3_uri):
    store, seen = Store(s3_uri), set()
    jobs = JobStore(store)
    for _ in range(2):
        job_id, _ = jobs.resolve_key("emoji_set", "ann", "k")
        empty = BulkJob(job_id, "emoji_set", "ann", time.time(), time.time() + 60, {}, keyed=True)
        lines = [JobLine(str(number), "demo", GenerationRequest("a cat", seed=number)) for number in range(20)]
        first, second = create(store, empty, lines), create(store, empty, lines[:5])
        assert first == second == jobs.resolve_key("emoji_set", "ann", "k")[1]
        asyncio.run(JobRunner(store, InstantBackend(), poll_s=0.1).run(until_idle=True))
        assert JobState(jobs, first).progress().totals.ok == 20
        seen.add(job_id)
        jobs.delete(first)
    assert len(seen) == 2 and jobs.listing("ann", "emoji_set") == jobs.open_jobs() == []
