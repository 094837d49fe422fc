"""`/v1/emoji-sets`: creating, listing, cancelling and deleting emoji sets, and their status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import IO

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile

from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk.api import job_requests
from emoji_ldm.serve.bulk.api.job_quota import cancel_job, check_idempotency, create_charged
from emoji_ldm.serve.bulk.api.jsonl_input import MAX_BYTES, MAX_LINES
from emoji_ldm.serve.bulk.api.responses import JsonObject, PageLimit, paginate
from emoji_ldm.serve.bulk.batch_files import CHUNK_BYTES
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.bulk.webhooks import webhook_status
from emoji_ldm.serve.caller import Caller, caller_of, owner_of
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.openapi_models import body_schema
from emoji_ldm.serve.request_body import limit_body, parse_json, read_body, refuse_fields

KIND = "emoji_set"
JSONL = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/jsonlines")
# A JSON body is parsed as a whole, while no other Python code runs in the process, so it is limited in size and in the
# number of values (counted by brackets and commas, with a margin for those in prompts). Larger sets come as JSONL.
MAX_JSON_BYTES = 8 * 2**20
MAX_BRACKETS, MAX_COMMAS = 4 * MAX_LINES, 20 * MAX_LINES
MAX_PARAMETERS_BYTES = 64 * 2**10  # of the form field


@dataclass(frozen=True)
class Creation:
    """A request to create a set."""

    request: job_requests.SetRequest
    upload: IO[bytes] | None  # JSONL
    key: str | None  # idempotency key
    webhook: Mapping[str, str] | None = None


def set_routes(jobs: JobStore, backend: Backend, webhook_hosts: Collection[str] = ()) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/emoji-sets", tags=["emoji sets"])

    @router.post("", status_code=202, openapi_extra={"requestBody": _body_schema()})
    async def create(request: Request) -> JsonObject:
        """Create a set: JSON with `prompts`, or JSONL as the body or as the form field `file` (with `parameters`)."""
        models = await backend.models()
        async with _request_body(request) as (parsed, upload):
            key = request.headers.get("idempotency-key") or parsed.idempotency_key or None
            creation = Creation(parsed, upload, key)
            header = parsed.webhook.checked(webhook_hosts) if parsed.webhook else None
            return await asyncio.to_thread(_create, jobs, caller_of(request), replace(creation, webhook=header), models)

    @router.get("")
    async def listing(request: Request, limit: PageLimit = 20, after: str = "") -> JsonObject:
        """Your sets, newest first."""
        found = await asyncio.to_thread(jobs.listing, owner_of(request), KIND)
        return await asyncio.to_thread(paginate, found, after, limit, lambda job: set_status(jobs, job))

    @router.get("/{job_id}")
    async def get(request: Request, job_id: str) -> JsonObject:
        """Counts, progress, rate, remaining time and errors of a set."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        return await asyncio.to_thread(set_status, jobs, job)

    @router.post("/{job_id}/cancel")
    async def cancel(request: Request, job_id: str) -> JsonObject:
        """Stop a set; finished images stay. A set that has ended stays as it is."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))
        return await asyncio.to_thread(set_status, jobs, job)

    @router.delete("/{job_id}")
    async def delete(request: Request, job_id: str) -> JsonObject:
        """Cancel a set and delete all its images."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        # Cancelled first: the refund needs the job's totals, which the deletion removes.
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))  # makes a runner stop
        await asyncio.to_thread(jobs.delete, job)
        return {"id": job_id, "object": f"{job.kind}.deleted", "deleted": True}

    return router


