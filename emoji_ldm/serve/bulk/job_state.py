"""The state of a bulk job: what is done, counted from the log of its Delta table and from nothing else.

Each commit adds the rows of whole shards. It records their names as Delta application transactions (`txn` actions,
Delta protocol, "Transaction Identifiers"), so that a shard is committed once however many runners work on the job, and
it carries the totals so far in its commitInfo, so that the newest entry alone answers for the progress.

A job that ends early (cancelled, expired) ends by a commit too. Commits are ordered by the log, so every process agrees
on whether a shard came before the end or after it, and the latter are dropped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import Action, LogEntry, log_entries, read_entry
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.table import Table
from emoji_ldm.serve.bulk.bulk_job import BulkJob
from emoji_ldm.serve.bulk.item_schema import ITEMS, ItemRow
from emoji_ldm.serve.bulk.job_store import JobStore

# Errors are part of every commit from then on, so only a sample of them is kept.
SHOWN_ERRORS = 20
RATE_COMMITS = 30  # the rate is an average over so many commits
STALE_S = 30.0  # silence beyond this counts as time without progress
COUNTS = ("ok", "failed", "lines_ok", "lines_failed")


@dataclass(frozen=True)
class JobTotals:
    """Counts of a job as of one commit, stored as JSON in its commitInfo: the field names are part of the format."""

    ok: int = 0  # images
    failed: int = 0
    lines_ok: int = 0  # meaningful for batches, whose lines are never split
    lines_failed: int = 0  # with at least one failed image
    errors: tuple[dict[str, Any], ...] = ()  # of the first failed images
    drawn_s: float = 0.0  # time in which a runner was at work: it does not pass while there is none
    started_at: float = 0.0  # Unix time at which the first runner began
    end: str = ""  # cancelled | expired: no commit may follow

    @property
    def finished(self) -> int:
        """Number of images that have a row."""
        return self.ok + self.failed


@dataclass(frozen=True)
class JobProgress:
    """The progress of a job as users see it."""

    totals: JobTotals
    status: str  # queued | in_progress | completed | cancelled | expired | failed
    started_at: float | None  # Unix time at which a runner began
    ended_at: float | None
    images_per_s: float | None
    eta_s: float | None


@dataclass
class JobState:
    """The state of one job, as of the table's version `seen_version`; not safe for concurrent use by threads."""

    jobs: JobStore
    job: BulkJob
    committed_shards: set[str] = field(default_factory=set)
    totals: JobTotals = field(default_factory=JobTotals)
    seen_version: int = 0
    seen_version_at: float = 0.0  # Unix time of that version's commit

    def __post_init__(self) -> None:
        """Open the table without reading it. For a runner, its work on the job starts now."""
        self.opened_at = time.time()
        self.table = Table(self.jobs.table_store(self.job.id), ITEMS)

    def refresh(self) -> None:
        """Read what other processes have committed."""
        # Nothing to read if the job was not published or has been deleted.
        if self.table.version >= 0:
            self.table.refresh_incrementally()
        self._catch_up()

    @property
    def ended(self) -> bool:
        """Whether nothing is left to generate, as of `seen_version`."""
        return bool(self.totals.end) or self.totals.finished >= self.job.num_images

    def commit(self, shards: Mapping[str, Sequence[ItemRow]], end: str = "") -> bool:
        """Commit the rows of finished shards as one file and one version.

        If another runner has committed some of these shards, its rows stay and ours are dropped.

        Args:
            shards: Rows by shard name.
            end: cancelled | expired; ends the job with this commit.

        Returns:
            Whether anything was committed.
        """
        files = dict[tuple[str, ...], DataFile]()
        planned: tuple[tuple[str, ...], JobTotals] = (), self.totals

        # `commit_entry` calls `plan` again whenever another writer takes the version number first (optimistic
        # concurrency). The plan is then made anew on the current state, and the file is written again only if the
        # set of shards that are still ours has changed.
        def plan() -> LogEntry | None:
            nonlocal planned
            self._catch_up()
            new = tuple(shard for shard in sorted(shards) if shard not in self.committed_shards)
            # This check makes the end final: whoever loses the race against the ending commit sees it here.
            if self.ended or not (new or end):
                return None
            rows = [row for shard in new for row in shards[shard]]
            if new and new not in files:
                files[new] = self.table.write_file(pa.Table.from_pylist(rows, ITEMS.schema))
            # The totals depend on the commits before this one, so they are computed inside of the retried plan.
            planned = new, self._add(_count(rows), end)
            metadata = {"totals": json.dumps(asdict(planned[1]))}
            return LogEntry([files[new]] if new else [], (), dict.fromkeys(new, True), metadata)

        if (version := commit_entry(self.table, plan)) is None:
            return False
        self.seen_version, self.totals, self.seen_version_at = version, planned[1], time.time()
        self.committed_shards.update(planned[0])
        return True

    def cancel(self) -> int:
        """End the job and return how many images will not be generated; 0 if it had ended before."""
        if self.table.version > 0:  # the totals of the newest entry are all that is needed, not every entry's shards
            self.seen_version = self.table.version
            self.totals, self.seen_version_at = _totals_of(read_entry(self.table, self.seen_version))
        return self.job.num_images - self.totals.finished if self.commit({}, "cancelled") else 0

    def progress(self) -> JobProgress:
        """Return counts, rate and status, from the newest log entry and, for the rate, one before it."""
        if self.job.errors:
            return JobProgress(JobTotals(), "failed", None, self.job.created_at, None, None)
        # Other processes write the table, so its version must be looked up for each request.
        self.table.refresh()
        version = self.table.version
        if version < 1:
            return JobProgress(JobTotals(), "queued", None, None, None, None)
        totals, committed_at = _totals_of(read_entry(self.table, version))
        started_at = totals.started_at or None
        status = totals.end or ("completed" if totals.finished >= self.job.num_images else "in_progress")
        if status != "in_progress":
            return JobProgress(totals, status, started_at, committed_at, None, 0)
        rate = self._rate(version, totals, committed_at)
        eta_s = (self.job.num_images - totals.finished) / rate if rate else None
        return JobProgress(totals, status, started_at, None, rate, eta_s)

    def _rate(self, version: int, totals: JobTotals, committed_at: float) -> float | None:
        """Return the images per second of the last commits."""
        before = JobTotals()
        if version > 1:
            before, _ = _totals_of(read_entry(self.table, max(1, version - RATE_COMMITS)))
        # A short silence is the normal distance of two commits; a long one means that the job is stuck.
        silence_s = time.time() - committed_at
        seconds = totals.drawn_s - before.drawn_s + (silence_s if silence_s > STALE_S else 0.0)
        return (totals.finished - before.finished) / seconds if seconds > 0 else None

    def _add(self, new: JobTotals, end: str) -> JobTotals:
        """Return the totals after a commit that adds `new`."""
        before, now = self.totals, time.time()
        counts = {name: getattr(before, name) + getattr(new, name) for name in COUNTS}
        # Time before this runner started is not counted: no runner may have been at work.
        worked_s = max(0.0, now - max(self.seen_version_at, self.opened_at)) * bool(new.finished)
        started_at = before.started_at or (self.opened_at if new.finished else 0.0)
        return JobTotals(**counts, errors=(*before.errors, *new.errors)[:SHOWN_ERRORS],
                         drawn_s=before.drawn_s + worked_s, started_at=started_at, end=end)  # fmt: skip

    def _catch_up(self) -> None:
        """Apply the log entries up to the table's version."""
        # Only new entries are read. The table was created with version 0, which contains no shards.
        for version, actions in log_entries(self.table, self.seen_version + 1):
            self.committed_shards.update(action["txn"]["appId"] for action in actions if "txn" in action)
            self.totals, self.seen_version_at = _totals_of(actions)
            self.seen_version = version


def _count(rows: Iterable[ItemRow]) -> JobTotals:
    line_ok: dict[str, bool] = {}
    errors = list[dict[str, Any]]()
    counts = Counter[str]()
    for row in rows:
        counts[row["status"]] += 1
        line_ok[row["custom_id"]] = line_ok.get(row["custom_id"], True) and row["status"] == "ok"
        if row["status"] != "ok":
            errors.append({name: row[name] for name in ("custom_id", "number", "reason")})
    num_ok = sum(line_ok.values())
    return JobTotals(counts["ok"], counts["failed"], num_ok, len(line_ok) - num_ok, tuple(errors[:SHOWN_ERRORS]))


def _totals_of(actions: Sequence[Action]) -> tuple[JobTotals, float]:
    """Return the totals in a log entry, and the entry's Unix time."""
    info = next(action["commitInfo"] for action in actions if "commitInfo" in action)
    values = json.loads(info["totals"])
    return JobTotals(**{**values, "errors": tuple(values["errors"])}), info["timestamp"] / 1000
