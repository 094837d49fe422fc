"""Execution of one bulk job: images are sent out in order, and finished shards are committed as they come.

    _dispatch  one task: reads shards, waits for slots, starts a task per image and one per shard
    _finish    one task per shard: waits for its images and puts their rows into a queue
    run        collects all shards that are in the queue and commits them as one version

While a commit is under way, further shards finish; the next commit takes all of them. A slow store therefore makes
commits larger, not the job slower.
"""

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
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobShard
from emoji_ldm.serve.bulk.item_executor import AimdWindow, ItemExecutor
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow, unstorable_row
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore

LOG = logging.getLogger(__name__)
# A finished image waits in memory until its shard is complete and committed. Without a limit, a stalled store would
# fill the memory with images.
OPEN_SHARDS = 128  # dispatched but not committed yet: bounds the images in memory
ResultT = TypeVar("ResultT")


class JobExecutor:
    """One job that a runner works on."""

    def __init__(self, jobs: JobStore, job: BulkJob, executor: ItemExecutor, poll_s: float) -> None:
        self.jobs, self.job, self.executor, self.poll_s = jobs, job, executor, poll_s
        self.state = JobState(jobs, job)
        self._open_shards = asyncio.Semaphore(OPEN_SHARDS)
        self._finished: asyncio.Queue[tuple[str, list[ItemRow]]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Work until every image has a row, or the job is cancelled or expires."""
        await asyncio.to_thread(self.state.refresh)
        if self.state.ended:
            return
        # A task of its own, so that waiting for slots never delays a commit.
        self._start(self._dispatch(await self.executor.backend.models()))
        try:
            while not self.state.ended:
                await self._commit(await self._collect())
                self._raise_failures()
        finally:
            # Images that are in flight when the job ends are cancelled in the backend, which frees their places
            # there.
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _dispatch(self, models: Mapping[str, RequestLimits]) -> None:
        """Start the images of all shards that are not committed."""
        async for shard in self._shards():
            if shard.name in self.state.committed_shards:
                continue
            # Acquired before the images start, and released after the commit: see OPEN_SHARDS.
            await self._open_shards.acquire()
            rows = list[asyncio.Task[ItemRow]]()
            for item in shard.items:
                window = self.executor.windows[item.line.model]
                await window.acquire(self.job.owner, self.job.priority)
                rows.append(self._start(self.executor.execute(self.job, item, models)))
                # The slot is returned by a callback and not in `execute`, which does not run at all if it is
                # cancelled before its first step.
                rows[-1].add_done_callback(partial(_release_slot, window))
            self._start(self._finish(shard, rows))

    async def _finish(self, shard: JobShard, rows: list[asyncio.Task[ItemRow]]) -> None:
        self._finished.put_nowait((shard.name, await asyncio.gather(*rows)))

    async def _collect(self) -> dict[str, list[ItemRow]]:
        """Return all finished shards; waits up to `poll_s` for the first."""
        shards = dict[str, list[ItemRow]]()
        with suppress(TimeoutError):
            # The timeout makes the executor look at the job now and then, even if no shard ever finishes.
            name, rows = await asyncio.wait_for(self._finished.get(), self.poll_s)
            shards[name] = rows
        while not self._finished.empty():
            name, rows = self._finished.get_nowait()
            shards[name] = rows
        return shards

    async def _commit(self, shards: dict[str, list[ItemRow]]) -> None:
        if shards:
            await self._commit_or_fail(shards)
            for _ in shards:
                self._open_shards.release()
        else:
            await asyncio.to_thread(
                self.state.refresh
            )  # the job may have been cancelled, or another runner may work on it
        # Checked after the commit, so that what was finished in time is kept.
        if time.time() > self.job.expires_at and not self.state.ended:
            await asyncio.to_thread(self.state.commit, {}, "expired")

    async def _commit_or_fail(self, shards: Mapping[str, list[ItemRow]]) -> None:
        """Commit shards; a shard that Parquet cannot hold is committed as failed, the others as they are.

        Errors of the store pass by themselves and are raised. Any other error lies in the rows. It would occur again
        whenever the shard is generated anew, and the job would never end; so the shard is isolated by committing each
        one by itself.
        """
        try:
            await asyncio.to_thread(self.state.commit, shards)
        except (EmojiLdmError, OSError):
            raise
        except Exception as error:
            if len(shards) > 1:
                for name, rows in shards.items():
                    await self._commit_or_fail({name: rows})
                return
            LOG.error("bulk job %s: shard %s cannot be stored", self.job.id, *shards, exc_info=error)
            reason = f"{RETRIES_EXHAUSTED}: the image cannot be stored ({type(error).__name__})"
            failed = {name: [unstorable_row(row, reason) for row in rows] for name, rows in shards.items()}
            await asyncio.to_thread(self.state.commit, failed)

    async def _shards(self) -> AsyncIterator[JobShard]:
        shards = self.jobs.shards(self.job)
        # The generator reads the store, so each step runs in a thread. The default None marks its end: StopIteration
        # cannot be raised into a coroutine.
        while (shard := await asyncio.to_thread(next, shards, None)) is not None:
            yield shard

    def _start(self, work: Coroutine[None, None, ResultT]) -> asyncio.Task[ResultT]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    def _raise_failures(self) -> None:
        """Raise the error of a task that failed; forget the tasks that ended."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()


def _release_slot(window: AimdWindow, _: asyncio.Task[ItemRow]) -> None:
    """Return the slot of an image; as a callback it also runs for a task that was cancelled before it began."""
    window.release()
