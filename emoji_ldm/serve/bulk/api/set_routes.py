"""The routes of bulk jobs: `/v1/emoji-sets`, and OpenAI's `/v1/files` and `/v1/batches` over the same jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import takewhile
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile

from emoji_ldm.serve.auth import Caller, caller_of, owner_of
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.api import batch_routes, job_requests
from emoji_ldm.serve.bulk.api.downloads import PART_BYTES, DownloadResponse, range_response, refuse_large
from emoji_ldm.serve.bulk.api.file_routes import file_routes
from emoji_ldm.serve.bulk.api.job_quota import cancel_job, check_idempotency
from emoji_ldm.serve.bulk.api.job_requests import random_seed
from emoji_ldm.serve.bulk.api.pagination import JsonObject, PageLimit, paginate
from emoji_ldm.serve.bulk.byte_ranges import CHUNK_BYTES, range_reader
from emoji_ldm.serve.bulk.item_schema import ITEMS
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.request_body import limit_body, parse_json, read_body, refuse_fields
from emoji_ldm.store import Store

KIND = "emoji_set"
JSONL = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/jsonlines")
MAX_JSON_BYTES = 8 * 2**20  # parsed at once, and nothing else runs meanwhile; longer ones are uploaded as JSONL
MAX_BRACKETS, MAX_COMMAS = 4 * job_requests.MAX_LINES, 20 * job_requests.MAX_LINES  # what prompts may well hold
MAX_PARAMETERS = 64 * 2**10  # bytes of the form field
ITEM_ID = re.compile("[0-9]{1,8}")
ZIP_LIMIT = 10_000
PartLimit = Annotated[int | None, Query(ge=1, le=ZIP_LIMIT)]


def bulk_routes(store: Store, backend: Backend) -> APIRouter:
    """All routes of bulk jobs over one store; a `Runner` over the same store draws them."""
    router, jobs = APIRouter(), JobStore(store)
    router.include_router(set_routes(jobs, backend))
    router.include_router(file_routes(jobs))
    router.include_router(batch_routes.batch_routes(jobs, backend))
    return router


def set_routes(jobs: JobStore, backend: Backend) -> APIRouter:
    """The routes of emoji sets."""
    router = APIRouter(prefix="/v1/emoji-sets", tags=["emoji sets"])
    _add_verbs(router, jobs, backend)
    _add_results(router, jobs)
    return router


def _add_verbs(router: APIRouter, jobs: JobStore, backend: Backend) -> None:
    @router.post("", status_code=202, openapi_extra={"requestBody": _body_schema()})
    async def create(request: Request) -> JsonObject:
        """Begin a set: JSON with `prompts`, or JSONL as the body or as the form field `file` (with `parameters`)."""
        models = await backend.models()
        async with _request_body(request) as (wanted, source):
            key = request.headers.get("idempotency-key") or wanted.idempotency_key or None
            return await asyncio.to_thread(_create, jobs, caller_of(request), (wanted, source, key), models)

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
        """Draw nothing more of a set; what is drawn stays. A set that has ended stays as it is."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))
        return await asyncio.to_thread(set_status, jobs, job)

    @router.delete("/{job_id}")
    async def delete(request: Request, job_id: str) -> JsonObject:
        """Cancel a set and delete all its pictures."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        await asyncio.to_thread(cancel_job, jobs, job, caller_of(request))  # a runner sees this and stops
        await asyncio.to_thread(jobs.delete, job)
        return {"id": job_id, "object": f"{job.kind}.deleted", "deleted": True}


def _add_results(router: APIRouter, jobs: JobStore) -> None:
    @router.get("/{job_id}/items")
    async def items(
        request: Request, job_id: str, after: str = "", limit: PageLimit = 20, images: bool = False
    ) -> JsonObject:
        """Finished pictures in order, also while others are drawn; `images=true` with the files in base64."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        return await asyncio.to_thread(_items, JobState(jobs, job), after, limit, images)

    @router.get("/{job_id}/zip")
    async def archive(request: Request, job_id: str, after: str = "", limit: PartLimit = None) -> DownloadResponse:
        """The finished pictures, prompts.csv and a contact sheet. A large set comes in parts: up to `limit` pictures
        (and 64 MB) after the `item_id` that `after` names; the header `Link` leads to the next one.
        """
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        return await asyncio.to_thread(_zip, JobState(jobs, job), after, limit)

    @router.get("/{job_id}/sheet")
    async def sheet(request: Request, job_id: str) -> Response:
        """A contact sheet of the first pictures, as PNG."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        png = await asyncio.to_thread(job_archive.job_sheet, job_archive.rows_in_order(JobState(jobs, job).table))
        if png is None:
            raise RequestError("no picture is finished yet", status=404, code="nothing_yet")
        return Response(png, media_type="image/png")

    @router.get("/{job_id}/parquet")
    async def listing(request: Request, job_id: str) -> JsonObject:
        """The Parquet files with the finished pictures; files never change, new ones come while others are drawn."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        live = await asyncio.to_thread(JobState(jobs, job).table.live)
        data = [{"name": name, "bytes": file.size, "pictures": file.num_rows} for name, file in live.items()]
        return {"object": "list", "data": data}

    @router.get("/{job_id}/parquet/{name}")
    async def parquet(request: Request, job_id: str, name: str) -> DownloadResponse:
        """One of the Parquet files, or the part that a header `Range: bytes=0-1048575` names (up to 64 MB)."""
        job = await asyncio.to_thread(jobs.get, job_id, owner_of(request))
        table = JobState(jobs, job).table
        live = await asyncio.to_thread(table.live)
        if name not in live:
            raise RequestError(f"the job has no file {name!r}", status=404, code="not_found")
        parts, kind = range_reader(jobs.store, table.resolve(name)), "application/vnd.apache.parquet"
        return range_response(request, live[name].size, parts, _attachment(name), kind)


