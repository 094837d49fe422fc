"""Files of OpenAI's Batch API: uploaded JSONL, the inputs of batches; and a batch's output and error file.

sets/files/<id>/content.jsonl   an upload as it came
sets/files/<id>/file.json       its header, written last: an upload exists as a whole or not at all

Output and error file are generated from the batch's rows when they are read; nothing is stored twice. The output file
has one line per request whose images all exist, the error file one per failed request and, of a batch that ended early,
one per request that was never reached. Lines follow OpenAI's batch output format.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from mmap import ACCESS_READ, mmap
from typing import IO, Any

from emoji_ldm.errors import EmptyUploadError, StoreError, UploadNotFoundError
from emoji_ldm.serve.bulk import job_archive
from emoji_ldm.serve.bulk.bulk_job import BulkJob, item_request_id, owner_hash
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow
from emoji_ldm.serve.bulk.job_state import JobProgress, JobState
from emoji_ldm.serve.bulk.job_store import READ_THREADS, JobStore
from emoji_ldm.store import Store

CHUNK_BYTES = 2**20
FOLDER = ("sets", "files")
HEADER, CONTENT = "file.json", "content.jsonl"
# Ids become folder names; see JOB_ID in `bulk_job`.
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
OUTPUT_PREFIX, ERROR_PREFIX = "file-out-", "file-err-"
COLUMNS = ("custom_id", "status", "reason", "seed", "image", "size")
# HTTP wants the length of a file before its first byte. It is computed from the column `size`: reading the images only
# to count them would take as long as the download itself.
SIZE_COLUMNS = ("custom_id", "status", "reason", "seed", "size")


def range_reader(store: Store, path: str) -> Callable[[int, int], Iterator[bytes]]:
    """Return a function that yields the bytes [start, end) of a file of the store, chunk by chunk."""

    def read(start: int, end: int) -> Iterator[bytes]:
        # A random access file: on S3 each read becomes one ranged GET, so bytes before `start` are not transferred.
        with store.io_errors("read a file"), store.filesystem.open_input_file(path) as stream:
            stream.seek(start)
            while start < end and (data := stream.read(min(CHUNK_BYTES, end - start))):
                start += len(data)
                yield bytes(data)

    return read


def slice_chunks(chunks: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes [start, end) of the concatenated chunks, reading no chunk past the end."""
    position = 0
    for chunk in chunks:
        if position + len(chunk) > start:
            yield chunk[max(0, start - position) : end - position]
        position += len(chunk)
        # Checked after each chunk, so that the next one is not produced in vain: it may be read from the store.
        if position >= end:
            return


@dataclass(frozen=True)
class UploadedFile:
    """The header of an uploaded file; the field names are part of the file format."""

    id: str
    owner: str
    bytes: int
    created_at: int  # Unix time, s
    filename: str
    purpose: str = "batch"
    digest: str = ""  # of the content, if it was uploaded under an idempotency key


