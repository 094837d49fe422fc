"""Concurrency of a worker: the order in which URLs are requested, and slow work outside of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class HostScheduler:
    """Orders URLs so that hosts take turns, with at most `per_host` in progress, so that a slow host delays no other.

    URLs are identified by their index, since the same URL may occur more than once.
    """

    def __init__(self, urls: Sequence[str], per_host: int) -> None:
        self.hosts = [url.split("/", 3)[2] if url.count("/") > 1 else "" for url in urls]
        self.per_host, self.active = per_host, Counter[str]()
        self.waiting: dict[str, deque[int]] = {}
        for index, host in enumerate(self.hosts):
            self.waiting.setdefault(host, deque()).append(index)
        self.freed = asyncio.Event()

    async def next(self) -> int | None:
        """Wait for the next URL that may be started; None if there are no more."""
        while self.waiting:
            # The first host with a free place; a host that is served moves to the end, see `_pop`.
            for host in self.waiting:
                if self.active[host] < self.per_host:
                    return self._pop(host)
            # No await between the search and `clear`, so that no `finish` is missed in between.
            self.freed.clear()
            await self.freed.wait()
        return None

    def finish(self, index: int) -> None:
        """Record that a URL is finished."""
        self.active[self.hosts[index]] -= 1
        self.freed.set()

    def _pop(self, host: str) -> int:
        indices = self.waiting.pop(host)
        index = indices.popleft()
        # Dictionaries keep the order of insertion: added again, the host is the last one in turn.
        if indices:
            self.waiting[host] = indices
        self.active[host] += 1
        return index


class BatchExecutor:
    """Runs slow calls in one thread, so that the event loop stays responsive and its deadlines hold.

    The thread takes all waiting calls at once and returns their results at once. An event loop that is woken for each
    image competes with the thread for the interpreter lock, which cost a sixth of all CPU time.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "normalize")
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.task: asyncio.Task[None] | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of `call()`, or raise its exception."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((call, future))
        # The task ends when nothing waits, so there is nothing to cancel at the end.
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._drain())
        result: T = await future
        return result

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown()

    async def _drain(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        while self.waiting:
            # Calls that arrive while the thread works form the next batch.
            batch, self.waiting = self.waiting, []
            calls = [call for call, _ in batch]
            results = await loop.run_in_executor(self.thread, lambda calls: [_try(call) for call in calls], calls)
            for (_, future), (result, error) in zip(batch, results, strict=True):
                if not future.done():  # it was not cancelled meanwhile
                    future.set_result(result) if error is None else future.set_exception(error)


def _try(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - it is raised to whoever waits for the result
        return None, error
