"""`/v1/batches` of OpenAI's API, over the same jobs as emoji sets.

A batch differs from a set in how it fails: a set with an invalid line is refused; in a batch such a line gets an error
response of its own, and the others are drawn. Without a valid line the batch has the status `failed`, as OpenAI's does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.api import job_requests
from emoji_ldm.serve.bulk.api.job_quota import cancel_job, check_idempotency, create_charged
from emoji_ldm.serve.bulk.api.jsonl_input import error_at_line, read_jsonl
from emoji_ldm.serve.bulk.api.responses import JsonObject, PageLimit, paginate
from emoji_ldm.serve.bulk.batch_files import UploadStore
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import Caller, caller_of, owner_of
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import ImageRequest
from emoji_ldm.serve.openapi_models import body_schema
from emoji_ldm.serve.request_body import parse_json, read_body
from emoji_ldm.serve.request_validation import validate_request

KIND = "batch"
URL = "/v1/images/generations"
MAX_BODY_BYTES = 64 * 1024
# All errors of a file with 50,000 invalid lines would make a header of megabytes.
SHOWN_ERRORS = 20
MAX_ERROR = 300  # characters of a line's error: a message repeats what it is about
FIELDS = ("custom_id", "method", "url", "body")


class BatchRequest(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    input_file_id: str
    """An uploaded JSONL file: lines with `custom_id`, `method` (POST), `url` and `body`."""
    endpoint: Literal["/v1/images/generations"]
    """The route that the lines are for."""
    completion_window: Literal["24h"]
    """Images that are not generated within this time are not generated at all."""
    metadata: job_requests.Metadata | None = None
    """Your own notes."""
    webhook: job_requests.Webhook | None = None
    """Told when the batch has ended (not part of OpenAI's API)."""
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    """Of your jobs, those with a higher one are drawn first (not part of OpenAI's API)."""


class InvalidFile(Exception):
    """No line of the input file can be drawn, or it is too long; `errors` holds OpenAI's batch error objects."""

    def __init__(self, errors: list[JsonObject]) -> None:
        super().__init__(f"{len(errors)} lines are refused")
        self.errors = errors


@dataclass(frozen=True)
class BatchService:
    """Creates batches."""

    jobs: JobStore
    uploads: UploadStore
    webhook_hosts: Collection[str] = ()

    def create(self, caller: Caller, request: BatchRequest, models: job_requests.Models, key: str | None) -> JsonObject:
        """Create a batch, or return the one that already has this idempotency key."""
        digest, now = job_requests.request_digest(request.model_dump_json().encode()), time.time()
        # Asked before the file is read: a repeated request costs one lookup. Its digest is compared at the end.
        job_id, job = self.jobs.resolve_key(KIND, caller.name, key)
        if job is None:
            webhook = request.webhook.checked(self.webhook_hosts) if request.webhook else None
            shown = {"input_file_id": request.input_file_id, "metadata": request.metadata}
            expires_at = now + job_requests.DAY_S
            header = BulkJob(job_id, KIND, caller.name, now, expires_at, shown, digest, keyed=bool(key),
                             webhook=webhook, priority=request.priority)  # fmt: skip
            job = self._create_job(header, models, caller)
        return batch_object(self.jobs, check_idempotency(job, digest))

    def _create_job(self, header: BulkJob, models: job_requests.Models, caller: Caller) -> BulkJob:
        """Create the job of an uploaded file; a failed one, with the errors, if no line can be drawn."""
        # The owner's file only: a leaked id gives access to nothing.
        upload, seed = self.uploads.get(str(header.asked["input_file_id"]), header.owner), job_requests.random_seed()

        def lines() -> Iterator[JobLine]:
            with self.uploads.open(upload) as source:
                try:
                    yield from job_requests.limit_job_size(_job_lines(source, models, seed))
                except RequestError as error:
                    raise InvalidFile([_error_object(error)]) from None

        try:
            return create_charged(self.jobs, header, lines, caller)
        except InvalidFile as invalid:
            return self.jobs.create_failed(header, invalid.errors)


def batch_routes(jobs: JobStore, backend: Backend, webhook_hosts: Collection[str] = ()) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])
    batches = BatchService(jobs, UploadStore(jobs.store), webhook_hosts)
    schema = {"content": {"application/json": {"schema": body_schema(BatchRequest)}}, "required": True}

    @router.post("", openapi_extra={"requestBody": schema})
    async def create(request: Request) -> JsonObject:
        """Create a batch. An invalid line becomes an error of its own; without a valid one the batch has `failed`."""
        parsed = _parse_request(parse_json(await read_body(request, MAX_BODY_BYTES)))
        key, models = request.headers.get("idempotency-key"), await backend.models()
        return await asyncio.to_thread(batches.create, caller_of(request), parsed, models, key)

    @router.get("")
    async def listing(request: Request, limit: PageLimit = 20, after: str = "") -> JsonObject:
        """Your batches, newest first."""
        found = await asyncio.to_thread(jobs.listing, owner_of(request), KIND)
        return await asyncio.to_thread(paginate, found, after, limit, lambda job: batch_object(jobs, job))

    @router.get("/{job_id}")
    async def get(request: Request, job_id: str) -> JsonObject:
        """A batch with its counts."""
        job = await asyncio.to_thread(_get_batch, jobs, job_id, owner_of(request))
        return await asyncio.to_thread(batch_object, jobs, job)

    @router.post("/{job_id}/cancel")
    async def cancel(request: Request, job_id: str) -> JsonObject:
        """Stop a batch; finished requests can be fetched."""
        job = await asyncio.to_thread(_get_batch, jobs, job_id, owner_of(request))
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))
        return await asyncio.to_thread(batch_object, jobs, job)

    return router


