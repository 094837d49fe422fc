"""`/v1/batches` as OpenAI's client knows it, over the same jobs as emoji sets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import IO, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from emoji_ldm.serve.auth import Caller, caller_of, owner_of
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.api import job_requests
from emoji_ldm.serve.bulk.api.job_quota import cancel_job, check_idempotency
from emoji_ldm.serve.bulk.api.job_requests import random_seed
from emoji_ldm.serve.bulk.api.pagination import PageLimit, paginate
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore
from emoji_ldm.serve.bulk.shards import JobLine
from emoji_ldm.serve.bulk.uploads import UploadStore
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import parse_values
from emoji_ldm.serve.request_body import parse_json, read_body

KIND = "batch"
URL = "/v1/images/generations"
MAX_BODY_BYTES = 64 * 1024
SHOWN_ERRORS = 100
FIELDS = ("custom_id", "method", "url", "body")


class BatchRequest(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    input_file_id: str
    """An uploaded file of JSONL: lines with `custom_id`, `method` (POST), `url` and `body`."""
    endpoint: Literal["/v1/images/generations"]
    """What the lines ask for."""
    completion_window: Literal["24h"]
    """What is not drawn by then is not drawn at all."""
    metadata: job_requests.Metadata | None = None
    """Your own notes."""


class InvalidLines(Exception):
    """Lines of the file are wrong."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        """Say which."""
        super().__init__(f"{len(errors)} lines are refused")
        self.errors = errors


def batch_routes(jobs: JobStore, backend: Backend) -> APIRouter:
    """The routes."""
    router, files = APIRouter(prefix="/v1/batches", tags=["batches"]), UploadStore(jobs.store)
    schema = {"content": {"application/json": {"schema": BatchRequest.model_json_schema()}}, "required": True}

    @router.post("", openapi_extra={"requestBody": schema})
    async def create(request: Request) -> dict[str, Any]:
        """Begin a batch. One with wrong lines has the status `failed`, and its `errors` name them."""
        wanted = _read(parse_json(await read_body(request, MAX_BODY_BYTES)))
        key, models = request.headers.get("idempotency-key"), await backend.models()
        return await asyncio.to_thread(_create, (jobs, files), caller_of(request), wanted, models, key)

    @router.get("")
    async def listing(request: Request, limit: PageLimit = 20, after: str = "") -> dict[str, Any]:
        """Your batches, newest first."""
        found = await asyncio.to_thread(jobs.listing, owner_of(request), KIND)
        return await asyncio.to_thread(paginate, found, after, limit, lambda job: batch_object(jobs, job))

    @router.get("/{job_id}")
    async def get(request: Request, job_id: str) -> dict[str, Any]:
        """A batch with its counts."""
        return await asyncio.to_thread(
            batch_object, jobs, await asyncio.to_thread(_batch, jobs, job_id, owner_of(request))
        )

    @router.post("/{job_id}/cancel")
    async def cancel(request: Request, job_id: str) -> dict[str, Any]:
        """Draw nothing more; what is drawn can be fetched."""
        job = await asyncio.to_thread(_batch, jobs, job_id, owner_of(request))
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))
        return await asyncio.to_thread(batch_object, jobs, job)

    return router


def batch_object(jobs: JobStore, job: BulkJob) -> dict[str, Any]:
    """A batch as OpenAI's API shows it."""
    now = JobState(jobs, job).progress()
    created, ended_at = int(job.created_at), int(now.ended_at) if now.ended_at else None
    state = "in_progress" if now.status == "queued" else now.status
    ends = ("completed", "cancelled", "expired", "failed")
    errors = {"object": "list", "data": list(job.errors)} if job.errors else None
    counts = {"total": job.num_lines, "completed": now.totals.lines_ok, "failed": now.totals.lines_failed}
    return {
        "id": job.id, "object": "batch", "endpoint": URL, "completion_window": "24h", **job.asked, "status": state,
        "errors": errors, "created_at": created, "expires_at": int(job.expires_at),
        "in_progress_at": None if job.errors else int(now.started_at or created),
        "finalizing_at": ended_at if state == "completed" else None,
        "cancelling_at": ended_at if state == "cancelled" else None,
        **{f"{end}_at": ended_at if state == end else None for end in ends},
        "request_counts": counts, **batch_files.file_ids(job, now),
    }  # fmt: skip


