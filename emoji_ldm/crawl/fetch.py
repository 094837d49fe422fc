"""URL -> bytes, within all limits: one deadline for everything, a size cap, at most one retry."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import httpx

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.polite import MAX_REDIRECTS, Politeness

BACKOFF_S = 0.5
GONE = (404, 410)
# Opt-outs that image data sets honour; `none` stands for noindex, nofollow.
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})


@dataclass(frozen=True)
class Download:
    """A whole body."""

    body: bytes
    http_status: int
    media_type: str


class MayHeal(Refused):
    """A refusal that another try may turn; `pause_s` is what the server asks for before."""

    pause_s = 0.0


@dataclass
class Budget:
    """Seconds that are left for one URL. Waiting for our own politeness costs nothing."""

    left_s: float

    def spend(self, began: float) -> None:
        self.left_s -= time.monotonic() - began


class Fetcher:
    """Downloads over kept-alive connections; use it inside one event loop."""

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested yet."""
        self.config, self.polite = config, Politeness(config)

    async def get(self, url: str) -> Download:
        """The body of a URL.

        Raises:
            Refused: There is none; says how the URL ended. Robots.txt and addresses are checked before each request.
        """
        budget = Budget(self.config.fetch_timeout_s)
        try:
            return await self._follow(url, budget)
        except MayHeal as refused:
            pause_s = max(BACKOFF_S, refused.pause_s)
            if pause_s >= budget.left_s:
                raise
            began = time.monotonic()
            await asyncio.sleep(pause_s)
            budget.spend(began)
        return await self._follow(url, budget)

    async def close(self) -> None:
        """Close all connections."""
        await self.polite.close()

    async def _follow(self, url: str, budget: Budget) -> Download:
        for _ in range(MAX_REDIRECTS + 1):
            await self.polite.may_request(url)
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(budget.left_s, 0)):
                    answer = await self._request(url)
            except TimeoutError:
                raise Refused(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                raise MayHeal(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}".removesuffix(": ")) from None
            finally:
                budget.spend(began)
            if isinstance(answer, Download):
                return answer
            url = answer
        raise Refused(Outcome.HTTP_ERROR, f"more than {MAX_REDIRECTS} redirects")

    async def _request(self, url: str) -> Download | str:
        """One answer: a body, or the address that it redirects to."""
        async with self.polite.client.stream("GET", url) as response:
            status = response.status_code
            if response.has_redirect_location:
                return urljoin(url, response.headers["location"])
            if status != 200:
                raise _bad_status(response)
            if opted_out := _opt_outs(response.headers) & OPT_OUTS:
                raise Refused(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(sorted(opted_out))}", status)
            return Download(await self._read(response), status, response.headers.get("content-type", ""))

    async def _read(self, response: httpx.Response) -> bytes:
        """The body, given up as soon as it is, or says it is, too large."""
        limit = self.config.max_bytes
        promised = response.headers.get("content-length", "0")
        if promised.isdecimal() and int(promised) > limit:
            raise Refused(Outcome.TOO_LARGE, f"{promised} bytes; crawl.max_bytes is {limit}", response.status_code)
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit:
                raise Refused(Outcome.TOO_LARGE, f"more than {limit} bytes (crawl.max_bytes)", response.status_code)
        return bytes(body)


def _bad_status(response: httpx.Response) -> Refused:
    status = response.status_code
    reason = f"HTTP {status} {response.reason_phrase}".rstrip()
    if status in GONE:
        return Refused(Outcome.DEAD, reason, status)
    if status != 429 and status < 500:
        return Refused(Outcome.HTTP_ERROR, reason, status)
    refused = MayHeal(Outcome.HTTP_ERROR, reason, status)
    refused.pause_s = _retry_after(response.headers.get("retry-after", ""))
    return refused


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 if it makes no sense."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def _opt_outs(headers: httpx.Headers) -> set[str]:
    """Directives of X-Robots-Tag headers, without the agents that they may be addressed to."""
    words = ",".join(headers.get_list("x-robots-tag")).split(",")
    return {word.rsplit(":", 1)[-1].strip().lower() for word in words}
