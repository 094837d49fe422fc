"""JSON image search as a source: responses of the shape of SerpApi or Bing.

The API key is read from the environment. It is never stored and never part of a message: URLs are recorded without it,
network errors are reported by their type only, and it is masked in error messages of the API that repeat it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_fixed,
)

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.page_types import MAX_TITLE, ListedPage, PageContent, Tile, read_pages
from emoji_ldm.crawl.politeness.http_session import NETWORK_ERRORS, ContentDecoder, SsrfGuard, open_session, retry_after
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.crawl.site_profile import ApiProfile, load_api_profile
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, reject_bad_status, to_page_rejection
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

MAX_RESPONSE_BYTES = 20_000_000
NUM_TRIES, BACKOFF_S = 2, 0.5


def read_api_key(profile: ApiProfile) -> str:
    """Return the API key from the environment, "" if the API needs none; CrawlError if it is missing."""
    name = profile.key_variable
    if not name or (key := os.environ.get(name, "").strip()):
        return key if name else ""
    raise CrawlError(f"the API needs a key: set the environment variable {name} (here and on every worker)")


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    pause_s: float  # of its Retry-After header


class _NetworkError(Exception):
    """A request without a response; the name of the error only, since its text may hold the URL with the key."""


class ApiReader:
    """Reads the responses to a query; it keeps its connections."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Load profile and key; nothing is requested yet."""
        self.config, self.rate_limiter, self.profile = config, rate_limiter, load_api_profile(config.profile)
        self.key, self.runner = read_api_key(self.profile), asyncio.Runner()
        self.guard = SsrfGuard(config)
        self.session: aiohttp.ClientSession | None = None
        self.repeats = RepeatedPageDetector()

    def prepare(self, num_blocks: int) -> int:
        """See `PageReader.prepare`."""
        return 1

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `PageReader.read`; CrawlError if the API rejects the key."""
        return read_pages(tag, urls, self._read_page)

    def close(self) -> None:
        """Close all connections and the rate limiter."""
        self.runner.run(self._close())
        self.runner.close()

    def _read_page(self, tag: str, url: str) -> PageContent:
        try:
            status, body = self.runner.run(self._get(url))
        except Rejected as error:
            raise to_page_rejection(error) from None
        # A rejected key fails every page alike, so it ends the crawl instead of failing a thousand pages.
        if status in (401, 403):
            who = f"the key in the environment variable {self.profile.key_variable}" if self.key else "us without key"
            raise CrawlError(f"{url} answers HTTP {status}: the API refuses {who}{self._error_message(body)}")
        if status >= 400:
            try:
                reject_bad_status(status)
            except Rejected as error:
                raise Rejected(error.outcome, f"{error.reason}{self._error_message(body)}", status) from None
        return self._content(tag, url, status, body)

    def _content(self, tag: str, url: str, status: int, body: bytes) -> PageContent:
        try:
            answer = json.loads(body)
        except ValueError:
            raise Rejected(Outcome.FAILED, f"no JSON: {body[:60]!r}", status) from None
        # APIs report "no results" as an empty list, a missing list or an error message; all of them end the query.
        items = value_at_path(answer, self.profile.items)
        if not isinstance(items, list) or not items:
            known = ", ".join(answer) if isinstance(answer, dict) else type(answer).__name__
            message = self._error_message(body) or f"; the answer holds {known[:200]}"
            raise Rejected(Outcome.EMPTY, f"no {self.profile.items or 'items'}{message}", status)
        tiles = [tile for item in items if (tile := self._tile(url, item)) is not None]
        if not tiles:
            raise Rejected(Outcome.EMPTY, f"{len(items)} results, none with {self.profile.image!r}", status)
        self.repeats.reject_repeated(tag, url, tiles, status)
        without = len(items) - len(tiles)
        suffix = f", {without} results without image" if without else ""
        next_url = ""
        if self.profile.next:
            next_url = self.profile.next_url(self.config.site or "", tag, url, value_at_path(answer, self.profile.next))
        return PageContent(tiles, f"{len(tiles)} tiles{suffix}", status, next_url)

    def _tile(self, url: str, item: Any) -> Tile | None:
        address = value_at_path(item, self.profile.image)
        title = value_at_path(item, self.profile.title) if self.profile.title else ""
        if not isinstance(address, str) or not address.strip():
            return None
        return Tile(urljoin(url, address.strip()), " ".join(str(title or "").split())[:MAX_TITLE])

    def _error_message(self, body: bytes) -> str:
        """Return the error message of the API, with the key masked; "" without one."""
        try:
            answer = json.loads(body)
        except ValueError:
            return ""
        # The places in which SerpApi, Bing and others put their message.
        values = (value_at_path(answer, path) for path in ("error.message", "error", "message"))
        text = next((value for value in values if isinstance(value, str)), "")
        text = text.replace(self.key, "***") if self.key else text
        return f"; it says {text[:200]!r}" if text else ""

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Return status and body, after one retry if that may help."""
        max_pause_s = self.config.fetch_timeout_s
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_NetworkError) | retry_if_result(lambda r: _may_recover(r, max_pause_s)),
            wait=wait_fixed(BACKOFF_S),
            stop=stop_after_attempt(NUM_TRIES),
            retry_error_callback=_last_response,
        )
        response: _Response = await retrying(self._request, url)
        # Redirects are not followed: they could carry the key to another host.
        if 300 <= response.status < 400:
            reason = f"HTTP {response.status}: redirects of an API are not followed"
            raise Rejected(Outcome.HTTP_ERROR, reason, response.status)
        return response.status, response.body

    async def _request(self, url: str) -> _Response:
        permit = await self.rate_limiter.acquire(url)
        status, pause_s = None, 0.0
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s):
                self.session = self.session or open_session(self.config, self.guard)
                # The key is added last: neither the permit nor any message sees it.
                target = parse_url(self._with_key(url))
                async with self.session.get(target, headers=self._headers(), allow_redirects=False) as response:
                    status, pause_s = response.status, retry_after(response.headers)
                    return _Response(status, await _read_body(response), pause_s)
        except TimeoutError:
            raise Rejected(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
        except NETWORK_ERRORS as error:
            raise _NetworkError(type(error).__name__) from None
        finally:
            await self.rate_limiter.release(permit, status=status, retry_after_s=pause_s)

    def _with_key(self, url: str) -> str:
        if not self.key or not self.profile.key_parameter:
            return url
        return f"{url}{'&' if urlsplit(url).query else '?'}{self.profile.key_parameter}={quote(self.key, safe='')}"

    def _headers(self) -> dict[str, str]:
        has_key = self.key and self.profile.key_header
        return {"Accept": "application/json", **({self.profile.key_header: self.key} if has_key else {})}

    async def _close(self) -> None:
        if self.session is not None:
            await self.session.close()
        await self.guard.close()
        await self.rate_limiter.close()


def value_at_path(value: Any, path: str) -> Any:
    """Return the value at a dotted path inside JSON, in which a number is a place in a list; None if there is none."""
    for name in path.split(".") if path else ():
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _may_recover(response: _Response, max_pause_s: float) -> bool:
    """Whether a retry makes sense: an overload or a server error, unless it asks for a longer pause than we wait."""
    return (response.status == 429 or response.status >= 500) and response.pause_s <= max_pause_s


def _last_response(state: RetryCallState) -> _Response:
    """Return the response of the last attempt, or reject the page if there was none."""
    assert state.outcome is not None, "an attempt was made"
    try:
        response: _Response = state.outcome.result()
    except _NetworkError as error:
        raise Rejected(Outcome.UNREACHABLE, f"{error}, twice") from None
    return response


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    # JSON has no limit of its own, so an endless response must be cut here.
    body, decoder = bytearray(), ContentDecoder(response.headers.get("Content-Encoding", ""))
    while chunk := await response.content.readany():
        body += decoder.decode(chunk, MAX_RESPONSE_BYTES + 1)
        if len(body) > MAX_RESPONSE_BYTES:
            raise Rejected(Outcome.TOO_LARGE, f"more than {MAX_RESPONSE_BYTES} bytes", response.status)
    return bytes(body)
