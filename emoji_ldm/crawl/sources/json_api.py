"""JSON image search: answers of SerpApi's or Bing's shape, with a key that is never written down."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.page_types import ListedPage, PageContent, Tile, read_pages
from emoji_ldm.crawl.politeness.http_session import NETWORK_ERRORS, ContentDecoder, open_session, retry_after
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.crawl.politeness.url_normalize import parse_url
from emoji_ldm.crawl.site_profile import ApiProfile, load_api_profile
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, reject_bad_status, to_page_rejection
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

MAX_BYTES = 20_000_000  # of an answer
NUM_TRIES, BACKOFF_S = 2, 0.5


def read_api_key(profile: ApiProfile) -> str:
    """The API key from the environment, "" if the API needs none; CrawlError if it is missing."""
    name = profile.key_variable
    if not name or (key := os.environ.get(name, "").strip()):
        return key if name else ""
    raise CrawlError(f"the API needs a key: set the environment variable {name} (here and on every worker)")


class ApiReader:
    """Walks the answers to a query; keeps its connections."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        """Read profile and key; nothing is requested yet."""
        self.config, self.gate, self.profile = config, gate, load_api_profile(config.profile)
        self.key, self.runner = read_api_key(self.profile), asyncio.Runner()
        self.addresses = SsrfGuard(config)
        self.session: aiohttp.ClientSession | None = None
        self.judge = RepeatedPageDetector()

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `Reader.walk`; CrawlError if the API refuses the key."""
        return read_pages(tag, urls, self._read)

    def close(self) -> None:
        """Close all connections."""
        self.runner.run(self._close())
        self.runner.close()

    def _read(self, tag: str, url: str) -> PageContent:
        try:
            status, body = self.runner.run(self._get(url))
        except Rejected as refused:
            raise to_page_rejection(refused) from None
        if status in (401, 403):
            named = f"the key in the environment variable {self.profile.key_variable}" if self.key else "us without key"
            raise CrawlError(f"{url} answers HTTP {status}: the API refuses {named}{self._said(body)}")
        if status >= 400:
            try:
                reject_bad_status(status)
            except Rejected as refused:
                raise Rejected(refused.outcome, f"{refused.reason}{self._said(body)}", status) from None
        return self._content(tag, url, status, body)

    def _content(self, tag: str, url: str, status: int, body: bytes) -> PageContent:
        try:
            answer = json.loads(body)
        except ValueError:
            raise Rejected(Outcome.FAILED, f"no JSON: {body[:60]!r}", status) from None
        items = value_at_path(answer, self.profile.items)
        if not isinstance(items, list) or not items:
            known = ", ".join(answer) if isinstance(answer, dict) else type(answer).__name__
            said = self._said(body) or f"; the answer holds {known[:200]}"
            raise Rejected(Outcome.EMPTY, f"no {self.profile.items or 'items'}{said}", status)
        tiles = [tile for item in items if (tile := self._tile(url, item)) is not None]
        if not tiles:
            raise Rejected(Outcome.EMPTY, f"{len(items)} results, none with {self.profile.image!r}", status)
        self.judge.refuse_repeated(tag, url, tiles, status)
        without = len(items) - len(tiles)
        return PageContent(
            tiles, f"{len(tiles)} tiles" + (f", {without} results without image" if without else ""), status
        )

    def _tile(self, url: str, item: Any) -> Tile | None:
        address, title = (
            value_at_path(item, self.profile.image),
            value_at_path(item, self.profile.title) if self.profile.title else "",
        )
        if not isinstance(address, str) or not address.strip():
            return None
        return Tile(urljoin(url, address.strip()), " ".join(str(title or "").split())[:500])

    def _said(self, body: bytes) -> str:
        """The API's own words about an error, without the key if it repeats that."""
        try:
            answer = json.loads(body)
        except ValueError:
            return ""
        said = (value_at_path(answer, path) for path in ("error.message", "error", "message"))
        words = next((text for text in said if isinstance(text, str)), "")
        words = words.replace(self.key, "***") if self.key else words
        return f"; it says {words[:200]!r}" if words else ""

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and body, after one retry if it may help. No redirects: they could carry the key away."""
        for last in (False, True):
            try:
                status, body, pause_s = await self._once(url)
            except TimeoutError:
                raise Rejected(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
            except NETWORK_ERRORS as error:
                if last:  # only the kind of error: its text may hold the address with the key
                    raise Rejected(Outcome.UNREACHABLE, f"{type(error).__name__}, twice") from None
            else:
                if last or (status != 429 and status < 500) or pause_s > self.config.fetch_timeout_s:
                    break
            await asyncio.sleep(BACKOFF_S)
        if 300 <= status < 400:
            raise Rejected(Outcome.HTTP_ERROR, f"HTTP {status}: redirects of an API are not followed", status)
        return status, body

    async def _once(self, url: str) -> tuple[int, bytes, float]:
        # An API with a key is used by agreement: its pace and address are watched, but robots.txt speaks to those who
        # come without one. robots.txt itself is the address that its rules always allow.
        permit = await self.gate.enter(urljoin(url, "/robots.txt"))
        status, pause_s = None, 0.0
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s):
                self.session = self.session or open_session(self.config, self.addresses)
                target = parse_url(self._with_key(url))
                async with self.session.get(target, headers=self._headers(), allow_redirects=False) as response:
                    status, pause_s = response.status, retry_after(response.headers)
                    return status, await _read_body(response), pause_s
        finally:
            await self.gate.leave(permit, status=status, retry_after_s=pause_s)

    def _with_key(self, url: str) -> str:
        if not self.key or not self.profile.key_parameter:
            return url
        return f"{url}{'&' if urlsplit(url).query else '?'}{self.profile.key_parameter}={quote(self.key, safe='')}"

    def _headers(self) -> dict[str, str]:
        named = self.key and self.profile.key_header
        return {"Accept": "application/json", **({self.profile.key_header: self.key} if named else {})}

    async def _close(self) -> None:
        if self.session is not None:
            await self.session.close()
        await self.addresses.close()
        await self.gate.close()


def value_at_path(value: Any, path: str) -> Any:
    """What lies at a dotted path inside JSON; None if nothing does."""
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body, unpacker = bytearray(), ContentDecoder(response.headers.get("Content-Encoding", ""))
    while chunk := await response.content.readany():
        body += unpacker.unpack(chunk, MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise Rejected(Outcome.TOO_LARGE, f"more than {MAX_BYTES} bytes", response.status)
    return bytes(body)
