"""Bulk jobs in the store: creation, lookup and deletion.

    sets/<id>/job.json             header, written last and only once: a job exists as a whole or not at all
    sets/<id>/<input>/00000.jsonl  lines, LINES_PER_PART each
    sets/<id>/tables/items/        Delta table of its images (item_schema)
    sets/open/<id>                 marker: exists from before the creation until nothing is left to generate
    sets/hooks/<id>                marker of a job with a webhook, until it was told (webhooks)
    sets/deleted/<id>              tombstone of a deleted job with an idempotency key

Object stores have no transactions and no directories to lock, so the order of writes carries the guarantees:

* Creation writes the marker, then the lines (`stage`), then the table's first log entry and the header (`publish`).
  Runners find jobs by their markers, and ignore those without a header. A creation that dies is therefore invisible,
  and `clear_abandoned` removes its files after an hour.
* Two requests with one idempotency key derive the same id. Each writes its lines into a folder of its own; the header
  is written with a conditional PUT, so exactly one of them wins, and names the folder that counts.
* Deletion removes the header first, and the marker last: if it stops halfway, the runner sees a marker without header
  and finishes it.
* An id is never used again. Files of a deleted job may appear late, from a runner that was committing at that moment;
  the tombstone makes the next job of the same idempotency key take another id.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Any

from emoji_ldm.dataset.delta.delta_log import creation_entry, entry_path
from emoji_ldm.errors import JobNotFoundError, StoreError
from emoji_ldm.serve.bulk.bulk_job import (
    ID_PREFIXES,
    JOB_ID,
    BulkJob,
    JobLine,
    JobShard,
    cut_shards,
    new_job_id,
    owner_hash,
)
from emoji_ldm.serve.bulk.item_schema import ITEMS
from emoji_ldm.store import Store

LINES_PER_PART = 1024  # what a reader holds in memory at once
READ_THREADS = 8
HEADER = "job.json"
HOOKS = ("sets", "hooks")
PUBLISH_TRIES = 5
MAX_PLACE = 1000  # open jobs whose markers are read to tell a job's place


@dataclass(frozen=True)
class StagedJob:
    """A job whose lines are written, and which does not exist before `JobStore.publish`."""

    job: BulkJob
    marker: bytes  # content of its marker, unique among all creations of the same id


class JobStore:
    """The bulk jobs of a store; stateless, so that any number of processes may use one."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def stage(self, job: BulkJob, lines: Iterable[JobLine]) -> StagedJob:
        """Write the lines of a job. Whatever `lines` raises is passed on, and nothing is left behind."""
        # The marker comes before the first line. A creation that dies later is thus found and cleared by a runner.
        staged = StagedJob(replace(job, folder=f"input-{secrets.token_hex(8)}"), self._mark_open(job.id))
        try:
            # Before the job exists: it may have ended before anything is written after it.
            self._mark_hook(job)
            parts = tuple(self._write_part(staged.job, number, part) for number, part in enumerate(_parts(lines)))
        except BaseException:
            self.discard(staged)
            raise
        return replace(staged, job=replace(staged.job, parts=parts))

    def publish(self, staged: StagedJob) -> BulkJob:
        """Make a staged job exist, and return the job of its id.

        Of several jobs staged with one id, the first to be published counts; publishing another one deletes its lines
        and returns the first. If this raises, the job may exist all the same, since the response to the PUT of the
        header may be what was lost. `clear_abandoned` therefore decides later, not the caller.
        """
        job = staged.job
        tables = self.table_store(job.id)
        tables.write_if_absent(creation_entry(ITEMS), entry_path(tables.table_path(ITEMS.name), 0))
        found = self._write_header(job)
        # The discard of another creation of this id may have removed the marker in the meantime.
        self._mark_open(job.id)
        if found.folder != job.folder:
            self.store.delete("sets", job.id, job.folder)
        return found

    def discard(self, staged: StagedJob) -> None:
        """Remove what `stage` wrote, and nothing that another creation of the same id wrote."""
        job_id = staged.job.id
        self.store.delete("sets", job_id, staged.job.folder)
        # A random id belongs to this creation alone, so the whole folder may go.
        if not staged.job.keyed:
            self.store.delete("sets", job_id)
            self.store.remove(*HOOKS, job_id)
        if self.store.exists("sets", "open", job_id) and self.store.read("sets", "open", job_id) == staged.marker:
            self.close(job_id)  # a concurrent creation of this id writes the marker again when it publishes

    def create_failed(self, job: BulkJob, errors: Sequence[Mapping[str, Any]]) -> BulkJob:
        """Create a job that has errors instead of lines; as with `publish`, the first one of an id counts."""
        self._mark_hook(job)
        return self._write_header(replace(job, errors=tuple(errors)))

    def resolve_key(self, kind: str, owner: str, key: str | None) -> tuple[str, BulkJob | None]:
        """Return the id for an idempotency key, and the job that already has it; a new id if there is no key."""
        for generation in count():
            job_id = new_job_id(kind, owner, key, generation)
            # Header first, tombstone second: a deletion writes the tombstone before it removes the header, so a
            # deleted job cannot be taken for one that never existed.
            job = self.find(job_id) if key else None
            if job or not key or not self.store.exists("sets", "deleted", job_id):
                return job_id, job
        raise AssertionError("the loop returns")

    def get(self, job_id: str, owner: str) -> BulkJob:
        """Return a job of this owner; raises JobNotFoundError if there is none, or it belongs to another owner."""
        job = self.find(job_id) if JOB_ID.fullmatch(job_id) else None
        if job is None or job.owner != owner:
            raise JobNotFoundError(f"there is no job {job_id!r}")
        return job

    def find(self, job_id: str) -> BulkJob | None:
        """Return a job of any owner; None if it does not exist (yet)."""
        try:
            # Reading first and asking whether it exists only on failure costs one request for the usual case. A store
            # that cannot be reached is told apart from a header that does not exist.
            values = json.loads(self.store.read("sets", job_id, HEADER))
        except StoreError:
            if self.store.exists("sets", job_id, HEADER):
                raise
            return None
        return BulkJob(**{**values, "errors": tuple(values["errors"]), "parts": tuple(map(tuple, values["parts"]))})

    def listing(self, owner: str, kind: str) -> list[BulkJob]:
        """Return an owner's jobs of a kind, newest first."""
        # The hash in the id narrows the listing down without reading headers; two owners may share a hash, so the
        # owner is compared as well.
        prefix = f"{ID_PREFIXES[kind]}{owner_hash(owner)}"
        names = [name for name in self.store.list("sets") if name.startswith(prefix)]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = [job for job in pool.map(self.find, names) if job is not None and job.owner == owner]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)

    def open_jobs(self) -> list[str]:
        """Return the ids of jobs that may have something left to generate."""
        return [name for name in self.store.list("sets", "open") if not name.startswith(".")]  # half-written files

    def place(self, job: BulkJob) -> int:
        """Return how many open jobs, of all owners, were created before this one, and one more for itself."""
        ids = self.open_jobs()
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return 1 + sum(at < job.created_at for at in pool.map(self.created_at, ids[:MAX_PLACE]) if at)

    def created_at(self, job_id: str) -> float:
        """Return the Unix time in a job's marker; 0 if the job is being deleted, infinity if it has no marker."""
        try:
            return float(self.store.read("sets", "open", job_id).split()[0])
        except StoreError:
            if self.store.exists("sets", "open", job_id):
                raise
            return math.inf

    def close(self, job_id: str) -> None:
        """Remove the marker of a job with nothing left to generate."""
        self.store.remove("sets", "open", job_id)

    def delete(self, job: BulkJob) -> None:
        """Delete a job and all its images; if this stops halfway, a runner finishes it."""
        # A marker with time 0 is older than any limit, so a runner finishes the deletion at its next poll.
        self.store.write(b"0", "sets", "open", job.id)
        if job.keyed:
            self.store.write(b"", "sets", "deleted", job.id)
        self.store.remove("sets", job.id, HEADER)
        with suppress(StoreError):  # a runner may be writing into the folder at this moment
            self.store.delete("sets", job.id)
            self.close(job.id)

    def clear_abandoned(self, job_id: str, older_than_s: float) -> None:
        """Delete what is left of a creation or a deletion that died."""
        # A creation in progress has renewed the marker, so its age is that of the newest creation.
        if self.find(job_id) is None and time.time() - self.created_at(job_id) > older_than_s:
            self.store.delete("sets", job_id)
            self.close(job_id)

    def shards(self, job: BulkJob) -> Iterator[JobShard]:
        """Yield all shards of a job in order, with one part in memory at a time."""
        index = 0
        for part, (_, images) in enumerate(job.parts):
            yield from cut_shards(self._read_part(job, part), part, index)
            index += images

    def table_store(self, job_id: str) -> Store:
        """Return the store that contains the table of one job."""
        return Store(f"{self.store.uri}/sets/{job_id}")

    def _write_part(self, job: BulkJob, number: int, lines: list[JobLine]) -> tuple[int, int]:
        text = "".join(line.to_json() + "\n" for line in lines)
        self.store.write(text.encode(), "sets", job.id, job.folder, f"{number:05d}.jsonl")
        return len(lines), sum(line.n for line in lines)

    def _read_part(self, job: BulkJob, number: int) -> list[JobLine]:
        # Split at newlines only: str.splitlines would also split at the line separators that prompts may contain.
        text = self.store.read("sets", job.id, job.folder, f"{number:05d}.jsonl").decode()
        return [JobLine.from_json(line) for line in text.split("\n") if line]

    def _mark_open(self, job_id: str) -> bytes:
        """Write the marker that runners look for; returns its content, which no other marker has."""
        marker = f"{time.time()} {secrets.token_hex(8)}".encode()
        self.store.write(marker, "sets", "open", job_id)
        return marker

    def _mark_hook(self, job: BulkJob) -> None:
        """Write the marker of a job's webhook, if it has one."""
        if job.webhook:
            self.store.write(json.dumps({"marked_at": time.time()}).encode(), *HOOKS, job.id)

    def _write_header(self, job: BulkJob) -> BulkJob:
        """Write the header if there is none, and return the job whose header there is now.

        A conditional PUT is refused if an earlier try of the same PUT succeeded and its response was lost. The header
        is then our own, so reading it back gives the right answer in both cases. S3 may also refuse because of a
        concurrent request that fails in the end (409 ConditionalRequestConflict): then there is no header, and the PUT
        is tried again.
        """
        data = json.dumps(asdict(job)).encode()
        for _ in range(PUBLISH_TRIES):
            if self.store.write_if_absent(data, "sets", job.id, HEADER):
                return job
            if (found := self.find(job.id)) is not None:
                return found
        raise StoreError(f"{job.id} cannot be written: S3 refuses it though nothing is there; try again")


def _parts(lines: Iterable[JobLine]) -> Iterator[list[JobLine]]:
    source = iter(lines)
    while part := list(islice(source, LINES_PER_PART)):
        yield part
