"""What a worker asks the rate limiter for, and gets: permits for single requests, or leased slots of a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from emoji_ldm.crawl.politeness.robots import OriginRules

LEASE_S = 20.0  # a worker that does not renew its lease for so long is presumed dead
NO_ANSWER = 0  # the status of a request that was made and got no response


@dataclass(frozen=True)
class RequestPermit:
    """Permission for one request to one origin; it is returned when the request is over."""

    origin: str
    holder: str = ""  # the worker; "" if the caller has no lease
    number: int = 0  # 0 for a slot that the worker has leased


class RateLimiter(Protocol):
    """What a worker asks before each request, whichever other workers there are."""

    async def check(self, url: str) -> None:
        """Raise what `acquire` would raise if the URL may not be requested at all; no slot is waited for or taken."""
        ...

    async def acquire(self, url: str) -> RequestPermit:
        """Wait until the URL may be requested.

        Returns:
            A permit for this single request; following a redirect needs another one.

        Raises:
            Rejected: It may not be requested at all: ROBOTS, ADDRESS, UNREACHABLE (robots.txt cannot be read, which
                forbids every URL), or HTTP_ERROR while its host asks for a very long pause.
            CrawlError: The rate limiter itself has ended.
        """
        ...

    async def release(self, permit: RequestPermit, *, status: int | None = None, retry_after_s: float = 0.0) -> None:
        """Return a permit, once.

        Args:
            permit: From `acquire`.
            status: Of the response; NO_ANSWER if none came, None if nothing is known about the host.
            retry_after_s: Its Retry-After, in seconds.
        """
        ...

    async def rules(self, origin: str) -> OriginRules:
        """Return the rules of an origin, such as "https://example.org"; robots.txt is read once a day.

        Raises:
            CrawlError: The rate limiter itself has ended.
        """
        ...

    async def close(self) -> None:
        """Return everything and close all connections."""
        ...


@dataclass(frozen=True)
class SlotDemand:
    """What a worker reports about one origin."""

    held: int  # slots it holds
    wanted: int  # slots it has work for
    succeeded: bool = False  # whether good responses came since the last report


@dataclass(frozen=True)
class SlotGrant:
    """What a worker may do at one origin."""

    slots: int
    pause_s: float  # seconds until the next request may start
