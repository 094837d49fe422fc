"""The one place that knows when a URL may be requested: politeness over all workers of a crawl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Permit:
    """Leave for one request to one host; it is handed back when the request is over."""

    origin: str
    holder: str = ""
    number: int = 0


class Gate(Protocol):
    """What a worker asks before each request, whoever else crawls beside it."""

    async def enter(self, url: str) -> Permit:
        """Return when the URL may be requested, as a permit for this one request (a redirect needs its own).

        Raises:
            Refused: It may not be at all: ROBOTS, ADDRESS, or HTTP_ERROR while its host wants a very long pause.
            CrawlError: The gate itself has ended.
        """
        ...

    async def leave(self, permit: Permit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """Hand a permit back, once, with the answer's status (None: no answer) and its Retry-After in seconds."""
        ...

    async def close(self) -> None:
        """Give everything back and close all connections."""
        ...
