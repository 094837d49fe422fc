"""Draws all bulk jobs of a store. It keeps nothing: killed at any point, the next one goes on from the commits.

Two runners over one store draw some pictures twice, but no row is ever committed twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.sets.jobs import Jobs
from emoji_ldm.serve.sets.painter import Painter
from emoji_ldm.serve.sets.window import Window
from emoji_ldm.serve.sets.work import Work
from emoji_ldm.store import Store

ABANDONED_S = 3600.0  # a creation takes seconds
PAUSE_S = 10.0  # after a failure of one job
MAX_JOBS = 32  # drawn at once: each holds some finished pictures in memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stats:
    """Counters since the start, and gauges."""

    jobs: int  # being drawn
    in_flight: int  # pictures asked for
    window: float  # that may be
    drawn: int
    refusals: int  # the pools were full
    failures: int  # other tries without a picture


class Runner:
    """Bulk jobs of a store, drawn by a backend; jobs take turns picture by picture."""

    def __init__(self, store: Store, backend: Backend, *, max_in_flight: int = 128, poll_s: float = 1.0) -> None:
        """Share out at most `max_in_flight` pictures; look for new and cancelled jobs every `poll_s` seconds."""
        self.jobs, self.poll_s = Jobs(store), poll_s
        self.window = Window(max_in_flight)
        self.painter = Painter(backend, self.window)
        self._works: dict[str, asyncio.Task[None]] = {}

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until cancelled, or, with `until_idle`, until no job is open."""
        try:
            while True:
                await self._look()
                if until_idle and not self._works:
                    return
                await asyncio.sleep(self.poll_s)
        finally:
            for work in self._works.values():
                work.cancel()
            await asyncio.gather(*self._works.values(), return_exceptions=True)

    def stats(self) -> Stats:
        """For metrics."""
        return Stats(len(self._works), self.window.inside, self.window.limit, self.window.taken_total,
                     self.window.refusals, self.painter.failures)  # fmt: skip

    async def _look(self) -> None:
        """Begin what is new, forget what is done."""
        self._works = {job_id: work for job_id, work in self._works.items() if not work.done()}
        try:
            ids = await asyncio.to_thread(self.jobs.open)
        except EmojiLdmError as error:
            log.warning("bulk jobs cannot be listed: %s", error)
            return
        waiting = [job_id for job_id in ids if job_id not in self._works]
        while waiting and len(self._works) < MAX_JOBS:
            at_work = Counter(map(_owner, self._works))
            job_id = min(waiting, key=lambda name: (at_work[_owner(name)], name))
            waiting.remove(job_id)
            self._works[job_id] = asyncio.create_task(self._work(job_id))

    async def _work(self, job_id: str) -> None:
        """One job until its end; a failure of the store, say, is tried again later and leaves other jobs alone."""
        try:
            job = await asyncio.to_thread(self.jobs.find, job_id)
            if job is None:
                await asyncio.to_thread(self.jobs.clear_abandoned, job_id, ABANDONED_S)
                return
            await Work(self.jobs, job, self.painter, self.poll_s).run()
            await asyncio.to_thread(self.jobs.close, job_id)
        except Exception as error:
            if not await self._swept(job_id):
                log.warning("bulk job %s stops for %.0f s: %s", job_id, PAUSE_S, error, exc_info=error)
                await asyncio.sleep(PAUSE_S)
        else:
            await self._swept(job_id)

    async def _swept(self, job_id: str) -> bool:
        """Whether the job was deleted meanwhile; then what came late goes too."""
        try:
            gone = await asyncio.to_thread(self.jobs.find, job_id) is None
            if gone:
                await asyncio.to_thread(self.jobs.delete, job_id)
        except EmojiLdmError:
            return False
        return gone


def _owner(job_id: str) -> str:
    """What ids of one owner have in common."""
    return job_id.partition("_")[2][:8]
