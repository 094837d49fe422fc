"""The routes of emoji packs: `POST /v1/packs` makes a ZIP of uploaded pictures, `GET /v1/packs/targets` lists targets.

read the form -> check the options -> charge the quota -> build in a process of its own -> stream the ZIP
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from emoji_ldm.packs.pack_builder import PackOptions
from emoji_ldm.packs.target_limits import CHECKED, TARGETS
from emoji_ldm.serve.caller import caller_of
from emoji_ldm.serve.decoding_pool import refuse_by_header
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.openapi_models import REFUSALS, ApiModel
from emoji_ldm.serve.pack_processes import MAX_IMAGES, PackProcesses, PackUpload
from emoji_ldm.serve.pack_sandbox import UPLOADS_FOLDER
from emoji_ldm.serve.request_body import limit_body, refuse_fields

MAX_FILE_BYTES = 4 * 2**20
MAX_BODY_BYTES = 64 * 2**20
MAX_FIELD_BYTES = 16 * 1024
FIELDS = ("target", "name", "outline", "license", "image")


class PackTargetCard(ApiModel):
    """A target of packs, and its limits."""

    id: str
    """The value of `target`."""
    title: str
    size_px: int | None
    """Side of every picture; null keeps the size of the source."""
    max_bytes: int | None
    """Every picture is smaller than this."""
    format: str
    slots: list[int]
    """How many pictures accounts of rising levels hold; empty if there is no stated limit."""
    min_images: int
    max_images: int
    names: str
    """Regular expression of names; others are changed to fit."""
    note: str
    source: str
    """Where the limits are stated."""
    checked: str
    """When the source was read."""


class PackTargetList(ApiModel):
    """All targets of packs."""

    targets: list[PackTargetCard]


FORM: dict[str, Any] = {
    "type": "object",
    "required": ["target", "image"],
    "properties": {
        "target": {"type": "string", "enum": list(TARGETS)},
        "name": {"type": "string", "default": PackOptions.name, "description": "Name of the pack."},
        "outline": {"type": "integer", "default": 0, "description": "Width of a white outline, in px of the target."},
        "license": {"type": "string", "description": "For LICENSE.txt: a name such as CC-BY-4.0, or the text."},
        "image": {
            "type": "array",
            "maxItems": MAX_IMAGES,
            "items": {"type": "string", "format": "binary"},
            "description": "PNG or WebP files; their file names are the names of the emoji.",
        },
    },
}
PACKS: dict[str, Any] = {
    "responses": {200: {"description": "The pack", "content": {"application/zip": {}}},
                  **{status: REFUSALS[status] for status in (400, 401, 403, 408, 413, 429, 503, 504)}},
    "openapi_extra": {"requestBody": {"content": {"multipart/form-data": {"schema": FORM}}, "required": True}},
}  # fmt: skip


def pack_routes() -> APIRouter:
    """Build the routes."""
    router, builder = APIRouter(tags=["packs"]), PackProcesses()

    @router.get("/v1/packs/targets", response_model=PackTargetList)
    async def targets() -> dict[str, Any]:
        """The targets, and what each of them accepts."""
        return {"targets": [
            {"id": each.id, "title": each.title, "size_px": each.size_px, "max_bytes": each.max_bytes,
             "format": each.format, "slots": each.slots, "min_images": each.min_pictures,
             "max_images": min(each.max_pictures, MAX_IMAGES), "names": each.names, "note": each.note,
             "source": each.source, "checked": CHECKED}
            for each in TARGETS.values()
        ]}  # fmt: skip

    @router.post("/v1/packs", response_model=None, response_class=Response, **PACKS)
    async def create_pack(request: Request) -> Response:
        """Make a pack of finished pictures: cleaned, enlarged, named, and checked against the target's limits."""
        async with builder.folder() as folder:
            options, uploads = await _read_form(request, folder)
            options.check()
            request.state.facts.update({"target": options.target, "n": len(uploads)})
            return await builder.respond(folder, options, uploads, caller_of(request))

    return router


async def _read_form(request: Request, folder: Path) -> tuple[PackOptions, list[PackUpload]]:
    """Return the options and the uploads, whose files are written to the folder, in their order."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("the body must be multipart/form-data with the fields target and image", status=415)
    limited = limit_body(request, MAX_BODY_BYTES)
    # One more file than allowed is let through, so that the refusal can name the field.
    form = limited.form(max_files=MAX_IMAGES + 1, max_fields=len(FIELDS) + 1, max_part_size=MAX_FIELD_BYTES)
    async with form as parts:
        refuse_fields(parts, FIELDS)
        options = _options(parts)
        uploads = [value for value in parts.getlist("image") if isinstance(value, UploadFile)]
        if not uploads or len(uploads) > MAX_IMAGES:
            raise RequestError(f"send 1 to {MAX_IMAGES} files as image", param="image", code="invalid_value")
        for index, upload in enumerate(uploads):
            await _save(upload, folder / UPLOADS_FOLDER / f"{index:04d}")
        names = [_file_name(upload, index) for index, upload in enumerate(uploads)]
        return options, [PackUpload(name, PurePosixPath(name).stem) for name in names]


def _options(parts: FormData) -> PackOptions:
    texts = {name: parts.getlist(name) for name in FIELDS[:-1]}
    for name, values in texts.items():
        if len(values) > 1 or any(isinstance(value, UploadFile) for value in values):
            raise RequestError(f"{name} must be one text field", param=name)
    given = {name: str(values[0]) for name, values in texts.items() if values}
    if "target" not in given:
        raise RequestError(f"the field 'target' is missing; known are {', '.join(TARGETS)}", param="target",
                           code="missing_required_parameter")  # fmt: skip
    outline = given.pop("outline", "") or "0"
    if not outline.isdecimal() or len(outline) > 4:
        raise RequestError(f"outline={outline[:20]!r} is refused: it must be a number of pixels", param="outline")
    # An empty field of a web form means that nothing was typed.
    name, terms = given.get("name") or PackOptions.name, given.get("license", "")
    return PackOptions(given["target"], name, int(outline), terms)


async def _save(upload: UploadFile, path: Path) -> None:
    shown = (upload.filename or "")[:80]
    if (upload.size or 0) > MAX_FILE_BYTES:
        raise RequestError(f"{shown!r} is longer than {MAX_FILE_BYTES:,} bytes", status=413, param="image")
    data = await upload.read()
    refuse_by_header(data, "image")
    await run_in_threadpool(path.write_bytes, data)


def _file_name(upload: UploadFile, index: int) -> str:
    """Return the last part of the file's name; browsers of old sent whole paths of Windows."""
    return PurePosixPath((upload.filename or "").replace("\\", "/")).name[:200] or f"emoji_{index + 1}.png"
