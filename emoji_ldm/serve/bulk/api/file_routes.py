"""`/v1/files` of OpenAI's API: uploaded JSONL, and the output and error files of batches."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile

from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.serve.bulk.api.jsonl_input import MAX_BYTES
from emoji_ldm.serve.bulk.api.responses import DownloadResponse, JsonObject, paginate, range_response
from emoji_ldm.serve.bulk.batch_files import UploadedFile, UploadStore
from emoji_ldm.serve.bulk.bulk_job import BulkJob
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import owner_of
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.request_body import limit_body, refuse_fields

# There is no registered media type for JSON lines; this is the one that OpenAI's service sends.
JSONL = "application/jsonl"
FileLimit = Annotated[int, Query(ge=1, le=10_000)]


def file_routes(jobs: JobStore) -> APIRouter:
    """Build the routes."""
    router, files = APIRouter(prefix="/v1/files", tags=["batches"]), UploadStore(jobs.store)

    @router.post("")
    async def upload(request: Request) -> JsonObject:
        """Upload the JSONL of a batch: form fields `file` and `purpose` (batch); up to 200 MB."""
        # Starlette writes the file to a temporary file on disk while it arrives.
        async with limit_body(request, MAX_BYTES).form(max_files=1, max_fields=8) as form:
            refuse_fields(form, ("file", "purpose"))
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RequestError("the form field 'file' is missing", param="file", code="missing_required_parameter")
            if purpose != "batch":
                raise RequestError(f"purpose={purpose!r} is refused: only 'batch'", param="purpose")
            key = request.headers.get("idempotency-key", "")
            return file_object(await asyncio.to_thread(_add, files, owner_of(request), file, key))

    @router.get("")
    async def listing(
        request: Request,
        purpose: str = "",
        limit: FileLimit = 10_000,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
    ) -> JsonObject:
        """Your uploaded files, newest first, or oldest first with `order=asc`."""
        all_files = await asyncio.to_thread(files.listing, owner_of(request))
        found = [file for file in all_files if purpose in ("", file.purpose)]
        return paginate(found if order == "desc" else found[::-1], after, limit, file_object)

    @router.get("/{file_id}")
    async def get(request: Request, file_id: str) -> JsonObject:
        """The metadata of a file."""
        # The prefix of the id tells outputs of batches from uploaded files; outputs are generated from the job's
        # rows.
        if job := await _job_of(jobs, file_id, owner_of(request)):
            return await asyncio.to_thread(batch_files.file_object, jobs, job, file_id)
        return file_object(await asyncio.to_thread(files.get, file_id, owner_of(request)))

    @router.get("/{file_id}/content")
    async def content(request: Request, file_id: str) -> DownloadResponse:
        """The bytes of a file, or the part that a header `Range: bytes=0-1048575` names (up to 16 MB)."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            size = await asyncio.to_thread(batch_files.size_of, jobs, job, file_id)
            return range_response(request, size, partial(batch_files.read_range, jobs, job, file_id), {}, JSONL)
        file = await asyncio.to_thread(files.get, file_id, owner_of(request))
        return range_response(request, file.bytes, partial(files.read_range, file), {}, JSONL)

    @router.delete("/{file_id}")
    async def delete(request: Request, file_id: str) -> JsonObject:
        """Delete an uploaded file; outputs are deleted with their batch."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            raise RequestError(f"an output is a part of its batch: DELETE /v1/emoji-sets/{job.id} deletes both",
                               param="file_id")  # fmt: skip
        await asyncio.to_thread(files.delete, await asyncio.to_thread(files.get, file_id, owner_of(request)))
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def _add(files: UploadStore, owner: str, upload: UploadFile, key: str) -> UploadedFile:
    added = files.add(owner, upload.filename or "", upload.file, key)
    if key and added.digest != batch_files.content_digest(upload.file):
        raise RequestError("this idempotency key was used for another file", status=409, param="idempotency_key",
                           code="idempotency_key_reused")  # fmt: skip
    return added


def file_object(file: UploadedFile) -> JsonObject:
    """Return the file object of OpenAI's API."""
    # The owner is the name of a key, which is nobody else's business.
    fields = {name: value for name, value in asdict(file).items() if name not in ("owner", "digest")}
    return {**fields, "object": "file", "status": "processed"}


async def _job_of(jobs: JobStore, file_id: str, owner: str) -> BulkJob | None:
    """Return the batch that a file is an output of; None for uploaded files."""
    job_id = batch_files.batch_id(file_id)
    return await asyncio.to_thread(jobs.get, job_id, owner) if job_id else None
