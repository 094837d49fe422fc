"""The runner: works on all open bulk jobs of a store.

It has no state of its own. A runner that is killed loses the shards in flight, and the next one goes on from what is
committed. Two runners over one store generate some images twice, but no row is committed twice (`job_state`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk.bulk_job import BulkJob
from emoji_ldm.serve.bulk.item_executor import ItemExecutor
from emoji_ldm.serve.bulk.job_executor import JobExecutor
from emoji_ldm.serve.bulk.job_store import READ_THREADS, JobStore
from emoji_ldm.store import Store

LOG = logging.getLogger(__name__)
ABANDONED_S = 3600.0  # a creation takes seconds, so one without a header after an hour has died
PAUSE_S = 10.0  # before a job that failed is tried again
MAX_JOBS = 32  # in progress at once: each holds finished images in memory


@dataclass(frozen=True)
# `ray_jobs.serving.service_metrics` exports each field under its name; dashboards depend on them.
class RunnerStats:
    """Counters since the start of the runner, and gauges. The field names are those of the exported metrics."""

    jobs: int  # in progress
    in_flight: int  # images
    window: float  # limit on `in_flight`, summed over the models
    drawn: int
    refusals: int  # answers that the queues are full
    failures: int  # other tries without an image


class JobRunner:
    """Generates the images of all open jobs with one backend; jobs take turns image by image."""

    def __init__(self, store: Store, backend: Backend, *, max_in_flight: int = 128, poll_s: float = 1.0) -> None:
        """Have at most `max_in_flight` images in flight per model; look for new jobs every `poll_s` seconds."""
        self.jobs, self.poll_s = JobStore(store), poll_s
        self.executor = ItemExecutor(backend, max_in_flight)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by job
        self._created_at: dict[str, float] = {}  # Unix times of the open jobs
        self._backoff_until: dict[str, float] = {}  # of jobs that failed, by the event loop's clock

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until cancelled or, with `until_idle`, until no job is open."""
        try:
            while True:
                await self._poll()
                # Jobs that wait for their next try are not idle, although no task runs.
                if until_idle and not self._tasks and not self._backoff_until:
                    return
                await asyncio.sleep(self.poll_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def stats(self) -> RunnerStats:
        """Return the figures for the metrics."""
        windows = self.executor.windows.values()
        return RunnerStats(len(self._tasks), sum(window.in_flight for window in windows),
                           sum(window.limit for window in windows), sum(window.num_successes for window in windows),
                           sum(window.num_overloads for window in windows), self.executor.num_failures)  # fmt: skip

    async def _poll(self) -> None:
        """Start jobs, as far as `MAX_JOBS` allows: first of the owners with the fewest, then the oldest."""
        now = asyncio.get_running_loop().time()
        self._tasks = {job_id: task for job_id, task in self._tasks.items() if not task.done()}
        self._backoff_until = {job_id: until for job_id, until in self._backoff_until.items() if until > now}
        try:
            self._created_at = await asyncio.to_thread(self._list_open)
        except EmojiLdmError as error:
            # The store may be unreachable for a while. Running jobs go on, and the next poll tries again.
            LOG.warning("bulk jobs cannot be listed: %s", error)
            return
        waiting = self._created_at.keys() - self._tasks.keys() - self._backoff_until.keys()
        while waiting and len(self._tasks) < MAX_JOBS:
            # Counted anew for each job that is started, so that owners take turns.
            per_owner = Counter(map(_owner, self._tasks))
            job_id = min(waiting, key=lambda name: (per_owner[_owner(name)], self._created_at[name], name))
            waiting.remove(job_id)
            self._tasks[job_id] = asyncio.create_task(self._work(job_id))

    def _list_open(self) -> dict[str, float]:
        """Return the creation times of the open jobs; the markers of known jobs are not read again."""
        ids = self.jobs.open_jobs()
        with ThreadPoolExecutor(READ_THREADS) as pool:
            times = pool.map(lambda job_id: self._created_at.get(job_id) or self.jobs.created_at(job_id), ids)
            return dict(zip(ids, times, strict=True))

    async def _work(self, job_id: str) -> None:
        """Work on one job until it ends; if it fails, other jobs go on and this one is tried again later."""
        try:
            job = await asyncio.to_thread(self.jobs.find, job_id)
            if job is None:
                await asyncio.to_thread(self.jobs.clear_abandoned, job_id, ABANDONED_S)
            else:
                await self._execute(job)
        except Exception as error:
            # Whatever the error is, giving up would lose the user's job. Other jobs must not suffer from it either.
            LOG.warning("bulk job %s pauses for %.0f s: %s", job_id, PAUSE_S, error, exc_info=error)
            self._backoff_until[job_id] = asyncio.get_running_loop().time() + PAUSE_S

    async def _execute(self, job: BulkJob) -> None:
        """Execute a job. If it is deleted meanwhile, its files disappear under the executor, which is no error."""
        try:
            await JobExecutor(self.jobs, job, self.executor, self.poll_s).run()
        except Exception:
            if not await self._purge_if_deleted(job):
                raise
        else:
            # The marker goes after the last commit. A runner that dies in between finds the job complete and closes
            # it.
            await asyncio.to_thread(self.jobs.close, job.id)
            await self._purge_if_deleted(job)

    async def _purge_if_deleted(self, job: BulkJob) -> bool:
        """Return whether the job was deleted, and if so delete what was written since."""
        deleted = await asyncio.to_thread(self.jobs.find, job.id) is None
        if deleted:
            await asyncio.to_thread(self.jobs.delete, job)
        return deleted


def _owner(job_id: str) -> str:
    """Return the part of a job id that stands for its owner."""
    return job_id.partition("_")[2][:8]
