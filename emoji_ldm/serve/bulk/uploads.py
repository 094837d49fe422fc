"""`/v1/files` for batches: uploaded JSONL, and the outputs of batches, which are made of their jobs when they are read.

sets/files/<id>/content.jsonl   as it was uploaded
sets/files/<id>/file.json       its facts, written last
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
from typing import IO, Any

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.bulk.byte_ranges import CHUNK_BYTES, range_reader
from emoji_ldm.serve.bulk.job_store import READ_THREADS, owner_hash
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.store import Store

FOLDER = ("sets", "files")
FACTS, CONTENT = "file.json", "content.jsonl"
FILE_ID = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True)
class UploadedFile:
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


class UploadStore:
    """The uploaded files of a store."""

    def __init__(self, store: Store) -> None:
        """Name the store."""
        self.store = store

    def add(self, owner: str, name: str, source: IO[bytes]) -> UploadedFile:
        """Keep a file; RequestError if it is empty."""
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if not size:
            raise RequestError("the file is empty", param="file", code="empty_file")
        file_id = f"file-{owner_hash(owner)}{secrets.token_hex(12)}"
        file = UploadedFile(file_id, owner, size, int(time.time()), name[:255] or "batch.jsonl")
        # From the disk, where fileno() puts it, without a copy in memory.
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as view:
            self.store.put(view, *FOLDER, file_id, CONTENT)
        self.store.write(json.dumps(asdict(file)).encode(), *FOLDER, file_id, FACTS)
        return file

    def get(self, file_id: str, owner: str) -> UploadedFile:
        """A file of this owner; RequestError (404) if there is none, or it is another's."""
        mine = FILE_ID.fullmatch(file_id) and file_id.startswith(f"file-{owner_hash(owner)}")
        file = self._find(file_id) if mine else None
        if file is None:
            raise RequestError(f"there is no file {file_id[:100]!r}", status=404, param="file_id", code="not_found")
        return file

    def listing(self, owner: str) -> list[UploadedFile]:
        """An owner's files, newest first."""
        names = [name for name in self.store.list(*FOLDER) if name.startswith(f"file-{owner_hash(owner)}")]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = [file for file in pool.map(self._find, names) if file is not None]
        return sorted(found, key=lambda file: (file.created_at, file.id), reverse=True)

    @contextmanager
    def opened(self, file: UploadedFile) -> Iterator[IO[bytes]]:
        """The bytes as a stream."""
        path = self.store.path(*FOLDER, file.id, CONTENT)
        with self.store.reaching(f"read {file.id}"), self.store.filesystem.open_input_stream(path) as stream:
            yield io.BufferedReader(stream, CHUNK_BYTES)  # each part is a request to S3

    def parts(self, file: UploadedFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from an offset to another one."""
        return range_reader(self.store, self.store.path(*FOLDER, file.id, CONTENT))(start, end)

    def delete(self, file: UploadedFile) -> None:
        """Forget a file; jobs that were made of it keep their lines."""
        self.store.remove(*FOLDER, file.id, FACTS)
        self.store.delete(*FOLDER, file.id)

    def _find(self, file_id: str) -> UploadedFile | None:
        try:
            return UploadedFile(**json.loads(self.store.read(*FOLDER, file_id, FACTS)))
        except StoreError:
            if self.store.exists(*FOLDER, file_id, FACTS):
                raise
            return None
