"""`/v1/files` for batches: uploaded JSONL, and the outputs of batches, which are made of their jobs when they are read.

sets/files/<id>/content.jsonl   as it was uploaded
sets/files/<id>/file.json       its facts, written last
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from mmap import ACCESS_READ, mmap
from typing import IO, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile

from emoji_ldm.serve.answers import RequestError
from emoji_ldm.serve.body import bounded
from emoji_ldm.serve.sets import output
from emoji_ldm.serve.sets.ask import MAX_BYTES
from emoji_ldm.serve.sets.jobs import Job, Jobs, owner_key
from emoji_ldm.serve.sets.shared import CHUNK, chunks, owner_of
from emoji_ldm.store import Store

FOLDER = ("sets", "files")
FACTS, CONTENT = "file.json", "content.jsonl"


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
        mine = file_id.startswith(f"file-{owner_key(owner)}") and file_id.replace("-", "").isalnum()
        if not mine or not self.store.exists(*FOLDER, file_id, FACTS):
            raise RequestError(f"there is no file {file_id!r}", status=404, param="file_id", code="not_found")
        return File(**json.loads(self.store.read(*FOLDER, file_id, FACTS)))

    def listing(self, owner: str) -> list[File]:
        """An owner's files, newest first."""
        names = [name for name in self.store.list(*FOLDER) if name.startswith(f"file-{owner_key(owner)}")]
        there = [name for name in names if self.store.exists(*FOLDER, name, FACTS)]
        return sorted((self.get(name, owner) for name in there), key=lambda file: file.created_at, reverse=True)

    @contextmanager
    def opened(self, file: File) -> Iterator[IO[bytes]]:
        """The bytes as a stream."""
        path = self.store.path(*FOLDER, file.id, CONTENT)
        with self.store.reaching(f"read {file.id}"), self.store.filesystem.open_input_stream(path) as stream:
            yield io.BufferedReader(stream, CHUNK)  # each part is a request to S3

    def parts(self, file: File) -> Iterator[bytes]:
        """The bytes part by part."""
        return chunks(self.store, self.store.path(*FOLDER, file.id, CONTENT))

    def delete(self, file: File) -> None:
        """Forget a file; jobs that were made of it keep their lines."""
        self.store.remove(*FOLDER, file.id, FACTS)
        self.store.delete(*FOLDER, file.id)


def routes(jobs: Jobs) -> APIRouter:
    """The routes."""
    router, files = APIRouter(prefix="/v1/files", tags=["batches"]), Files(jobs.store)

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        """Upload the JSONL of a batch: form fields `file` and `purpose` (batch); up to 200 MB."""
        async with bounded(request, MAX_BYTES).form(max_files=1, max_fields=8) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RequestError("the form field 'file' is missing", param="file", code="missing_required_parameter")
            if purpose != "batch":
                raise RequestError(f"purpose={purpose!r} is refused: only 'batch'", param="purpose")
            kept = await asyncio.to_thread(files.add, owner_of(request), file.filename or "", file.file)
            return kept.shown()

    @router.get("")
    async def listing(request: Request, purpose: str = "") -> dict[str, Any]:
        """Your uploaded files, newest first."""
        found = await asyncio.to_thread(files.listing, owner_of(request))
        return {"object": "list", "data": [file.shown() for file in found if purpose in ("", file.purpose)],
                "has_more": False}  # fmt: skip

    @router.get("/{file_id}")
    async def get(request: Request, file_id: str) -> dict[str, Any]:
        """The facts of a file."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            return await asyncio.to_thread(output.facts, jobs, job, file_id)
        return (await asyncio.to_thread(files.get, file_id, owner_of(request))).shown()

    @router.get("/{file_id}/content")
    async def content(request: Request, file_id: str) -> StreamingResponse:
        """The bytes of a file."""
        if job := await _job_of(jobs, file_id, owner_of(request)):
            return StreamingResponse(output.lines(jobs, job, file_id), media_type="application/jsonl")
        file = await asyncio.to_thread(files.get, file_id, owner_of(request))
        return StreamingResponse(files.parts(file), media_type="application/jsonl",
                                 headers={"Content-Length": str(file.bytes)})  # fmt: skip

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
