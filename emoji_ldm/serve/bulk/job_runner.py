"""Draws all bulk jobs of a store. It keeps nothing: killed at any point, the next one goes on from the commits.

Two runners over one store draw some pictures twice, but no row is ever committed twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.bulk.item_executor import ItemExecutor
from emoji_ldm.serve.bulk.job_executor import JobExecutor
from emoji_ldm.serve.bulk.job_store import READ_THREADS, BulkJob, JobStore
from emoji_ldm.store import Store

ABANDONED_S = 3600.0  # a creation takes seconds
PAUSE_S = 10.0  # after a failure of one job
MAX_JOBS = 32  # drawn at once: each holds some finished pictures in memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerStats:
    """Counters since the start, and gauges."""

    jobs: int  # being drawn
    in_flight: int  # pictures asked for
    window: float  # that may be, of all models
    drawn: int
    refusals: int  # the pools were full
    failures: int  # other tries without a picture


class JobRunner:
    """Bulk jobs of a store, drawn by a backend; jobs take turns picture by picture."""

    def __init__(self, store: Store, backend: Backend, *, max_in_flight: int = 128, poll_s: float = 1.0) -> None:
        """Ask each model for at most `max_in_flight` pictures; look for new and cancelled jobs every `poll_s` s."""
        self.jobs, self.poll_s = JobStore(store), poll_s
        self.painter = ItemExecutor(backend, max_in_flight)
        self._works: dict[str, asyncio.Task[None]] = {}
        self._began: dict[str, float] = {}  # Unix time of the creation of open jobs
        self._resting: dict[str, float] = {}  # jobs that failed, until this time of the loop's clock

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until cancelled, or, with `until_idle`, until no job is open."""
        try:
            while True:
                await self._look()
                if until_idle and not self._works and not self._resting:
                    return
                await asyncio.sleep(self.poll_s)
        finally:
            for work in self._works.values():
                work.cancel()
            await asyncio.gather(*self._works.values(), return_exceptions=True)

    def stats(self) -> RunnerStats:
        """For metrics."""
        windows = self.painter.windows.values()
        return RunnerStats(len(self._works), sum(window.inside for window in windows),
                     sum(window.limit for window in windows), sum(window.taken_total for window in windows),
                     sum(window.refusals for window in windows), self.painter.failures)  # fmt: skip

    async def _look(self) -> None:
        """Begin what is new, forget what is done."""
        now = asyncio.get_running_loop().time()
        self._works = {job_id: work for job_id, work in self._works.items() if not work.done()}
        self._resting = {job_id: until for job_id, until in self._resting.items() if until > now}
        try:
            self._began = await asyncio.to_thread(self._open)
        except EmojiLdmError as error:
            log.warning("bulk jobs cannot be listed: %s", error)
            return
        waiting = self._began.keys() - self._works.keys() - self._resting.keys()
        while waiting and len(self._works) < MAX_JOBS:
            at_work = Counter(map(_owner, self._works))
            job_id = min(waiting, key=lambda name: (at_work[_owner(name)], self._began[name], name))
            waiting.remove(job_id)
            self._works[job_id] = asyncio.create_task(self._work(job_id))

    def _open(self) -> dict[str, float]:
        """{open job: when it began}; only of new ones the store is asked."""
        ids = self.jobs.open()
        with ThreadPoolExecutor(READ_THREADS) as pool:
            began = pool.map(lambda job_id: self._began.get(job_id) or self.jobs.began(job_id), ids)
            return dict(zip(ids, began, strict=True))

    async def _work(self, job_id: str) -> None:
        """One job until its end; a failure of the store, say, is tried again later and leaves other jobs alone."""
        try:
            job = await asyncio.to_thread(self.jobs.find, job_id)
            if job is None:
                await asyncio.to_thread(self.jobs.clear_abandoned, job_id, ABANDONED_S)
            else:
                await self._draw(job)
        except Exception as error:
            log.warning("bulk job %s stops for %.0f s: %s", job_id, PAUSE_S, error, exc_info=error)
            self._resting[job_id] = asyncio.get_running_loop().time() + PAUSE_S

    async def _draw(self, job: BulkJob) -> None:
        """Draw a job. If it is deleted meanwhile, what comes late goes too."""
        try:
            await JobExecutor(self.jobs, job, self.painter, self.poll_s).run()
        except Exception:
            if not await self._swept(job):
                raise
        else:
            await asyncio.to_thread(self.jobs.close, job.id)
            await self._swept(job)

    async def _swept(self, job: BulkJob) -> bool:
        """Whether the job was deleted, and is now with all that was written since."""
        gone = await asyncio.to_thread(self.jobs.find, job.id) is None
        if gone:
            await asyncio.to_thread(self.jobs.delete, job)
        return gone


def _owner(job_id: str) -> str:
    """What ids of one owner have in common."""
    return job_id.partition("_")[2][:8]
