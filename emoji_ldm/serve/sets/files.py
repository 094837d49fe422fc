"""`/v1/files` for batches: uploaded JSONL, and the outputs of batches, which are made of their jobs when they are read.

sets/files/<id>/content.jsonl   as it was uploaded
sets/files/<id>/file.json       its facts, written last
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from mmap import ACCESS_READ, mmap
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.body import bounded
from emoji_ldm.serve.sets import output
from emoji_ldm.serve.sets.ask import MAX_BYTES
from emoji_ldm.serve.sets.downloads import CHUNK, Download, ranged, stored
from emoji_ldm.serve.sets.jobs import READERS, Job, Jobs, owner_key
from emoji_ldm.serve.sets.shared import owner_of, page, refuse_fields
from emoji_ldm.store import Store

FOLDER = ("sets", "files")
FACTS, CONTENT = "file.json", "content.jsonl"
JSONL = "application/jsonl"
ID = re.compile(r"file-[0-9a-f]{32}")
Many = Annotated[int, Query(ge=1, le=10_000)]


@dataclass(frozen=True)
class File:
    """An uploaded file."""

    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str = "batch"

    def shown(self) -> dict[str, Any]:
        """As OpenAI's API shows it."""
        facts = {name: value for name, value in asdict(self).items() if name != "owner"}
        return {**facts, "object": "file", "status": "processed"}


class Files:
    """The uploaded files of a store."""

    def __init__(self, store: Store) -> None:
        """Name the store."""
        self.store = store

    def add(self, owner: str, name: str, source: IO[bytes]) -> File:
        """Keep a file; RequestError if it is empty."""
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if not size:
            raise RequestError("the file is empty", param="file", code="empty_file")
        file_id = f"file-{owner_key(owner)}{secrets.token_hex(12)}"
        file = File(file_id, owner, size, int(time.time()), name[:255] or "batch.jsonl")
        # From the disk, where fileno() puts it, without a copy in memory.
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as view:
            self.store.put(view, *FOLDER, file_id, CONTENT)
        self.store.write(json.dumps(asdict(file)).encode(), *FOLDER, file_id, FACTS)
        return file

    def get(self, file_id: str, owner: str) -> File:
        """A file of this owner; RequestError (404) if there is none, or it is another's."""
        mine = ID.fullmatch(file_id) and file_id.startswith(f"file-{owner_key(owner)}")
        file = self._find(file_id) if mine else None
        if file is None:
            raise RequestError(f"there is no file {file_id[:100]!r}", status=404, param="file_id", code="not_found")
        return file

    def listing(self, owner: str) -> list[File]:
        """An owner's files, newest first."""
        names = [name for name in self.store.list(*FOLDER) if name.startswith(f"file-{owner_key(owner)}")]
        with ThreadPoolExecutor(READERS) as pool:
            found = [file for file in pool.map(self._find, names) if file is not None]
        return sorted(found, key=lambda file: (file.created_at, file.id), reverse=True)

    @contextmanager
    def opened(self, file: File) -> Iterator[IO[bytes]]:
        """The bytes as a stream."""
        path = self.store.path(*FOLDER, file.id, CONTENT)
        with self.store.reaching(f"read {file.id}"), self.store.filesystem.open_input_stream(path) as stream:
            yield io.BufferedReader(stream, CHUNK)  # each part is a request to S3

    def parts(self, file: File, start: int, end: int) -> Iterator[bytes]:
        """The bytes from an offset to another one."""
        return stored(self.store, self.store.path(*FOLDER, file.id, CONTENT))(start, end)

    def delete(self, file: File) -> None:
        """Forget a file; jobs that were made of it keep their lines."""
        self.store.remove(*FOLDER, file.id, FACTS)
        self.store.delete(*FOLDER, file.id)

    def _find(self, file_id: str) -> File | None:
        try:
            return File(**json.loads(self.store.read(*FOLDER, file_id, FACTS)))
        except StoreError:
            if self.store.exists(*FOLDER, file_id, FACTS):
                raise
            return None


def routes(jobs: Jobs) -> APIRouter:
    """The routes."""
    router, files = APIRouter(prefix="/v1/files", tags=["batches"]), Files(jobs.store)

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        """Upload the JSONL of a batch: form fields `file` and `purpose` (batch); up to 200 MB."""
        async with bounded(request, MAX_BYTES).form(max_files=1, max_fields=8) as form:
            refuse_fields(form, ("file", "purpose"))
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RequestError("the form field 'file' is missing", param="file", code="missing_required_parameter")
            if purpose != "batch":
                raise RequestError(f"purpose={purpose!r} is refused: only 'batch'", param="purpose")
            kept = await asyncio.to_thread(files.add, owner_of(request), file.filename or "", file.file)
            return kept.shown()

    @router.get("")
    async def listing(
        request: Request,
        purpose: str = "",
        limit: Many = 10_000,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """Your uploaded files, newest first, or oldest first with `order=asc`."""
        found = [
            file for file in await asyncio.to_thread(files.listing, owner_of(request)) if purpose in ("", file.purpose)
        ]
        return page(found if order == "desc" else found[::-1], after, limit, File.shown)

    @router.get("/{file_id}")
    async def get(request: Request, file_id: str) -> dict[str, Any]:
        """The facts of a file."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            return await asyncio.to_thread(output.facts, jobs, job, file_id)
        return (await asyncio.to_thread(files.get, file_id, owner_of(request))).shown()

    @router.get("/{file_id}/content")
    async def content(request: Request, file_id: str) -> Download:
        """The bytes of a file, or the part that a header `Range: bytes=0-1048575` names (up to 64 MB)."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            size = await asyncio.to_thread(output.size_of, jobs, job, file_id)
            return ranged(request, size, partial(output.parts, jobs, job, file_id), {}, JSONL)
        file = await asyncio.to_thread(files.get, file_id, owner_of(request))
        return ranged(request, file.bytes, partial(files.parts, file), {}, JSONL)

    @router.delete("/{file_id}")
    async def delete(request: Request, file_id: str) -> dict[str, Any]:
        """Delete an uploaded file; an output goes with its batch."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            raise RequestError(f"an output is a part of its batch: DELETE /v1/emoji-sets/{job.id} deletes both",
                               param="file_id")  # fmt: skip
        await asyncio.to_thread(files.delete, await asyncio.to_thread(files.get, file_id, owner_of(request)))
        return {"id": file_id, "object": "file", "deleted": True}

    return router


async def _job_of(jobs: Jobs, file_id: str, owner: str) -> Job | None:
    """The batch whose output a file is."""
    job_id = output.job_id(file_id)
    return await asyncio.to_thread(jobs.get, job_id, owner) if job_id else None
