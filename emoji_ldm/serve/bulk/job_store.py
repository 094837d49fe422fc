"""Bulk jobs in the store: an immutable header over parts of lines. What is drawn of them, results.py alone tells.

sets/<id>/job.json            header, written last and only once: a job is there as a whole or not at all
sets/<id>/<input>/00000.jsonl lines, LINES_PER_PART each
sets/<id>/tables/items/       Delta table of its pictures
sets/open/<id>                there from before its creation until nothing is left to draw: where runners look
sets/deleted/<id>             a deleted job with an idempotency key: an id has one life, the key's next job another id
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from typing import Any

from emoji_ldm.dataset.delta.delta_log import creation_entry, entry_path
from emoji_ldm.errors import StoreError
from emoji_ldm.serve.auth import Caller
from emoji_ldm.serve.bulk.item_schema import ITEMS
from emoji_ldm.serve.bulk.shards import JobLine, JobShard, cut_shards
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.store import Store

LINES_PER_PART = 1024
READ_THREADS = 8
HEADER = "job.json"
JOB_ID = re.compile(r"(set|batch)_[0-9a-f]{32}")
ANONYMOUS = Caller()
PUBLISH_TRIES = 5


@dataclass(frozen=True)
class BulkJob:
    """What was asked; nothing of it ever changes."""

    id: str
    kind: str  # emoji_set | batch
    owner: str
    created_at: float  # Unix time, s
    expires_at: float  # nothing is drawn later
    asked: Mapping[str, Any]  # to be echoed
    digest: str = ""  # of the request, so that a repeated one is told from another one
    keyed: bool = False  # its id comes from an idempotency key, so several creations of it may run at once
    errors: tuple[Mapping[str, Any], ...] = ()  # a batch whose lines are refused has these and no lines
    folder: str = ""  # of its lines
    parts: tuple[tuple[int, int], ...] = field(default=())  # (lines, pictures) of each

    @property
    def num_lines(self) -> int:
        """Lines of the whole job."""
        return sum(lines for lines, _ in self.parts)

    @property
    def num_pictures(self) -> int:
        """Pictures of the whole job."""
        return sum(pictures for _, pictures in self.parts)


class JobStore:
    """The jobs of a store."""

    def __init__(self, store: Store) -> None:
        """Name the store; nothing is read yet."""
        self.store = store

    def create(self, job: BulkJob, lines: Iterable[JobLine], caller: Caller = ANONYMOUS) -> BulkJob:
        """Write a job; of several creations with one id the first counts, and its job is returned by all.

        Whatever `lines` raises is passed on, and nothing is left behind. The caller is charged for the pictures before
        the job is there, and refunded if it turns out to be there already or cannot be made.
        """
        folder, marker = f"input-{secrets.token_hex(8)}", self._mark(job.id)
        try:
            parts = tuple(self._write_part(job.id, folder, number, part) for number, part in enumerate(_parts(lines)))
            whole = replace(job, folder=folder, parts=parts)
            caller.charge(whole.num_pictures)
        except BaseException:
            self._forget(job, folder, marker)
            raise
        try:
            home = self.home(job.id)
            home.write_once(creation_entry(ITEMS), entry_path(home.table_path(ITEMS.name), 0))
            found = self._publish(whole)
            self._mark(job.id)  # who cleared up after another creation of this id may have taken it away
        except BaseException:  # the header may be there though its answer was lost: `clear_abandoned` looks
            caller.refund(whole.num_pictures)
            raise
        if found.folder != folder:
            caller.refund(whole.num_pictures)
            self.store.delete("sets", job.id, folder)
        return found

    def create_failed(self, job: BulkJob, errors: Sequence[Mapping[str, Any]]) -> BulkJob:
        """A job without lines that says why; as `create`, the first of one id counts."""
        return self._publish(replace(job, errors=tuple(errors)))

    def keyed(self, kind: str, owner: str, key: str | None) -> tuple[str, BulkJob | None]:
        """The id that a job of this idempotency key has, and the job if it is there; a deleted one's id is not used
        again, lest what is late of its deletion hits the new job.
        """
        for life in count():
            job_id = new_job_id(kind, owner, key, life)
            job = self.find(job_id) if key else None  # before looking for a deletion, which marks its job first
            if job or not key or not self.store.exists("sets", "deleted", job_id):
                return job_id, job
        raise AssertionError("the loop returns")

    def get(self, job_id: str, owner: str) -> BulkJob:
        """The job of this owner; RequestError (404) if there is none, or it is another's."""
        job = self.find(job_id) if JOB_ID.fullmatch(job_id) else None
        if job is None or job.owner != owner:
            raise RequestError(f"there is no job {job_id!r}", status=404, param="id", code="not_found")
        return job

    def find(self, job_id: str) -> BulkJob | None:
        """The job of anybody, None if it is not there (yet)."""
        try:
            values = json.loads(self.store.read("sets", job_id, HEADER))
        except StoreError:
            if self.store.exists("sets", job_id, HEADER):
                raise
            return None
        return BulkJob(**{**values, "errors": tuple(values["errors"]), "parts": tuple(map(tuple, values["parts"]))})

    def listing(self, owner: str, kind: str) -> list[BulkJob]:
        """An owner's jobs of a kind, newest first."""
        start = f"{ID_PREFIXES[kind]}{owner_hash(owner)}"
        names = [name for name in self.store.list("sets") if name.startswith(start)]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = [job for job in pool.map(self.find, names) if job is not None and job.owner == owner]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)

    def open(self) -> list[str]:
        """Ids of jobs that may have something left to draw."""
        return [name for name in self.store.list("sets", "open") if not name.startswith(".")]  # half-written files

    def began(self, job_id: str) -> float:
        """When an open job was created, Unix time; 0 if it is being deleted, infinity if it is not open (any more)."""
        try:
            return float(self.store.read("sets", "open", job_id).split()[0])
        except StoreError:
            if self.store.exists("sets", "open", job_id):
                raise
            return math.inf

    def close(self, job_id: str) -> None:
        """Nothing is left to draw."""
        self.store.remove("sets", "open", job_id)

    def delete(self, job: BulkJob) -> None:
        """Forget a job and all its pictures, header first; if this stops halfway, a runner does the rest."""
        self.store.write(b"0", "sets", "open", job.id)
        if job.keyed:
            self.store.write(b"", "sets", "deleted", job.id)
        self.store.remove("sets", job.id, HEADER)
        with suppress(StoreError):  # somebody may be writing there at this moment
            self.store.delete("sets", job.id)
            self.close(job.id)

    def clear_abandoned(self, job_id: str, older_than_s: float) -> None:
        """Delete what a creation or a deletion that died left behind."""
        if self.find(job_id) is None and time.time() - self.began(job_id) > older_than_s:  # its creation renews it
            self.store.delete("sets", job_id)
            self.close(job_id)

    def shards(self, job: BulkJob) -> Iterator[JobShard]:
        """All shards of a job in order, one part in memory at a time."""
        index = 0
        for part, (_, pictures) in enumerate(job.parts):
            yield from cut_shards(self._read_part(job, part), part, index)
            index += pictures

    def lines(self, job: BulkJob) -> Iterator[JobLine]:
        """All lines of a job in order, one part in memory at a time."""
        for part in range(len(job.parts)):
            yield from self._read_part(job, part)

    def home(self, job_id: str) -> Store:
        """The store of one job's table."""
        return Store(f"{self.store.uri}/sets/{job_id}")

    def _write_part(self, job_id: str, folder: str, number: int, lines: list[JobLine]) -> tuple[int, int]:
        text = "".join(line.to_json() + "\n" for line in lines)
        self.store.write(text.encode(), "sets", job_id, folder, f"{number:05d}.jsonl")
        return len(lines), sum(line.n for line in lines)

    def _read_part(self, job: BulkJob, number: int) -> list[JobLine]:
        text = self.store.read("sets", job.id, job.folder, f"{number:05d}.jsonl").decode()
        return [JobLine.from_json(line) for line in text.split("\n") if line]

    def _mark(self, job_id: str) -> bytes:
        """Tell runners of a job; returns what tells this mark from others."""
        marker = f"{time.time()} {secrets.token_hex(8)}".encode()
        self.store.write(marker, "sets", "open", job_id)
        return marker

    def _publish(self, job: BulkJob) -> BulkJob:
        """The job of this id: this one if it is the first, which a PUT tells as refused if its answer was lost."""
        data = json.dumps(asdict(job)).encode()
        for _ in range(PUBLISH_TRIES):
            if self.store.write_once(data, "sets", job.id, HEADER):
                return job
            if (found := self.find(job.id)) is not None:
                return found
        raise StoreError(f"{job.id} cannot be written: S3 refuses it though nothing is there; try again")

    def _forget(self, job: BulkJob, folder: str, marker: bytes) -> None:
        """Take away what a refused creation wrote, and nothing of another creation of the same id."""
        self.store.delete("sets", job.id, folder)
        if not job.keyed:
            self.store.delete("sets", job.id)
        if self.store.exists("sets", "open", job.id) and self.store.read("sets", "open", job.id) == marker:
            self.close(job.id)  # whoever creates it as well marks it again at the end


ID_PREFIXES = {"emoji_set": "set_", "batch": "batch_"}


def new_job_id(kind: str, owner: str, key: str | None = None, life: int = 0) -> str:
    """Id of a job: the same for the same owner, idempotency key and life, else never seen before."""
    known = json.dumps([owner, key, life]).encode()
    tail = secrets.token_hex(12) if key is None else hashlib.sha256(known).hexdigest()[:24]
    return f"{ID_PREFIXES[kind]}{owner_hash(owner)}{tail}"


def owner_hash(owner: str) -> str:
    """Eight hex digits that stand for an owner in names."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


def _parts(lines: Iterable[JobLine]) -> Iterator[list[JobLine]]:
    source = iter(lines)
    while part := list(islice(source, LINES_PER_PART)):
        yield part
