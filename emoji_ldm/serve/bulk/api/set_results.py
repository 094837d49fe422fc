"""`/v1/emoji-sets/{id}/...`: the images of a set as rows, ZIP file, contact sheet and Parquet files.

All of these read what is committed, so they also work while further images are being generated.
"""

from __future__ import annotations

import asyncio
import base64
import re
from itertools import takewhile
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.api.responses import (
    PART_BYTES,
    DownloadResponse,
    JsonObject,
    PageLimit,
    range_response,
    refuse_large,
)
from emoji_ldm.serve.bulk.batch_files import range_reader
from emoji_ldm.serve.bulk.bulk_job import item_request_id
from emoji_ldm.serve.bulk.item_schema import ITEMS
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import owner_of
from emoji_ldm.serve.errors import RequestError

# ASCII digits only; int() would accept those of other scripts as well.
ITEM_ID = re.compile("[0-9]{1,8}")
ZIP_LIMIT = 10_000
ZipLimit = Annotated[int | None, Query(ge=1, le=ZIP_LIMIT)]


def set_result_routes(jobs: JobStore) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/emoji-sets", tags=["emoji sets"])

    async def state_of(request: Request, job_id: str) -> JobState:
        return JobState(jobs, await asyncio.to_thread(jobs.get, job_id, owner_of(request)))

    @router.get("/{job_id}/items")
    async def items(
        request: Request, job_id: str, after: str = "", limit: PageLimit = 20, images: bool = False
    ) -> JsonObject:
        """Finished images in order, also while others are being generated; `images=true` with the files in base64."""
        state = await state_of(request, job_id)
        return await asyncio.to_thread(_items, state, after, limit, images)

    @router.get("/{job_id}/zip")
    async def archive(request: Request, job_id: str, after: str = "", limit: ZipLimit = None) -> DownloadResponse:
        """The finished images, prompts.csv and a contact sheet. A large set comes in parts: up to `limit` images
        (and 16 MB) after the `item_id` that `after` names; the header `Link` leads to the next one.
        """
        return await asyncio.to_thread(_zip, await state_of(request, job_id), after, limit)

    @router.get("/{job_id}/sheet")
    async def sheet(request: Request, job_id: str) -> Response:
        """A contact sheet of the first images, as PNG."""
        state = await state_of(request, job_id)
        png = await asyncio.to_thread(job_archive.job_sheet, job_archive.rows_in_order(state.table))
        if png is None:
            raise RequestError("no image is finished yet", status=404, code="nothing_yet")
        return Response(png, media_type="image/png")

    @router.get("/{job_id}/parquet")
    async def listing(request: Request, job_id: str) -> JsonObject:
        """The Parquet files with the finished images; files never change, new ones appear during the run."""
        state = await state_of(request, job_id)
        live = await asyncio.to_thread(state.table.live_files)
        data = [{"name": name, "bytes": file.size, "pictures": file.num_rows} for name, file in live.items()]
        return {"object": "list", "data": data}

    @router.get("/{job_id}/parquet/{name}")
    async def parquet(request: Request, job_id: str, name: str) -> DownloadResponse:
        """One of the Parquet files, or the part that a header `Range: bytes=0-1048575` names (up to 16 MB)."""
        table = (await state_of(request, job_id)).table
        live = await asyncio.to_thread(table.live_files)
        # Only names from the log are accepted, so a path with `..` leads nowhere.
        if name not in live:
            raise RequestError(f"the job has no file {name!r}", status=404, code="not_found")
        read, kind = range_reader(jobs.store, table.resolve(name)), "application/vnd.apache.parquet"
        return range_response(request, live[name].size, read, _attachment(name), kind)

    return router


def _items(state: JobState, after: str, limit: int, images: bool) -> JsonObject:
    """Return a page of rows; `after` is the last item_id that the client has. Many bytes of images end it early."""
    columns = [name for name in ITEMS.schema.names if images or name != "image"]
    rows = job_archive.rows_in_order(state.table, columns, _row_after(after))
    data, num_bytes = list[dict[str, Any]](), 0
    for row in rows:
        if len(data) == limit or num_bytes > PART_BYTES:
            return {"object": "list", "data": data, "has_more": True}
        row["request_id"] = item_request_id(state.job.id, row["item_id"])
        file = row.pop("image", None)
        if images:
            row["file"] = file and file["path"]
            row["b64_json"] = file and base64.b64encode(file["bytes"]).decode()
            num_bytes += len(row["b64_json"] or "")
        data.append(row)
    return {"object": "list", "data": data, "has_more": False}


def _zip(state: JobState, after: str, limit: int | None) -> DownloadResponse:
    """Return a ZIP of the images after an item; of all images if neither `after` nor `limit` is given."""
    start, is_whole = _row_after(after), not after and limit is None
    # The sizes are read first, without the images: what is too large must be refused before the response starts.
    last, size, has_more = job_archive.page_end(state.table, start, limit, 2**63 if is_whole else PART_BYTES)
    job_id = state.job.id
    refuse_large(size, f"take it in parts (/zip?limit={ZIP_LIMIT}, then as its header Link says), or with "
                       f"`emoji-ldm sets fetch {job_id}`")  # fmt: skip
    # Rows committed after `page_end` looked would otherwise make the response larger than what was checked.
    rows = takewhile(lambda row: row["item_id"] <= last, job_archive.rows_in_order(state.table, start=start))
    link = f'</v1/emoji-sets/{job_id}/zip?after={last}&limit={limit or ZIP_LIMIT}>; rel="next"'
    headers = {**_attachment(f"{job_id}{after and '_'}{after}.zip"), **({"Link": link} if has_more else {})}
    # Streamed without Content-Length, since the size of a ZIP is known at its end only.
    return DownloadResponse(
        job_archive.zip_parts(job_id, rows), size=size, media_type="application/zip", headers=headers
    )


def _row_after(after: str) -> str:
    """Return the item_id that follows another; raises RequestError if that is not an item_id."""
    if after and not ITEM_ID.fullmatch(after):
        raise RequestError(f"after={after[:100]!r} is no item_id", param="after")
    return f"{int(after) + 1:08d}" if after else ""


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