def set_status(jobs: JobStore, job: BulkJob) -> JsonObject:
    """What a client is told of a set."""
    now = JobState(jobs, job).progress()
    total, totals = job.num_pictures, now.totals
    return {
        "id": job.id, "object": job.kind, "status": now.status, **job.asked,
        "created_at": int(job.created_at), "expires_at": int(job.expires_at), "started_at": now.started_at,
        "ended_at": now.ended_at,
        "counts": {"total": total, "completed": totals.ok, "failed": totals.failed, "pending": total - totals.done},
        "progress": round(totals.done / total, 4) if total else 0.0,
        "images_per_s": now.images_per_s and round(now.images_per_s, 3),
        "eta_s": None if now.eta_s is None else round(now.eta_s, 1),
        "errors": list(totals.errors),
        "results": {"table": jobs.home(job.id).table_uri(ITEMS.name),
                    **{name: f"/v1/emoji-sets/{job.id}/{name}" for name in ("items", "parquet", "sheet", "zip")}},
    }  # fmt: skip


def _create(jobs: JobStore, caller: Caller, asked: tuple[job_requests.SetRequest, IO[bytes] | None, str | None],
            models: job_requests.Models) -> JsonObject:  # fmt: skip
    (wanted, source, key), owner = asked, caller.name
    digest = job_requests.request_digest(wanted.model_dump_json().encode(), source)
    (job_id, job), now = jobs.keyed(KIND, owner, key), time.time()
    if job is None:
        parameters = wanted.parameters
        seed = parameters.get("seed")
        seed = random_seed() if seed is None else seed
        facts = {"name": wanted.name, "n": wanted.n, "styles": wanted.styles, "parameters": parameters, "seed": seed,
                 "metadata": wanted.metadata}  # fmt: skip
        lines = (job_requests.lines_of_file(source, wanted, models, seed) if source
                 else job_requests.lines_of_prompts(wanted, models, seed))  # fmt: skip
        empty = BulkJob(job_id, KIND, owner, now, now + wanted.expires_after_s, facts, digest, keyed=bool(key))
        job = jobs.create(empty, lines, caller)
    return set_status(jobs, check_idempotency(job, digest))


