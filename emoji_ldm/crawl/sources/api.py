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
from emoji_ldm.crawl.address import Addresses
from emoji_ldm.crawl.gate import Gate
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.page import Content, Page, Tile, walked
from emoji_ldm.crawl.profile import ApiProfile, load_api
from emoji_ldm.crawl.sources.pages import Judge, as_page, refuse_status
from emoji_ldm.crawl.web import BROKEN, Unpacker, open_session, parse_url, retry_after
from emoji_ldm.errors import CrawlError

MAX_BYTES = 20_000_000  # of an answer
NUM_TRIES, BACKOFF_S = 2, 0.5


def key_of(profile: ApiProfile) -> str:
    """The API key from the environment, "" if the API needs none; CrawlError if it is missing."""
    name = profile.key_variable
    if not name or (key := os.environ.get(name, "").strip()):
        return key if name else ""
    raise CrawlError(f"the API needs a key: set the environment variable {name} (here and on every worker)")


class ApiReader:
    """Walks the answers to a query; keeps its connections."""

    def __init__(self, config: CrawlConfig, gate: Gate) -> None:
        """Read profile and key; nothing is requested yet."""
        self.config, self.gate, self.profile = config, gate, load_api(config.profile)
        self.key, self.runner = key_of(self.profile), asyncio.Runner()
        self.addresses = Addresses(config)
        self.session: aiohttp.ClientSession | None = None
        self.judge = Judge()

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[Page]:
        """See `Reader.walk`; CrawlError if the API refuses the key."""
        return walked(tag, urls, self._read)

    def close(self) -> None:
        """Close all connections."""
        self.runner.run(self._close())
        self.runner.close()

    def _read(self, tag: str, url: str) -> Content:
        try:
            status, body = self.runner.run(self._get(url))
        except Refused as refused:
            raise as_page(refused) from None
        if status in (401, 403):
            named = f"the key in the environment variable {self.profile.key_variable}" if self.key else "us without key"
            raise CrawlError(f"{url} answers HTTP {status}: the API refuses {named}{self._said(body)}")
        if status >= 400:
            try:
                refuse_status(status)
            except Refused as refused:
                raise Refused(refused.outcome, f"{refused.reason}{self._said(body)}", status) from None
        return self._content(tag, url, status, body)

    def _content(self, tag: str, url: str, status: int, body: bytes) -> Content:
        try:
            answer = json.loads(body)
        except ValueError:
            raise Refused(Outcome.FAILED, f"no JSON: {body[:60]!r}", status) from None
        items = at(answer, self.profile.items)
        if not isinstance(items, list) or not items:
            known = ", ".join(answer) if isinstance(answer, dict) else type(answer).__name__
            said = self._said(body) or f"; the answer holds {known[:200]}"
            raise Refused(Outcome.EMPTY, f"no {self.profile.items or 'items'}{said}", status)
        tiles = [tile for item in items if (tile := self._tile(url, item)) is not None]
        if not tiles:
            raise Refused(Outcome.EMPTY, f"{len(items)} results, none with {self.profile.image!r}", status)
        self.judge.refuse_repeated(tag, url, tiles, status)
        without = len(items) - len(tiles)
        return Content(tiles, f"{len(tiles)} tiles" + (f", {without} results without image" if without else ""), status)

    def _tile(self, url: str, item: Any) -> Tile | None:
        address, title = at(item, self.profile.image), at(item, self.profile.title) if self.profile.title else ""
        if not isinstance(address, str) or not address.strip():
            return None
        return Tile(urljoin(url, address.strip()), " ".join(str(title or "").split())[:500])

    def _said(self, body: bytes) -> str:
        """The API's own words about an error, without the key if it repeats that."""
        try:
            answer = json.loads(body)
        except ValueError:
            return ""
        said = (at(answer, path) for path in ("error.message", "error", "message"))
        words = next((text for text in said if isinstance(text, str)), "")
        words = words.replace(self.key, "***") if self.key else words
        return f"; it says {words[:200]!r}" if words else ""

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and body, after one retry if it may help. No redirects: they could carry the key away."""
        for last in (False, True):
            try:
                status, body, pause_s = await self._once(url)
            except TimeoutError:
                raise Refused(Outcome.TIMED_OUT, f"not whole within {self.config.fetch_timeout_s:g} s") from None
            except BROKEN as error:
                if last:  # only the kind of error: its text may hold the address with the key
                    raise Refused(Outcome.UNREACHABLE, f"{type(error).__name__}, twice") from None
            else:
                if last or (status != 429 and status < 500) or pause_s > self.config.fetch_timeout_s:
                    break
            await asyncio.sleep(BACKOFF_S)
        if 300 <= status < 400:
            raise Refused(Outcome.HTTP_ERROR, f"HTTP {status}: redirects of an API are not followed", status)
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
                    return status, await _body(response), pause_s
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


def at(value: Any, path: str) -> Any:
    """What lies at a dotted path inside JSON; None if nothing does."""
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body, unpacker = bytearray(), Unpacker(response.headers.get("Content-Encoding", ""))
    while chunk := await response.content.readany():
        body += unpacker.unpack(chunk, MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise Refused(Outcome.TOO_LARGE, f"more than {MAX_BYTES} bytes", response.status)
    return bytes(body)