def batch_object(jobs: JobStore, job: BulkJob) -> JsonObject:
    """Return the batch object of OpenAI's API."""
    progress = JobState(jobs, job).progress()
    totals, created = progress.totals, int(job.created_at)
    ended_at = int(progress.ended_at) if progress.ended_at else None
    # OpenAI's batches have no status for a validated batch that waits for its turn.
    status = "in_progress" if progress.status == "queued" else progress.status
    ends = ("completed", "cancelled", "expired", "failed")
    errors = {"object": "list", "data": list(job.errors)} if job.errors else None
    counts = {"total": job.num_lines, "completed": totals.lines_ok, "failed": totals.lines_failed}
    return {
        "id": job.id, "object": "batch", "endpoint": URL, "completion_window": "24h", **job.asked, "status": status,
        "errors": errors, "created_at": created, "expires_at": int(job.expires_at),
        "in_progress_at": None if job.errors else int(progress.started_at or created),
        # Output files are made when they are read, so there is no time of finalizing; clients get the end of the batch.
        "finalizing_at": ended_at if status == "completed" else None,
        "cancelling_at": ended_at if status == "cancelled" else None,
        **{f"{end}_at": ended_at if status == end else None for end in ends},
        "request_counts": counts, **batch_files.file_ids(job, progress),
    }  # fmt: skip


def _job_lines(source: IO[bytes], models: job_requests.Models, seed: int) -> Iterator[JobLine]:
    """Yield the lines of a batch; a line that is refused carries its error, which becomes its own response.

    Raises:
        InvalidFile: No line is valid, or the file has too many lines or images; then nobody may draw it in part.
    """
    errors, num_valid = list[JsonObject](), 0
    try:
        for number, values in read_jsonl(source):
            try:
                if isinstance(values, RequestError):
                    raise values
                line = _job_line(values, models, seed)
            except RequestError as error:
                located = error if error.line else error_at_line(number, error)
                if len(errors) < SHOWN_ERRORS:
                    errors.append(_error_object(located))
                yield _refused_line(number, values, located)
                continue
            # Requests without a seed get consecutive ones, so that no two images of a batch share one by chance.
            seed, num_valid = seed + line.n, num_valid + 1
            yield line
    except RequestError as error:  # of the file as a whole
        raise InvalidFile([*errors, _error_object(error)]) from None
    if not num_valid:
        raise InvalidFile(errors)


def _refused_line(number: int, values: object, error: RequestError) -> JobLine:
    # A line whose custom_id is missing, or that of another line, is called by its number.
    custom_id = values["custom_id"] if isinstance(values, dict) else f"line-{number}"
    return JobLine(custom_id, "", GenerationRequest(""), error=str(error)[:MAX_ERROR])


def _job_line(values: dict[str, Any], models: job_requests.Models, seed: int) -> JobLine:
    # Sorted, so that the same line gives the same message every time.
    if unknown := sorted(set(values) - set(FIELDS)):
        raise RequestError(f"unknown field {unknown[0]!r}; known are: {', '.join(FIELDS)}", param=unknown[0])
    for field, required in (("method", "POST"), ("url", URL)):
        if values.get(field) != required:
            raise RequestError(f"{field}={values.get(field)!r} is refused: only {required!r}", param=field)
    body = values.get("body")
    if not isinstance(body, dict):
        raise RequestError("body must be a JSON object", param="body", code="missing_required_parameter")
    try:
        job_requests.refuse_streaming(body)
        request = validate_request(ImageRequest, body, models)
    except RequestError as error:
        raise RequestError(
            str(error), param=f"body.{error.param}" if error.param else "body", code=error.code
        ) from None
    return job_requests.line_of_request(request, models, custom_id=values["custom_id"], seed=seed)


def _error_object(error: RequestError) -> JsonObject:
    code = error.code or "invalid_request"
    param = error.param[:MAX_ERROR] if error.param else error.param
    return {"code": code, "line": error.line, "message": str(error)[:MAX_ERROR], "param": param}


def _get_batch(jobs: JobStore, job_id: str, owner: str) -> BulkJob:
    job = jobs.get(job_id, owner)
    # Both kinds lie in one store, and ids of sets pass all checks so far.
    if job.kind != KIND:
        raise RequestError(f"{job_id} is an emoji set: GET /v1/emoji-sets/{job_id}", status=404, code="not_found")
    return job


def _parse_request(values: object) -> BatchRequest:
    try:
        return BatchRequest.model_validate(values)
    except ValidationError as error:
        # OpenAI names one parameter per error, so the first problem is reported.
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise RequestError(f"{field} is refused: {problem['msg']}", param=field) from None
