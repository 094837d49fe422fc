"""In which order a worker asks for the URLs of a shard.

A thread beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar


class HostScheduler:
    """Numbers of URLs, hosts in turn: at most `per_host` of one at once, so that a slow host holds up no other."""

    def __init__(self, urls: Sequence[str], per_host: int) -> None:
        self.hosts = [url.split("/", 3)[2] if url.count("/") > 1 else "" for url in urls]
        self.per_host, self.active = per_host, Counter[str]()
        self.waiting: dict[str, deque[int]] = {}
        for number, host in enumerate(self.hosts):
            self.waiting.setdefault(host, deque()).append(number)
        self.freed = asyncio.Event()

    async def take(self) -> int | None:
        """The next URL that may be begun; None if none is left."""
        while self.waiting:
            for host in self.waiting:
                if self.active[host] < self.per_host:
                    return self._pop(host)
            self.freed.clear()
            await self.freed.wait()
        return None

    def done(self, number: int) -> None:
        """A URL has ended."""
        self.active[self.hosts[number]] -= 1
        self.freed.set()

    def _pop(self, host: str) -> int:
        numbers = self.waiting.pop(host)
        number = numbers.popleft()
        if numbers:
            self.waiting[host] = numbers  # at the end, so that hosts take turns
        self.active[host] += 1
        return number


T = TypeVar("T")


class BatchExecutor:
    """Does slow calls without holding up the event loop, so that its deadlines hold.

    The thread takes all that waits at once and gives it back at once: a loop that is woken for each picture fights with
    the thread for the interpreter, which cost a sixth of all CPU time.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "clean")
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.task: asyncio.Task[None] | None = None

    async def do(self, act: Callable[[], T]) -> T:
        """What `act` gives, done in the thread."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((act, future))
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._work())
        result: T = await future
        return result

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            batch, self.waiting = self.waiting, []
            results = await loop.run_in_executor(
                self.thread, lambda acts: [_try(a) for a in acts], [a for a, _ in batch]
            )
            for (_, future), (result, error) in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result) if error is None else future.set_exception(error)


def _try(act: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return act(), None
    except Exception as error:  # noqa: BLE001 - it goes to whoever waits for the result
        return None, error
