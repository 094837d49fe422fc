"""Output and error file of a batch, line by line out of its pictures; nothing is stored twice."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.byte_ranges import slice_chunks
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow
from emoji_ldm.serve.bulk.job_state import JobProgress, JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore

OUTPUT_PREFIX, ERROR_PREFIX = "file-out-", "file-err-"
COLUMNS = ("custom_id", "status", "reason", "seed", "image", "size")
SIZES = ("custom_id", "status", "reason", "seed", "size")


def batch_id(file_id: str) -> str:
    """Id of the batch that a file is an output of; empty for other files."""
    return next(
        (file_id.removeprefix(start) for start in (OUTPUT_PREFIX, ERROR_PREFIX) if file_id.startswith(start)), ""
    )


def file_ids(job: BulkJob, now: JobProgress) -> dict[str, str | None]:
    """The ids of both files, as far as there is something in them and the batch has ended."""
    ended = now.status in ("completed", "cancelled", "expired")
    missing = now.totals.lines_ok + now.totals.lines_failed < job.num_lines
    return {
        "output_file_id": f"{OUTPUT_PREFIX}{job.id}" if ended and now.totals.lines_ok else None,
        "error_file_id": f"{ERROR_PREFIX}{job.id}" if ended and (now.totals.lines_failed or missing) else None,
    }


def size_of(jobs: JobStore, job: BulkJob, file_id: str) -> int:
    """Bytes of a file, counted without reading the pictures."""
    return sum(size for _, size in _sizes(jobs, job, file_id))


def file_object(jobs: JobStore, job: BulkJob, file_id: str) -> dict[str, Any]:
    """The file as OpenAI's API shows it."""
    kind = "output" if _is_output(file_id) else "error"
    return {"id": file_id, "object": "file", "bytes": size_of(jobs, job, file_id), "created_at": int(job.created_at),
            "filename": f"{job.id}_{kind}.jsonl", "purpose": "batch_output", "status": "processed"}  # fmt: skip


def read_range(jobs: JobStore, job: BulkJob, file_id: str, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from an offset to another one; pictures before them are not read."""
    first, before = "", 0
    for item_id, size in _sizes(jobs, job, file_id) if start and _is_output(file_id) else ():
        first = item_id
        if before + size > start:
            break
        before += size
    found = (line for _, line in _lines(jobs, job, file_id, COLUMNS, first))
    return slice_chunks(found, start - before, end - before)


def _is_output(file_id: str) -> bool:
    return file_id.startswith(OUTPUT_PREFIX)


def _sizes(jobs: JobStore, job: BulkJob, file_id: str) -> Iterator[tuple[str, int]]:
    """(item_id of its first picture, bytes) of each line."""
    for pictures, line in _lines(jobs, job, file_id, SIZES):
        files = sum(4 * -(-row["size"] // 3) for row in pictures) if _is_output(file_id) else 0  # in base64
        yield pictures[0]["item_id"] if pictures else "", len(line) + files


def _lines(
    jobs: JobStore, job: BulkJob, file_id: str, columns: tuple[str, ...], first: str = ""
) -> Iterator[tuple[list[ItemRow], bytes]]:
    """(its pictures, the line) from the picture `first` on."""
    rows = job_archive.rows_in_order(JobState(jobs, job).table, columns, first)
    for custom_id, group in groupby(rows, key=lambda row: row["custom_id"]):
        pictures = list(group)
        good = all(row["status"] == "ok" for row in pictures)
        if good == _is_output(file_id):
            response = _good(job, pictures) if good else _bad(pictures)
            yield pictures, _line(job, custom_id, response=response)
    if not _is_output(file_id):
        yield from (([], line) for line in _missing(jobs, job))


def _good(job: BulkJob, pictures: list[ItemRow]) -> dict[str, Any]:
    data = [{"b64_json": base64.b64encode(row["image"]["bytes"]).decode() if "image" in row else "",
             "seed": row["seed"]} for row in pictures]  # fmt: skip
    return {"status_code": 200, "request_id": f"{job.id}", "body": {"created": int(job.created_at), "data": data}}


def _bad(pictures: list[ItemRow]) -> dict[str, Any]:
    reason = next(row["reason"] for row in pictures if row["status"] != "ok")
    status, kind = (500, "server_error") if reason.startswith(RETRIES_EXHAUSTED) else (400, "invalid_request_error")
    error = {"message": reason, "type": kind, "param": None, "code": "not_drawn"}
    return {"status_code": status, "request_id": "", "body": {"error": error}}


def _missing(jobs: JobStore, job: BulkJob) -> Iterator[bytes]:
    """Lines of a batch that ended before they were drawn."""
    results = JobState(jobs, job)
    totals = results.progress().totals
    if totals.lines_ok + totals.lines_failed == job.num_lines:
        return
    results.refresh()
    why = results.totals.end
    for shard in jobs.shards(job):
        if shard.name not in results.done:
            for custom_id in dict.fromkeys(picture.line.custom_id for picture in shard.pictures):
                error = {"code": f"batch_{why}", "message": f"the batch was {why} before this request was drawn"}
                yield _line(job, custom_id, error=error)


def _line(job: BulkJob, custom_id: str, **content: Any) -> bytes:
    whole = {"id": f"batch_req_{job.id.removeprefix('batch_')}_{custom_id}", "custom_id": custom_id, "response": None,
             "error": None, **content}  # fmt: skip
    return json.dumps(whole).encode() + b"\n"