def _create(
    homes: tuple[JobStore, UploadStore],
    caller: Caller,
    wanted: BatchRequest,
    models: job_requests.Models,
    key: str | None,
) -> dict[str, Any]:
    jobs, owner = homes[0], caller.name
    digest, now = job_requests.request_digest(wanted.model_dump_json().encode()), time.time()
    job_id, job = jobs.keyed(KIND, owner, key)
    if job is None:
        asked = {"input_file_id": wanted.input_file_id, "metadata": wanted.metadata}
        empty = BulkJob(job_id, KIND, owner, now, now + job_requests.DAY_S, asked, digest, keyed=bool(key))
        job = _checked(homes, empty, models, caller)
    return batch_object(jobs, check_idempotency(job, digest))


def _checked(
    homes: tuple[JobStore, UploadStore], empty: BulkJob, models: job_requests.Models, caller: Caller
) -> BulkJob:
    """The job of a file; a failed one with the errors if lines are wrong."""
    jobs, files = homes
    with files.opened(files.get(str(empty.asked["input_file_id"]), empty.owner)) as source:
        try:
            return jobs.create(empty, job_requests.limit_job_size(_lines(source, models)), caller)
        except InvalidLines as refused:
            errors = refused.errors
        except RequestError as error:
            if error.status != 400:  # the quota
                raise
            errors = [_error(error)]
    return jobs.create_failed(empty, errors)


def _lines(source: IO[bytes], models: job_requests.Models) -> Iterator[JobLine]:
    """The lines of a batch; Refused, at the end, if some are wrong."""
    errors, seed, lines = list[dict[str, Any]](), random_seed(), job_requests.read_jsonl(source)
    while len(errors) < SHOWN_ERRORS:
        try:
            number, values = next(lines)
        except StopIteration:
            break
        except RequestError as error:
            errors.append(_error(error))
            break  # what follows cannot be told apart
        try:
            line = _line(values, models, seed)
        except RequestError as error:
            errors.append(_error(job_requests.error_at_line(number, error)))
            continue
        seed += line.n
        if not errors:
            yield line
    if errors:
        raise InvalidLines(errors)


def _line(values: dict[str, Any], models: job_requests.Models, seed: int) -> JobLine:
    if unknown := sorted(set(values) - set(FIELDS)):
        raise RequestError(f"unknown field {unknown[0]!r}; known are: {', '.join(FIELDS)}", param=unknown[0])
    for field, known in (("method", "POST"), ("url", URL)):
        if values.get(field) != known:
            raise RequestError(f"{field}={values.get(field)!r} is refused: only {known!r}", param=field)
    body = values.get("body")
    if not isinstance(body, dict):
        raise RequestError("body must be a JSON object", param="body", code="missing_required_parameter")
    try:
        job_requests.refuse_streaming(body)
        request = parse_values(body, models)
    except RequestError as error:
        raise RequestError(
            str(error), param=f"body.{error.param}" if error.param else "body", code=error.code
        ) from None
    return job_requests.line_of_request(request, models, custom_id=values["custom_id"], seed=seed)


def _error(error: RequestError) -> dict[str, Any]:
    return {"code": error.code or "invalid_request", "line": getattr(error, "line", None), "message": str(error),
            "param": error.param}  # fmt: skip


def _batch(jobs: JobStore, job_id: str, owner: str) -> BulkJob:
    job = jobs.get(job_id, owner)
    if job.kind != KIND:
        raise RequestError(f"{job_id} is an emoji set: GET /v1/emoji-sets/{job_id}", status=404, code="not_found")
    return job


def _read(values: object) -> BatchRequest:
    try:
        return BatchRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise RequestError(f"{field} is refused: {problem['msg']}", param=field) from None
