"""Output and error file of a batch, line by line out of its pictures; nothing is stored twice."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from emoji_ldm.serve.sets import pack
from emoji_ldm.serve.sets.items import Row
from emoji_ldm.serve.sets.jobs import Job, Jobs
from emoji_ldm.serve.sets.results import Progress, Results

OUT, ERR = "file-out-", "file-err-"
COLUMNS = ("custom_id", "status", "reason", "seed", "image", "size")
SIZES = ("custom_id", "status", "reason", "seed", "size")
PART_LINES = 16


def job_id(file_id: str) -> str:
    """Id of the batch that a file is an output of; empty for other files."""
    return next((file_id.removeprefix(start) for start in (OUT, ERR) if file_id.startswith(start)), "")


def names(job: Job, now: Progress) -> dict[str, str | None]:
    """The ids of both files, as far as there is something in them and the batch has ended."""
    ended = now.status in ("completed", "cancelled", "expired")
    missing = now.totals.lines_ok + now.totals.lines_failed < job.num_lines
    return {
        "output_file_id": f"{OUT}{job.id}" if ended and now.totals.lines_ok else None,
        "error_file_id": f"{ERR}{job.id}" if ended and (now.totals.lines_failed or missing) else None,
    }


def facts(jobs: Jobs, job: Job, file_id: str) -> dict[str, Any]:
    """The file as OpenAI's API shows it; its size is counted without reading the pictures."""
    size = sum(map(len, _lines(jobs, job, file_id, SIZES)))
    extra = (
        sum(4 * -(-row["size"] // 3) for row in pack.ordered(Results(jobs, job).table, SIZES)) if _out(file_id) else 0
    )
    kind = "output" if _out(file_id) else "error"
    return {"id": file_id, "object": "file", "bytes": size + extra, "created_at": int(job.created_at),
            "filename": f"{job.id}_{kind}.jsonl", "purpose": "batch_output", "status": "processed"}  # fmt: skip


def lines(jobs: Jobs, job: Job, file_id: str) -> Iterator[bytes]:
    """The bytes of a file, line by line."""
    return _lines(jobs, job, file_id, COLUMNS)


def _out(file_id: str) -> bool:
    return file_id.startswith(OUT)


def _lines(jobs: Jobs, job: Job, file_id: str, columns: tuple[str, ...]) -> Iterator[bytes]:
    rows = pack.ordered(Results(jobs, job).table, columns)
    for custom_id, group in groupby(rows, key=lambda row: row["custom_id"]):
        pictures = list(group)
        good = all(row["status"] == "ok" for row in pictures)
        if good == _out(file_id):
            response = _good(job, pictures) if good else _bad(pictures)
            yield _line(job, custom_id, response=response)
    if not _out(file_id):
        yield from _missing(jobs, job)


def _good(job: Job, pictures: list[Row]) -> dict[str, Any]:
    data = [{"b64_json": base64.b64encode(row["image"]["bytes"]).decode() if "image" in row else "",
             "seed": row["seed"]} for row in pictures]  # fmt: skip
    return {"status_code": 200, "request_id": f"{job.id}", "body": {"created": int(job.created_at), "data": data}}


def _bad(pictures: list[Row]) -> dict[str, Any]:
    reason = next(row["reason"] for row in pictures if row["status"] != "ok")
    error = {"message": reason, "type": "invalid_request_error", "param": None, "code": "not_drawn"}
    return {"status_code": 400, "request_id": "", "body": {"error": error}}


def _missing(jobs: Jobs, job: Job) -> Iterator[bytes]:
    """Lines of a batch that ended before they were drawn."""
    results = Results(jobs, job)
    results.refresh()
    why = results.totals.end
    for shard in jobs.shards(job):
        if shard.name not in results.done:
            for custom_id in dict.fromkeys(picture.line.custom_id for picture in shard.pictures):
                error = {"code": f"batch_{why}", "message": f"the batch was {why} before this request was drawn"}
                yield _line(job, custom_id, error=error)


def _line(job: Job, custom_id: str, **content: Any) -> bytes:
    whole = {"id": f"batch_req_{job.id.removeprefix('batch_')}_{custom_id}", "custom_id": custom_id, "response": None,
             "error": None, **content}  # fmt: skip
    return json.dumps(whole).encode() + b"\n"
