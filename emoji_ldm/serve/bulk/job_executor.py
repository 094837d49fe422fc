"""One job being drawn: pictures go out in order, finished shards are committed as quickly as the store takes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.bulk.item_executor import AimdWindow, ItemExecutor
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow, unstorable_row
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore
from emoji_ldm.serve.bulk.shards import JobShard

ResultT = TypeVar("ResultT")
OPEN_SHARDS = 128  # drawn, being drawn or being written, not committed yet: bounds the memory

log = logging.getLogger(__name__)


class JobExecutor:
    """A job that a runner works on."""

    def __init__(self, jobs: JobStore, job: BulkJob, painter: ItemExecutor, poll_s: float) -> None:
        """Name the job; nothing happens yet."""
        self.jobs, self.job, self.painter, self.poll_s = jobs, job, painter, poll_s
        self.results = JobState(jobs, job)
        self._room = asyncio.Semaphore(OPEN_SHARDS)
        self._finished: asyncio.Queue[tuple[str, list[ItemRow]]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Draw until nothing is left, or the job ends otherwise."""
        await asyncio.to_thread(self.results.refresh)
        if self.results.ended:
            return
        self._start(self._feed(await self.painter.backend.models()))
        try:
            while not self.results.ended:
                await self._commit(await self._gathered())
                self._raise_failures()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _feed(self, models: Mapping[str, RequestLimits]) -> None:
        """Send out the pictures of all shards that are not done."""
        async for shard in self._shards():
            if shard.name in self.results.done:
                continue
            await self._room.acquire()
            rows = list[asyncio.Task[ItemRow]]()
            for picture in shard.pictures:
                window = self.painter.windows[picture.line.model]
                await window.enter()
                rows.append(self._start(self.painter.row(self.job, picture, models)))
                rows[-1].add_done_callback(partial(_release_slot, window))
            self._start(self._finish(shard, rows))

    async def _finish(self, shard: JobShard, rows: list[asyncio.Task[ItemRow]]) -> None:
        """Hand a shard on when its last picture is there."""
        self._finished.put_nowait((shard.name, await asyncio.gather(*rows)))

    async def _gathered(self) -> dict[str, list[ItemRow]]:
        """All shards that are finished by now; waits a while for the first."""
        shards = dict[str, list[ItemRow]]()
        with suppress(TimeoutError):
            name, rows = await asyncio.wait_for(self._finished.get(), self.poll_s)
            shards[name] = rows
        while not self._finished.empty():
            name, rows = self._finished.get_nowait()
            shards[name] = rows
        return shards

    async def _commit(self, shards: dict[str, list[ItemRow]]) -> None:
        if shards:
            await self._keep(shards)
            for _ in shards:
                self._room.release()
        else:
            await asyncio.to_thread(self.results.refresh)  # somebody may have cancelled it, or drawn some
        if time.time() > self.job.expires_at and not self.results.ended:
            await asyncio.to_thread(self.results.commit, {}, "expired")

    async def _keep(self, shards: Mapping[str, list[ItemRow]]) -> None:
        """Commit shards; one that no file can hold is kept as failed, with the reason, and the others as they are."""
        try:
            await asyncio.to_thread(self.results.commit, shards)
        except (EmojiLdmError, OSError):  # the store's trouble, which passes
            raise
        except Exception as error:  # the edge of one shard: else it would be drawn again for ever
            if len(shards) > 1:
                for name, rows in shards.items():
                    await self._keep({name: rows})
                return
            log.error("bulk job %s: shard %s cannot be kept", self.job.id, *shards, exc_info=error)
            reason = f"{RETRIES_EXHAUSTED}: the picture cannot be kept ({type(error).__name__})"
            kept = {name: [unstorable_row(row, reason) for row in rows] for name, rows in shards.items()}
            await asyncio.to_thread(self.results.commit, kept)

    async def _shards(self) -> AsyncIterator[JobShard]:
        shards = self.jobs.shards(self.job)
        while (shard := await asyncio.to_thread(next, shards, None)) is not None:
            yield shard

    def _start(self, work: Coroutine[None, None, ResultT]) -> asyncio.Task[ResultT]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    def _raise_failures(self) -> None:
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()


def _release_slot(window: AimdWindow, _: asyncio.Task[ItemRow]) -> None:
    """Give back the place of a picture, also of one that was cancelled before it began."""
    window.leave()
