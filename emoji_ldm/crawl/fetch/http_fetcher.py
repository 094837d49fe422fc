"""Fetching of one URL within all limits: one time budget for everything, a size cap, at most two retries."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.http_session import (
    MAX_REDIRECTS,
    NETWORK_ERRORS,
    ContentDecoder,
    SsrfGuard,
    open_session,
    redirect_target,
    retry_after,
)
from emoji_ldm.crawl.politeness.request_permits import NO_ANSWER, RateLimiter
from emoji_ldm.crawl.politeness.robots import robots_tag_opt_outs
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.outcomes import Outcome, Rejected

NUM_TRIES = 3
BACKOFF_S = 0.5  # longest pause before the first retry; it doubles
GONE_STATUSES = (404, 410)
PERMANENT_ERRORS = (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL, ssl.SSLError)

# Full jitter: workers that failed together do not retry together.
_backoff = wait_random_exponential(multiplier=BACKOFF_S)


@dataclass(frozen=True)
class FetchedBody:
    """A complete body or, with `not_modified`, the server's answer that it has not changed."""

    body: bytes
    http_status: int
    media_type: str
    etag: str = ""
    last_modified: str = ""
    not_modified: bool = False
    url: str = ""  # where it was found, redirects followed


class RetryableRejection(Rejected):
    """A rejection that a retry may turn; `pause_s` is the pause that the server asks for."""

    pause_s = 0.0


@dataclass
class TimeBudget:
    """Seconds left for one URL: requests and pauses before retries count, waiting for a permit does not."""

    left_s: float

    def spend(self, began: float) -> None:
        """Subtract the time since `began`, in monotonic seconds."""
        self.left_s -= time.monotonic() - began

    def spend_pause(self, state: RetryCallState) -> None:
        """Subtract the pause before the next attempt."""
        self.left_s -= state.upcoming_sleep


class HttpFetcher:
    """Fetches URLs over kept-alive connections; each instance belongs to one event loop."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Open no connection yet; ConfigError if `crawl.allow_private` is invalid."""
        self.config, self.rate_limiter, self.guard = config, rate_limiter, SsrfGuard(config)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, *, etag: str = "", last_modified: str = "") -> FetchedBody:
        """Fetch a URL. With the validators of an earlier response, the body is sent only if it has changed.

        Raises:
            Rejected: There is no body; says how the URL ended.
            CrawlError: The rate limiter has ended.
        """
        validators = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        # They were sent by a server: a control character inside could end the header and begin another one.
        validators = {name: value for name, value in validators.items() if value and value.isprintable()}
        # One budget for all attempts, so that a URL takes no longer than `crawl.fetch_timeout_s` of the network.
        budget = TimeBudget(self.config.fetch_timeout_s)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RetryableRejection),
            wait=_pause_s,
            stop=lambda state: state.attempt_number >= NUM_TRIES or state.upcoming_sleep >= budget.left_s,
            before_sleep=budget.spend_pause,
            reraise=True,
        )
        body: FetchedBody = await retrying(self._follow, url, validators, budget)
        return body

    async def close(self) -> None:
        """Close all connections; the rate limiter stays open."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.guard.close()

    async def _follow(self, url: str, validators: dict[str, str], budget: TimeBudget) -> FetchedBody:
        """Follow redirects; each one is a request of its own, with its own permit and address check."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._request_with_permit(url, validators, budget)
            if isinstance(answer, FetchedBody):
                return answer
            url = answer
        raise Rejected(Outcome.HTTP_ERROR, f"more than {MAX_REDIRECTS} redirects")

    async def _request_with_permit(self, url: str, validators: dict[str, str], budget: TimeBudget) -> FetchedBody | str:
        """Make one request with a permit, within what is left of the budget."""
        permit = await self.rate_limiter.acquire(url)
        status, pause_s, began = None, 0.0, time.monotonic()
        try:
            async with asyncio.timeout(max(budget.left_s, 0)):
                answer = await self._request(url, validators)
                # Any redirect counts as a success for the host, whichever of its codes it was.
                status = answer.http_status if isinstance(answer, FetchedBody) else 302
                return answer
        except TimeoutError:
            status = NO_ANSWER
            raise Rejected(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
        except Rejected as error:
            status, pause_s = error.http_status, getattr(error, "pause_s", 0.0)
            raise
        # Certificate errors are network errors too, so they must be caught first.
        except PERMANENT_ERRORS as error:
            raise Rejected(Outcome.UNREACHABLE, _describe_error(error)) from None
        except NETWORK_ERRORS as error:
            status = NO_ANSWER
            raise RetryableRejection(Outcome.UNREACHABLE, _describe_error(error)) from None
        finally:
            budget.spend(began)
            # Released with the status, from which the rate limiter learns whether the host is overloaded.
            await self.rate_limiter.release(permit, status=status, retry_after_s=pause_s)

    async def _request(self, url: str, validators: dict[str, str]) -> FetchedBody | str:
        """Make one request; returns a body, or the URL that it redirects to."""
        self._session = self._session or open_session(self.config, self.guard)
        parsed = parse_url(url)
        self.guard.check(parsed)
        async with self._session.get(parsed, allow_redirects=False, headers=validators or None) as response:
            status, headers = response.status, response.headers
            if (following := redirect_target(url, response)) is not None:
                return following
            # A 304 without validators is an error of the server: there is nothing it could refer to.
            if status != 200 and not (status == 304 and validators):
                raise _bad_status(response)
            # Checked before the body is read: what we may not use is not downloaded.
            if "X-Robots-Tag" in headers:
                self._check_opt_outs(response)
            body = await self._read(response) if status == 200 else b""
            return FetchedBody(body, status, headers.get("Content-Type", ""), headers.get("ETag", ""),
                            headers.get("Last-Modified", ""), status == 304, url)  # fmt: skip

    def _check_opt_outs(self, response: aiohttp.ClientResponse) -> None:
        if opt_outs := robots_tag_opt_outs(response.headers.getall("X-Robots-Tag"), self.config.user_agent):
            raise Rejected(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(opt_outs)}", response.status)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body, and give up as soon as it is too large, or announces that it will be."""
        limit, announced = self.config.max_bytes, response.content_length or 0
        if announced > limit:
            raise Rejected(Outcome.TOO_LARGE, f"{announced} bytes; crawl.max_bytes is {limit}", response.status)
        decoder, parts, size = ContentDecoder(response.headers.get("Content-Encoding", "")), list[bytes](), 0
        while chunk := await response.content.readany():
            # One byte more than allowed is enough to know that the body is too large.
            parts.append(decoder.decode(chunk, limit + 1 - size))
            size += len(parts[-1])
            if size > limit:
                raise Rejected(Outcome.TOO_LARGE, f"more than {limit} bytes (crawl.max_bytes)", response.status)
        decoder.finish()
        return b"".join(parts)


def _pause_s(state: RetryCallState) -> float:
    """Return the pause before the next attempt: our backoff, or longer if the server asks for it."""
    error = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), getattr(error, "pause_s", 0.0))


def _bad_status(response: aiohttp.ClientResponse) -> Rejected:
    """Return the rejection for an error status; 429 and 5xx may be temporary."""
    status = response.status
    reason = f"HTTP {status} {response.reason or ''}".rstrip()[:200]
    if status in GONE_STATUSES:
        return Rejected(Outcome.DEAD, reason, status)
    if status != 429 and status < 500:
        return Rejected(Outcome.HTTP_ERROR, reason, status)
    rejection = RetryableRejection(Outcome.HTTP_ERROR, reason, status)
    rejection.pause_s = retry_after(response.headers)
    return rejection


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
