"""Fetching of robots.txt: the rules and the request interval of an origin, cached for a day.

What a missing file means follows RFC 9309, section 2.3.1: "unavailable" (4xx) allows every URL, while "unreachable"
(5xx, no connection) forbids every URL, since a site in trouble may have rules that cannot be read now.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_incrementing,
)

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.http_session import (
    MAX_REDIRECTS,
    NETWORK_ERRORS,
    ContentDecoder,
    open_session,
    redirect_target,
)
from emoji_ldm.crawl.politeness.robots import RobotsTxt, parse_robots
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.outcomes import Outcome, Rejected

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, section 2.5: at least this much must be parsed
ROBOTS_TTL_S = 24 * 3600.0  # RFC 9309, section 2.4
FAILED_ROBOTS_TTL_S = 300.0  # a host that was down is asked again sooner
MAX_CRAWL_DELAY_S = 120.0  # with a longer one a crawl would not end; the site is not crawled
NUM_TRIES, BACKOFF_S = 3, 0.25


@dataclass(frozen=True)
class OriginRules:
    """What applies to all URLs of an origin."""

    robots: RobotsTxt = field(default_factory=RobotsTxt)
    min_interval_s: float = 0.0  # between two requests; 0 allows several at once
    rejection: tuple[Outcome, str] | None = None  # why no URL may be requested
    ttl_s: float = ROBOTS_TTL_S

    def check(self, url: str) -> None:
        """Raise Rejected if this URL must not be requested."""
        if self.rejection is not None:
            raise Rejected(*self.rejection)
        if reason := self.robots.disallow_reason(url):
            raise Rejected(Outcome.ROBOTS, reason)


class RobotsFetcher:
    """Fetches robots.txt files; each instance belongs to one event loop."""

    def __init__(self, config: CrawlConfig) -> None:
        """Open no connection yet; ConfigError if `crawl.allow_private` is invalid."""
        self.config, self.guard = config, SsrfGuard(config)
        self._session: aiohttp.ClientSession | None = None

    async def read(self, origin: str) -> OriginRules:
        """Return the rules of an origin; whatever goes wrong is a rule that forbids every URL."""
        try:
            # One deadline for all attempts: a server that drips must not hold up the crawl three times.
            async with asyncio.timeout(self.config.fetch_timeout_s):
                status, text = await self._fetch_with_retries(f"{origin}/robots.txt")
        except Rejected as error:
            return OriginRules(rejection=(error.outcome, f"robots.txt: {error.reason}"), ttl_s=FAILED_ROBOTS_TTL_S)
        except TimeoutError:
            return _deny_all(f"was not whole within {self.config.fetch_timeout_s:g} s")
        except NETWORK_ERRORS as error:
            return _deny_all(f"cannot be read ({str(error) or type(error).__name__})")
        if status >= 500 or status == 429:
            return _deny_all(f"answers {status}")
        # Any other status below 500 means that there is no robots.txt, so everything is allowed.
        robots = parse_robots(text, self.config.user_agent) if status < 300 else RobotsTxt()
        if robots.crawl_delay_s > MAX_CRAWL_DELAY_S:
            reason = f"robots.txt: Crawl-delay of {robots.crawl_delay_s:g} s, too long"
            return OriginRules(rejection=(Outcome.ROBOTS, reason))
        return OriginRules(robots, max(self.config.min_request_interval_s, robots.crawl_delay_s))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.guard.close()

    async def _fetch_with_retries(self, url: str) -> tuple[int, str]:
        """Return status and text; the last of `NUM_TRIES` attempts decides."""
        # Redirects are followed inside an attempt. A 429 is not retried: the host asks to be left alone.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(NETWORK_ERRORS) | retry_if_result(lambda answer: answer[0] >= 500),
            wait=wait_incrementing(start=BACKOFF_S, increment=BACKOFF_S),
            stop=stop_after_attempt(NUM_TRIES),
            retry_error_callback=_last_result,
        )
        answer: tuple[int, str] = await retrying(self._fetch, url)
        return answer

    async def _fetch(self, url: str) -> tuple[int, str]:
        self._session = self._session or open_session(self.config, self.guard)
        for _ in range(MAX_REDIRECTS + 1):
            parsed = parse_url(url)
            self.guard.check(parsed)
            async with self._session.get(parsed, allow_redirects=False) as response:
                following = redirect_target(url, response)
                if following is None:
                    return response.status, await _read_text(response)
                url = following
        # RFC 9309, section 2.3.1.2: after five redirects the file may be taken for unavailable.
        return 404, ""


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """Return the first `MAX_ROBOTS_BYTES` of a body as text."""
    body, decoder = bytearray(), ContentDecoder(response.headers.get("Content-Encoding", ""))
    # A longer file is cut, as the RFC allows, so that an endless one ends.
    while len(body) < MAX_ROBOTS_BYTES and (chunk := await response.content.readany()):
        body += decoder.decode(chunk, MAX_ROBOTS_BYTES)
    return body[:MAX_ROBOTS_BYTES].decode("utf-8", errors="replace")


def _last_result(state: RetryCallState) -> tuple[int, str]:
    """Return the answer of the last attempt, or raise its error."""
    assert state.outcome is not None, "an attempt was made"
    answer: tuple[int, str] = state.outcome.result()
    return answer


def _deny_all(what: str) -> OriginRules:
    reason = f"robots.txt {what}, so nothing may be requested (RFC 9309, 2.3.1.4)"
    return OriginRules(rejection=(Outcome.UNREACHABLE, reason), ttl_s=FAILED_ROBOTS_TTL_S)