def set_status(jobs: JobStore, job: BulkJob) -> JsonObject:
    """Return the status of a set as responses show it."""
    progress = JobState(jobs, job).progress()
    total, totals = job.num_images, progress.totals
    return {
        "id": job.id, "object": job.kind, "status": progress.status, **job.asked,
        "created_at": int(job.created_at), "expires_at": int(job.expires_at), "started_at": progress.started_at,
        "ended_at": progress.ended_at,
        "counts": {"total": total, "completed": totals.ok, "failed": totals.failed, "pending": total - totals.finished},
        "progress": round(totals.finished / total, 4) if total else 0.0,
        "images_per_s": progress.images_per_s and round(progress.images_per_s, 3),
        "eta_s": None if progress.eta_s is None else round(progress.eta_s, 1),
        "errors": list(totals.errors),
        "priority": job.priority,
        "place": jobs.place(job) if progress.status == "queued" else None,
        "webhook": webhook_status(jobs, job),
        # Routes only: where the store is, and what it is called there, is nobody's business.
        "results": {name: f"/v1/emoji-sets/{job.id}/{name}" for name in ("items", "parquet", "sheet", "zip")},
    }  # fmt: skip


def _create(jobs: JobStore, caller: Caller, creation: Creation, models: job_requests.Models) -> JsonObject:
    """Create the set, or return the status of the one that already has this idempotency key."""
    request, upload = creation.request, creation.upload
    digest = job_requests.request_digest(request.model_dump_json().encode(), upload)
    (job_id, job), now = jobs.resolve_key(KIND, caller.name, creation.key), time.time()
    if job is None:
        parameters = request.parameters
        # Settled here and stored, so that the status shows the seed from which every image can be generated again.
        seed = parameters.get("seed")
        seed = job_requests.random_seed() if seed is None else seed
        shown = {"name": request.name, "n": request.n, "styles": request.styles, "parameters": parameters,
                 "seed": seed, "metadata": request.metadata}  # fmt: skip

        def lines() -> Iterator[JobLine]:
            if upload:
                return job_requests.lines_of_file(upload, request, models, seed)
            return job_requests.lines_of_prompts(request, models, seed)

        expires_at = now + request.expires_after_s
        header = BulkJob(job_id, KIND, caller.name, now, expires_at, shown, digest, keyed=bool(creation.key),
                         webhook=creation.webhook, priority=request.priority)  # fmt: skip
        job = create_charged(jobs, header, lines, caller)
    return set_status(jobs, check_idempotency(job, digest))


@asynccontextmanager
async def _request_body(request: Request) -> AsyncIterator[tuple[job_requests.SetRequest, IO[bytes] | None]]:
    """Read the body of a creation: the parsed request, and the uploaded JSONL if there is one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form_request = limit_body(request, MAX_BYTES)
        async with form_request.form(max_files=1, max_part_size=MAX_PARAMETERS_BYTES) as form:
            refuse_fields(form, ("file", "parameters"))
            upload, parameters = form.get("file"), form.get("parameters", "{}")
            if not isinstance(upload, UploadFile) or not isinstance(parameters, str):
                raise RequestError(
                    "give the form fields file (JSONL) and, if you like, parameters (JSON)", param="file"
                )
            yield _parse_json_body(parameters.encode()), upload.file
    elif kind in JSONL:
        # The lines are read twice: once for the digest, once for the job.
        with SpooledTemporaryFile(CHUNK_BYTES) as spool:
            async for part in limit_body(request, MAX_BYTES).stream():
                await asyncio.to_thread(spool.write, part)
            spool.seek(0)
            # Raw JSONL has no place for parameters of the set; each line has its own.
            yield job_requests.SetRequest(), spool
    else:
        yield await asyncio.to_thread(_parse_json_body, await read_body(request, MAX_JSON_BYTES)), None


def _parse_json_body(body: bytes) -> job_requests.SetRequest:
    # Counting bytes takes a small fraction of the time that parsing takes.
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS or body.count(b",") > MAX_COMMAS:
        raise RequestError(f"the body has more than {MAX_BRACKETS:,} brackets or {MAX_COMMAS:,} commas; upload the "
                           "prompts as JSONL", code="too_complex")  # fmt: skip
    return job_requests.parse_set_request(parse_json(body))


def _body_schema() -> JsonObject:
    """Return the OpenAPI description of the body."""
    schema = body_schema(job_requests.SetRequest)
    text = {"schema": {"type": "string", "description": 'Lines such as {"custom_id": "a1", "prompt": "a cat", "n": 2}'}}
    return {"required": True, "content": {"application/json": {"schema": schema}, "application/jsonl": text}}
