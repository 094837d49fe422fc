"""URL -> bytes, within all limits: one deadline for everything, a size cap, at most two retries."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from dataclasses import dataclass

import aiohttp

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.http_session import (
    MAX_REDIRECTS,
    NETWORK_ERRORS,
    ContentDecoder,
    open_session,
    redirect_target,
    retry_after,
)
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.crawl.politeness.robots import robots_tag_opt_outs
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.outcomes import Outcome, Rejected

NUM_RETRIES = 2
BACKOFF_S = 0.5  # before the first retry at most; doubles
GONE_STATUSES = (404, 410)
PERMANENT_ERRORS = (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL, ssl.SSLError)


@dataclass(frozen=True)
class FetchedBody:
    """A whole body, or with `not_modified` the word that it is as it was."""

    body: bytes
    http_status: int
    media_type: str
    etag: str = ""
    last_modified: str = ""
    not_modified: bool = False
    url: str = ""  # where it was found, redirects followed


class RetryableRejection(Rejected):
    """A refusal that another try may turn; `pause_s` is what the server asks for before."""

    pause_s = 0.0


@dataclass
class TimeBudget:
    """Seconds that are left for one URL. Waiting for our own politeness costs nothing."""

    left_s: float

    def spend(self, began: float) -> None:
        self.left_s -= time.monotonic() - began


class HttpFetcher:
    """Downloads over kept-alive connections; use it inside one event loop."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        """Nothing is requested yet; ConfigError if `crawl.allow_private` is wrong."""
        self.config, self.gate, self.addresses = config, gate, SsrfGuard(config)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, *, etag: str = "", last_modified: str = "") -> FetchedBody:
        """The body of a URL, or that it has not changed since an answer with these validators.

        Raises:
            Refused: There is none; says how the URL ended. The gate and addresses are asked before each request.
            CrawlError: The gate has ended.
        """
        known = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        known = {name: value for name, value in known.items() if value and value.isprintable()}
        budget = TimeBudget(self.config.fetch_timeout_s)
        for number in range(NUM_RETRIES):
            try:
                return await self._follow(url, known, budget)
            except RetryableRejection as refused:
                # Full jitter, so that workers which failed together do not come back together.
                pause_s = max(random.uniform(0, BACKOFF_S * 2**number), refused.pause_s)
                if pause_s >= budget.left_s:
                    raise
                budget.left_s -= pause_s
                await asyncio.sleep(pause_s)
        return await self._follow(url, known, budget)

    async def close(self) -> None:
        """Close all connections; the gate stays open."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.addresses.close()

    async def _follow(self, url: str, known: dict[str, str], budget: TimeBudget) -> FetchedBody:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._visit(url, known, budget)
            if isinstance(answer, FetchedBody):
                return answer
            url = answer
        raise Rejected(Outcome.HTTP_ERROR, f"more than {MAX_REDIRECTS} redirects")

    async def _visit(self, url: str, known: dict[str, str], budget: TimeBudget) -> FetchedBody | str:
        """One request, with the gate's permit and within what is left of the budget."""
        permit = await self.gate.enter(url)
        status, pause_s, began = None, 0.0, time.monotonic()
        try:
            async with asyncio.timeout(max(budget.left_s, 0)):
                answer = await self._request(url, known)
                status = answer.http_status if isinstance(answer, FetchedBody) else 302
                return answer
        except TimeoutError:
            raise Rejected(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
        except Rejected as refused:
            status, pause_s = refused.http_status, getattr(refused, "pause_s", 0.0)
            raise
        except PERMANENT_ERRORS as error:
            raise Rejected(Outcome.UNREACHABLE, _describe_error(error)) from None
        except NETWORK_ERRORS as error:
            raise RetryableRejection(Outcome.UNREACHABLE, _describe_error(error)) from None
        finally:
            budget.spend(began)
            await self.gate.leave(permit, status=status, retry_after_s=pause_s)

    async def _request(self, url: str, known: dict[str, str]) -> FetchedBody | str:
        """One answer: a body, or the address that it redirects to."""
        self._session = self._session or open_session(self.config, self.addresses)
        parsed = parse_url(url)
        self.addresses.check(parsed)
        async with self._session.get(parsed, allow_redirects=False, headers=known or None) as response:
            status, headers = response.status, response.headers
            if (following := redirect_target(url, response)) is not None:
                return following
            if status != 200 and not (status == 304 and known):
                raise _bad_status(response)
            if "X-Robots-Tag" in headers:
                self._check_opt_outs(response)
            body = await self._read(response) if status == 200 else b""
            return FetchedBody(body, status, headers.get("Content-Type", ""), headers.get("ETag", ""),
                            headers.get("Last-Modified", ""), status == 304, url)  # fmt: skip

    def _check_opt_outs(self, response: aiohttp.ClientResponse) -> None:
        if opted_out := robots_tag_opt_outs(response.headers.getall("X-Robots-Tag"), self.config.user_agent):
            raise Rejected(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(opted_out)}", response.status)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, given up as soon as it is, or says it is, too large."""
        limit, promised = self.config.max_bytes, response.content_length or 0
        if promised > limit:
            raise Rejected(Outcome.TOO_LARGE, f"{promised} bytes; crawl.max_bytes is {limit}", response.status)
        unpacker, parts, size = ContentDecoder(response.headers.get("Content-Encoding", "")), list[bytes](), 0
        while chunk := await response.content.readany():
            parts.append(unpacker.unpack(chunk, limit + 1 - size))
            size += len(parts[-1])
            if size > limit:
                raise Rejected(Outcome.TOO_LARGE, f"more than {limit} bytes (crawl.max_bytes)", response.status)
        unpacker.finish()
        return b"".join(parts)


def _bad_status(response: aiohttp.ClientResponse) -> Rejected:
    status = response.status
    reason = f"HTTP {status} {response.reason or ''}".rstrip()[:200]
    if status in GONE_STATUSES:
        return Rejected(Outcome.DEAD, reason, status)
    if status != 429 and status < 500:
        return Rejected(Outcome.HTTP_ERROR, reason, status)
    refused = RetryableRejection(Outcome.HTTP_ERROR, reason, status)
    refused.pause_s = retry_after(response.headers)
    return refused


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
