"""Uploaded JSONL files, the inputs of batches.

sets/files/<id>/content.jsonl   the file as uploaded
sets/files/<id>/file.json       its header, written last: an upload exists as a whole or not at all
"""

from __future__ import annotations

import io
import json
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from mmap import ACCESS_READ, mmap
from typing import IO

from emoji_ldm.errors import EmptyUploadError, StoreError, UploadNotFoundError
from emoji_ldm.serve.bulk.bulk_job import owner_hash
from emoji_ldm.serve.bulk.byte_ranges import CHUNK_BYTES, range_reader
from emoji_ldm.serve.bulk.job_store import READ_THREADS
from emoji_ldm.store import Store

FOLDER = ("sets", "files")
HEADER, CONTENT = "file.json", "content.jsonl"
# Ids become folder names; see JOB_ID in `bulk_job`.
FILE_ID = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True)
class UploadedFile:
    """The header of an uploaded file; the field names are part of the file format."""

    id: str
    owner: str
    bytes: int
    created_at: int  # Unix time, s
    filename: str
    purpose: str = "batch"


class UploadStore:
    """The uploaded files of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, owner: str, name: str, source: IO[bytes]) -> UploadedFile:
        """Store a file; raises EmptyUploadError if it has no bytes."""
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if not size:
            raise EmptyUploadError("the file is empty")
        file_id = f"file-{owner_hash(owner)}{secrets.token_hex(12)}"
        file = UploadedFile(file_id, owner, size, int(time.time()), name[:255] or "batch.jsonl")
        # `fileno()` moves a SpooledTemporaryFile to disk. Mapped, up to 200 MB are stored without a copy in memory.
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as view:
            self.store.write_large(view, *FOLDER, file_id, CONTENT)
        self.store.write(json.dumps(asdict(file)).encode(), *FOLDER, file_id, HEADER)
        return file

    def get(self, file_id: str, owner: str) -> UploadedFile:
        """Return a file of this owner; raises UploadNotFoundError if there is none, or it belongs to another owner."""
        # The id itself says whose file it is, so files of other owners are refused without a read. Like that, an id
        # of another owner cannot be told from one that does not exist.
        is_own = FILE_ID.fullmatch(file_id) and file_id.startswith(f"file-{owner_hash(owner)}")
        file = self._find(file_id) if is_own else None
        if file is None:
            raise UploadNotFoundError(f"there is no file {file_id[:100]!r}")
        return file

    def listing(self, owner: str) -> list[UploadedFile]:
        """Return an owner's files, newest first."""
        names = [name for name in self.store.list(*FOLDER) if name.startswith(f"file-{owner_hash(owner)}")]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = [file for file in pool.map(self._find, names) if file is not None]
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
