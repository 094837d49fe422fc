"""`POST /v1/emoji-sets/{id}/pack`: finished images of a set as an emoji pack, without a download of the set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from emoji_ldm.packs.pack_builder import PackOptions
from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.item_schema import ITEMS
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import caller_of, owner_of
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.pack_processes import MAX_IMAGES, PackProcesses, PackUpload
from emoji_ldm.serve.pack_sandbox import UPLOADS_FOLDER
from emoji_ldm.serve.request_body import parse_json, read_body

MAX_BODY_BYTES = 64 * 1024


class SetPackRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    target: str
    """One of `/v1/packs/targets`."""
    items: Annotated[list[str], Field(max_length=MAX_IMAGES)] = []
    """The `item_id` of each image to pack; by default all finished ones."""
    name: str = PackOptions.name
    """Of the pack."""
    outline: int = 0
    """Width of a white outline, in px of the target."""
    license: str = ""
    """For LICENSE.txt."""


BODY = {"content": {"application/json": {"schema": SetPackRequest.model_json_schema()}}, "required": True}


def set_pack_routes(jobs: JobStore) -> APIRouter:
    """Build the route."""
    router, builder = APIRouter(prefix="/v1/emoji-sets", tags=["emoji sets"]), PackProcesses()

    @router.post("/{job_id}/pack", response_model=None, response_class=Response,
                 responses={200: {"description": "The pack", "content": {"application/zip": {}}}},
                 openapi_extra={"requestBody": BODY})  # fmt: skip
    async def pack(request: Request, job_id: str) -> Response:
        """Finished images as an emoji pack, as `POST /v1/packs` makes it; their prompts become the names."""
        body = _parse(await read_body(request, MAX_BODY_BYTES))
        # Who names images wants these; of a whole set, an image that shows nothing is left out, as the manifest says.
        options = PackOptions(body.target, body.name, body.outline, body.license, keep_going=not body.items)
        options.check()
        state = JobState(jobs, await asyncio.to_thread(jobs.get, job_id, owner_of(request)))
        async with builder.folder() as folder:
            uploads = await asyncio.to_thread(_save, state, body.items, folder / UPLOADS_FOLDER)
            return await builder.respond(folder, options, uploads, caller_of(request))

    return router


def _parse(body: bytes) -> SetPackRequest:
    try:
        return SetPackRequest.model_validate(parse_json(body))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "the body"
        raise RequestError(f"{field} is refused: {problem['msg']}", param=field) from None


def _save(state: JobState, items: list[str], folder: Path) -> list[PackUpload]:
    """Write the images to files 0000, 0001, ... of a folder; RequestError if there are too many, or one is missing."""
    uploads: list[PackUpload] = []
    missing = set(items)
    rows = job_archive.rows_in_order(state.table, ITEMS.schema.names, min(items, default=""))
    for row in rows:
        if row["status"] != "ok" or (items and row["item_id"] not in missing):
            continue
        if len(uploads) == MAX_IMAGES:
            raise RequestError(f"the set has more than {MAX_IMAGES} images; name those to pack in items", param="items")
        (folder / f"{len(uploads):04d}").write_bytes(row["image"]["bytes"])
        uploads.append(PackUpload(row["image"]["path"], statements=_origin(row)))
        missing.discard(row["item_id"])
        if items and not missing:
            break
    if missing:
        raise RequestError(f"the set has no finished image {min(missing)[:20]!r}", status=404, param="items",
                           code="not_found")  # fmt: skip
    if not uploads:
        raise RequestError("no image is finished yet", status=404, code="nothing_yet")
    return uploads


def _origin(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row states of its image: files that are not PNG do not state it themselves."""
    return {name: str(value) for name, value in row.items() if name not in ("image", "size") and value is not None}