class UploadStore:
    """The uploaded files of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, owner: str, name: str, source: IO[bytes], key: str = "") -> UploadedFile:
        """Store a file, or return the one that was uploaded under the same idempotency key.

        The caller compares the digest: the file may be another one.

        Raises:
            EmptyUploadError: It has no bytes.
        """
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if not size:
            raise EmptyUploadError("the file is empty")
        # JSON keeps owner and key apart; 24 hexadecimal digits are 96 bits, as of random ids.
        tail = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:24] if key else secrets.token_hex(12)
        file_id = f"file-{owner_hash(owner)}{tail}"
        if key and (known := self._find(file_id)) is not None:
            return known
        digest = content_digest(source) if key else ""
        file = UploadedFile(file_id, owner, size, int(time.time()), name[:255] or "batch.jsonl", digest=digest)
        # `fileno()` moves a SpooledTemporaryFile to disk. Mapped, up to 200 MB are stored without a copy in memory.
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as view:
            self.store.write_large(view, *FOLDER, file_id, CONTENT)
        self.store.write(json.dumps(asdict(file)).encode(), *FOLDER, file_id, HEADER)
        return file

    def get(self, file_id: str, owner: str) -> UploadedFile:
        """Return a file of this owner; raises UploadNotFoundError if there is none, or it belongs to another owner."""
        # The id itself says whose file it may be, so most ids of other owners are refused without a read. Like that,
        # they cannot be told from ids that do not exist.
        is_own = FILE_ID.fullmatch(file_id) and file_id.startswith(f"file-{owner_hash(owner)}")
        file = self._find(file_id) if is_own else None
        # The id holds only 32 bits of the owner's identity: two names may share them, the header has the whole name.
        if file is None or file.owner != owner:
            raise UploadNotFoundError(f"there is no file {file_id[:100]!r}")
        return file

    def listing(self, owner: str) -> list[UploadedFile]:
        """Return an owner's files, newest first."""
        names = [name for name in self.store.list(*FOLDER) if name.startswith(f"file-{owner_hash(owner)}")]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = [file for file in pool.map(self._find, names) if file is not None and file.owner == owner]
        return sorted(found, key=lambda file: (file.created_at, file.id), reverse=True)

    @contextmanager
    def open(self, file: UploadedFile) -> Iterator[IO[bytes]]:
        """Open a file as a stream that can be read line by line."""
        path = self.store.path(*FOLDER, file.id, CONTENT)
        with self.store.io_errors(f"read {file.id}"), self.store.filesystem.open_input_stream(path) as stream:
            yield io.BufferedReader(stream, CHUNK_BYTES)  # every read of the buffer is one request to S3

    def read_range(self, file: UploadedFile, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes [start, end) of a file, chunk by chunk."""
        return range_reader(self.store, self.store.path(*FOLDER, file.id, CONTENT))(start, end)

    def delete(self, file: UploadedFile) -> None:
        """Delete a file, header first; jobs made from it have copies of its lines."""
        self.store.remove(*FOLDER, file.id, HEADER)
        self.store.delete(*FOLDER, file.id)

    def _find(self, file_id: str) -> UploadedFile | None:
        try:
            return UploadedFile(**json.loads(self.store.read(*FOLDER, file_id, HEADER)))
        except StoreError:
            if self.store.exists(*FOLDER, file_id, HEADER):
                raise
            return None


def content_digest(source: IO[bytes]) -> str:
    """Return the SHA-256 of a file, and rewind it."""
    source.seek(0)
    digest = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
    source.seek(0)
    return digest


def batch_id(file_id: str) -> str:
    """Return the id of the batch that a file belongs to; empty for uploaded files."""
    return next(
        (file_id.removeprefix(start) for start in (OUTPUT_PREFIX, ERROR_PREFIX) if file_id.startswith(start)), ""
    )


def file_ids(job: BulkJob, progress: JobProgress) -> dict[str, str | None]:
    """Return the ids of both files; None before the batch has ended, and for an empty file."""
    ended = progress.status in ("completed", "cancelled", "expired")
    totals = progress.totals
    has_missing = totals.lines_ok + totals.lines_failed < job.num_lines
    return {
        "output_file_id": f"{OUTPUT_PREFIX}{job.id}" if ended and totals.lines_ok else None,
        "error_file_id": f"{ERROR_PREFIX}{job.id}" if ended and (totals.lines_failed or has_missing) else None,
    }


def size_of(jobs: JobStore, job: BulkJob, file_id: str) -> int:
    """Return the bytes of a file, computed from the images' sizes without reading the images."""
    return sum(size for _, size in _line_sizes(jobs, job, file_id))


def file_object(jobs: JobStore, job: BulkJob, file_id: str) -> dict[str, Any]:
    """Return the file object of OpenAI's Files API."""
    kind = "output" if _is_output(file_id) else "error"
    return {"id": file_id, "object": "file", "bytes": size_of(jobs, job, file_id), "created_at": int(job.created_at),
            "filename": f"{job.id}_{kind}.jsonl", "purpose": "batch_output", "status": "processed"}  # fmt: skip


def read_range(jobs: JobStore, job: BulkJob, file_id: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes [start, end) of a file; images of lines before `start` are not read."""
    first_item, skipped = "", 0
    # Only the output file contains images that are worth skipping; the error file is short.
    for item_id, size in _line_sizes(jobs, job, file_id) if start and _is_output(file_id) else ():
        first_item = item_id
        if skipped + size > start:
            break
        skipped += size
    lines = (line for _, line in _lines(jobs, job, file_id, COLUMNS, first_item))
    return slice_chunks(lines, start - skipped, end - skipped)


def _is_output(file_id: str) -> bool:
    return file_id.startswith(OUTPUT_PREFIX)


def _line_sizes(jobs: JobStore, job: BulkJob, file_id: str) -> Iterator[tuple[str, int]]:
    """Yield (item_id of the first image, bytes) of each line.

    The lines are made without their images. Base64 turns every 3 bytes, or a rest of them, into 4 characters.
    """
    for rows, line in _lines(jobs, job, file_id, SIZE_COLUMNS):
        base64_bytes = sum(4 * -(-row["size"] // 3) for row in rows) if _is_output(file_id) else 0
        yield rows[0]["item_id"] if rows else "", len(line) + base64_bytes


def _lines(
    jobs: JobStore, job: BulkJob, file_id: str, columns: tuple[str, ...], first_item: str = ""
) -> Iterator[tuple[list[ItemRow], bytes]]:
    """Yield (rows of its images, line) from the image `first_item` on."""
    # Lines are never split over shards, so all rows of a custom_id are consecutive, and groupby suffices.
    in_order = job_archive.rows_in_order(JobState(jobs, job).table, columns, first_item)
    for custom_id, group in groupby(in_order, key=lambda row: row["custom_id"]):
        rows = list(group)
        succeeded = all(row["status"] == "ok" for row in rows)
        if succeeded == _is_output(file_id):
            response = _success(job, rows) if succeeded else _failure(job, rows)
            yield rows, _line(job, custom_id, response=response)
    if not _is_output(file_id):
        yield from (([], line) for line in _missing(jobs, job))


def _success(job: BulkJob, rows: list[ItemRow]) -> dict[str, Any]:
    # Without the image column this makes the same line with empty images, whose length `_line_sizes` completes.
    data = [{"b64_json": base64.b64encode(row["image"]["bytes"]).decode() if "image" in row else "",
             "seed": row["seed"]} for row in rows]  # fmt: skip
    body = {"created": int(job.created_at), "data": data}
    return {"status_code": 200, "request_id": _request_id(job, rows), "body": body}


def _failure(job: BulkJob, rows: list[ItemRow]) -> dict[str, Any]:
    reason = next(row["reason"] for row in rows if row["status"] != "ok")
    # OpenAI's clients retry requests with a 5xx, and correct those with a 4xx.
    status, kind = (500, "server_error") if reason.startswith(RETRIES_EXHAUSTED) else (400, "invalid_request_error")
    error = {"message": reason, "type": kind, "param": None, "code": "not_drawn"}
    return {"status_code": status, "request_id": _request_id(job, rows), "body": {"error": error}}


def _request_id(job: BulkJob, rows: list[ItemRow]) -> str:
    """Return the request id of a line, which is that of its first image: the others count on from there."""
    return item_request_id(job.id, rows[0]["item_id"])


def _missing(jobs: JobStore, job: BulkJob) -> Iterator[bytes]:
    """Yield the lines of a batch that ended before their images were generated."""
    state = JobState(jobs, job)
    totals = state.progress().totals
    # The usual case: the batch was completed, and no shard has to be looked at.
    if totals.lines_ok + totals.lines_failed == job.num_lines:
        return
    state.refresh()
    end = state.totals.end
    for shard in jobs.shards(job):
        if shard.name not in state.committed_shards:
            for custom_id in dict.fromkeys(item.line.custom_id for item in shard.items):
                error = {"code": f"batch_{end}", "message": f"the batch was {end} before this request was drawn"}
                yield _line(job, custom_id, error=error)


def _line(job: BulkJob, custom_id: str, **content: Any) -> bytes:
    fields = {"id": f"batch_req_{job.id.removeprefix('batch_')}_{custom_id}", "custom_id": custom_id, "response": None,
              "error": None, **content}  # fmt: skip
    return json.dumps(fields).encode() + b"\n"
