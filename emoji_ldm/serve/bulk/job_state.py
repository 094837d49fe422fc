"""What is drawn of a job: the log of its Delta table, and nothing beside it.

Each commit adds whole shards, marks them as Delta app transactions, and carries the totals
so far. A job that ends early (cancelled, expired) ends by a commit too: nothing can be added
after it, by any runner, so that everybody sees one end.
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
from emoji_ldm.serve.bulk.item_schema import ITEMS, ItemRow
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore

SHOWN_ERRORS = 20
RATE_COMMITS = 30  # commits
STALE_S = 30.0
COUNTS = ("ok", "failed", "lines_ok", "lines_failed")


@dataclass(frozen=True)
class JobTotals:
    """Counts of a job as of a commit."""

    ok: int = 0  # pictures
    failed: int = 0
    lines_ok: int = 0  # of a batch, where a line is never split
    lines_failed: int = 0  # with at least one failed picture
    errors: tuple[dict[str, Any], ...] = ()  # of the first failed pictures
    drawn_s: float = 0.0  # time in which runners drew: none passes while there is none
    started_at: float = 0.0  # Unix time at which the first of them began
    end: str = ""  # cancelled | expired: nothing comes after it

    @property
    def done(self) -> int:
        """Pictures with a row."""
        return self.ok + self.failed


@dataclass(frozen=True)
class JobProgress:
    """What people ask about a job."""

    totals: JobTotals
    status: str  # queued | in_progress | completed | cancelled | expired | failed
    started_at: float | None  # Unix time at which a runner began
    ended_at: float | None
    images_per_s: float | None
    eta_s: float | None


@dataclass
class JobState:
    """The table of one job; not for several threads at once."""

    jobs: JobStore
    job: BulkJob
    done: set[str] = field(default_factory=set)  # shards, as of version `seen`
    totals: JobTotals = field(default_factory=JobTotals)
    seen: int = 0
    seen_at: float = 0.0  # Unix time of that version

    def __post_init__(self) -> None:
        """Name the table; nothing is read yet. A runner begins to draw now."""
        self.began = time.time()
        self.table = Table(self.jobs.home(self.job.id), ITEMS)

    def refresh(self) -> None:
        """See what others committed since."""
        if self.table.version >= 0:
            self.table.update()
        self._catch_up()

    @property
    def ended(self) -> bool:
        """Whether nothing is left to draw, as far as is known."""
        return bool(self.totals.end) or self.totals.done >= self.job.num_pictures

    def commit(self, shards: Mapping[str, Sequence[ItemRow]], end: str = "") -> bool:
        """Add the rows of finished shards, in one file and version; with `end`, nothing can be added after it.

        Another runner may have added some of them meanwhile: then its rows stay, and ours are dropped.

        Returns:
            Whether anything was added, or ended.
        """
        written = dict[tuple[str, ...], DataFile]()
        planned: tuple[tuple[str, ...], JobTotals] = (), self.totals

        def plan() -> LogEntry | None:
            nonlocal planned
            self._catch_up()
            new = tuple(shard for shard in sorted(shards) if shard not in self.done)
            if self.ended or not (new or end):
                return None
            rows = [row for shard in new for row in shards[shard]]
            if new and new not in written:
                written[new] = self.table.write_file(pa.Table.from_pylist(rows, ITEMS.schema))
            planned = new, self._sum(_count(rows), end)
            metadata = {"totals": json.dumps(asdict(planned[1]))}
            return LogEntry([written[new]] if new else [], (), dict.fromkeys(new, True), metadata)

        if (version := commit_entry(self.table, plan)) is None:
            return False
        self.seen, self.totals, self.seen_at = version, planned[1], time.time()
        self.done.update(planned[0])
        return True

    def cancel(self) -> int:
        """End the job here; returns how many pictures will not be drawn (0 if it had ended before)."""
        if self.table.version > 0:  # the newest entry tells all that matters here
            self.seen = self.table.version
            self.totals, self.seen_at = _totals_of(read_entry(self.table, self.seen))
        return self.job.num_pictures - self.totals.done if self.commit({}, "cancelled") else 0

    def progress(self) -> JobProgress:
        """Counts, rate and end, from the newest entry and one before it."""
        if self.job.errors:
            return JobProgress(JobTotals(), "failed", None, self.job.created_at, None, None)
        self.table.refresh()
        version = self.table.version
        if version < 1:
            return JobProgress(JobTotals(), "queued", None, None, None, None)
        totals, at = _totals_of(read_entry(self.table, version))
        started_at = totals.started_at or None
        status = totals.end or ("completed" if totals.done >= self.job.num_pictures else "in_progress")
        if status != "in_progress":
            return JobProgress(totals, status, started_at, at, None, 0)
        rate = self._rate(version, totals, at)
        eta_s = (self.job.num_pictures - totals.done) / rate if rate else None
        return JobProgress(totals, status, started_at, None, rate, eta_s)

    def _rate(self, version: int, totals: JobTotals, at: float) -> float | None:
        """Pictures per second of the last commits; what passes without one counts if it is long."""
        before = JobTotals()
        if version > 1:
            before, _ = _totals_of(read_entry(self.table, max(1, version - RATE_COMMITS)))
        silent_s = time.time() - at
        seconds = totals.drawn_s - before.drawn_s + (silent_s if silent_s > STALE_S else 0.0)
        return (totals.done - before.done) / seconds if seconds > 0 else None

    def _sum(self, new: JobTotals, end: str) -> JobTotals:
        """The totals once `new` is added."""
        before, now = self.totals, time.time()
        counts = {name: getattr(before, name) + getattr(new, name) for name in COUNTS}
        drawn_s = before.drawn_s + max(0.0, now - max(self.seen_at, self.began)) * bool(new.done)
        started_at = before.started_at or (self.began if new.done else 0.0)
        return JobTotals(**counts, errors=(*before.errors, *new.errors)[:SHOWN_ERRORS], drawn_s=drawn_s,
                      started_at=started_at, end=end)  # fmt: skip

    def _catch_up(self) -> None:
        """Read the entries up to the table's version."""
        for version, actions in log_entries(self.table, self.seen + 1):
            self.done.update(action["txn"]["appId"] for action in actions if "txn" in action)
            self.totals, self.seen_at = _totals_of(actions)
            self.seen = version


def _count(rows: Iterable[ItemRow]) -> JobTotals:
    by_line: dict[str, bool] = {}
    errors = list[dict[str, Any]]()
    counts = Counter[str]()
    for row in rows:
        counts[row["status"]] += 1
        by_line[row["custom_id"]] = by_line.get(row["custom_id"], True) and row["status"] == "ok"
        if row["status"] != "ok":
            errors.append({name: row[name] for name in ("custom_id", "number", "reason")})
    good = sum(by_line.values())
    return JobTotals(counts["ok"], counts["failed"], good, len(by_line) - good, tuple(errors[:SHOWN_ERRORS]))


def _totals_of(actions: Sequence[Action]) -> tuple[JobTotals, float]:
    """The totals and the Unix time of an entry."""
    info = next(action["commitInfo"] for action in actions if "commitInfo" in action)
    values = json.loads(info["totals"])
    return JobTotals(**{**values, "errors": tuple(values["errors"])}), info["timestamp"] / 1000
