"""In which order a worker asks for the URLs of a shard."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence


class Spread:
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