@asynccontextmanager
async def _request_body(request: Request) -> AsyncIterator[tuple[job_requests.SetRequest, IO[bytes] | None]]:
    """The request, and the uploaded JSONL if there is one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with limit_body(request, job_requests.MAX_BYTES).form(max_files=1, max_part_size=MAX_PARAMETERS) as form:
            refuse_fields(form, ("file", "parameters"))
            upload, parameters = form.get("file"), form.get("parameters", "{}")
            if not isinstance(upload, UploadFile) or not isinstance(parameters, str):
                raise RequestError(
                    "give the form fields file (JSONL) and, if you like, parameters (JSON)", param="file"
                )
            yield _parse_json_body(parameters.encode()), upload.file
    elif kind in JSONL:
        with SpooledTemporaryFile(CHUNK_BYTES) as spool:
            async for part in limit_body(request, job_requests.MAX_BYTES).stream():
                await asyncio.to_thread(spool.write, part)
            spool.seek(0)
            yield job_requests.SetRequest(), spool
    else:
        yield await asyncio.to_thread(_parse_json_body, await read_body(request, MAX_JSON_BYTES)), None


def _parse_json_body(body: bytes) -> job_requests.SetRequest:
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS or body.count(b",") > MAX_COMMAS:
        raise RequestError(f"the body has more than {MAX_BRACKETS:,} brackets or {MAX_COMMAS:,} commas; upload the "
                           "prompts as JSONL", code="too_complex")  # fmt: skip
    return job_requests.parse_set_request(parse_json(body))


def _items(results: JobState, after: str, limit: int, images: bool) -> JsonObject:
    """A page of rows; `after` is the last item_id that the caller knows."""
    columns = [name for name in ITEMS.schema.names if images or name != "image"]
    rows = job_archive.rows_in_order(results.table, columns, _row_after(after))
    data = [row for row, _ in zip(rows, range(limit + 1), strict=False)]
    for row in data:
        file = row.pop("image", None)
        if images:
            row["file"] = file and file["path"]
            row["b64_json"] = file and base64.b64encode(file["bytes"]).decode()
    return {"object": "list", "data": data[:limit], "has_more": len(data) > limit}


def _zip(results: JobState, after: str, limit: int | None) -> DownloadResponse:
    """A ZIP of what comes after an item, all of it if neither is given."""
    start, whole = _row_after(after), not after and limit is None
    last, size, more = job_archive.page_end(results.table, start, limit, 2**63 if whole else PART_BYTES)
    job_id = results.job.id
    refuse_large(size, f"take it in parts (/zip?limit={ZIP_LIMIT}, then as its header Link says), or with "
                       f"`emoji-ldm sets fetch {job_id}`")  # fmt: skip
    rows = takewhile(lambda row: row["item_id"] <= last, job_archive.rows_in_order(results.table, start=start))
    link = f'</v1/emoji-sets/{job_id}/zip?after={last}&limit={limit or ZIP_LIMIT}>; rel="next"'
    headers = {**_attachment(f"{job_id}{after and '_'}{after}.zip"), **({"Link": link} if more else {})}
    return DownloadResponse(job_archive.zip_parts(rows), media_type="application/zip", headers=headers)


def _row_after(after: str) -> str:
    """The key of the row after an item; RequestError if there is no such item_id."""
    if after and not ITEM_ID.fullmatch(after):
        raise RequestError(f"after={after[:100]!r} is no item_id", param="after")
    return f"{int(after) + 1:08d}" if after else ""


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _body_schema() -> JsonObject:
    """The body, for the API's own description."""
    schema = json.loads(json.dumps(job_requests.SetRequest.model_json_schema()))
    text = {"schema": {"type": "string", "description": 'Lines such as {"custom_id": "a1", "prompt": "a cat", "n": 2}'}}
    return {"required": True, "content": {"application/json": {"schema": schema}, "application/jsonl": text}}
