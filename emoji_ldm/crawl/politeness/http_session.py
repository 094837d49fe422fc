"""A connection pool with our manners: an honest name, checked addresses, no cookies, no proxies, no redirects."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import aiohttp
from multidict import CIMultiDictProxy

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.outcomes import Outcome, Rejected

MAX_REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # callers have a deadline for the whole
NETWORK_ERRORS = (aiohttp.ClientError, OSError, EOFError, ValueError)
"""What aiohttp raises when a server cannot be reached or does not speak HTTP, or a name is none (UnicodeError)."""


def open_session(config: CrawlConfig, addresses: SsrfGuard) -> aiohttp.ClientSession:
    """A pool for the running event loop. Bodies come as sent; see `Unpacker`."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=addresses, ttl_dns_cache=60, keepalive_timeout=30),
        headers={"User-Agent": config.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(), timeout=NO_TIMEOUT, trust_env=False, auto_decompress=False,
    )  # fmt: skip
    session._retry_connection = False  # a repeated request needs a permit of its own
    return session


def redirect_target(url: str, response: aiohttp.ClientResponse) -> str | None:
    """Where a response redirects to, absolute; None if it does not."""
    location = response.headers.get("Location")
    if response.status not in REDIRECT_STATUSES or location is None:
        return None
    try:
        return urljoin(url, location.strip())
    except ValueError:
        raise Rejected(Outcome.HTTP_ERROR, f"redirected to {location[:100]!r}", response.status) from None


def retry_after(headers: CIMultiDictProxy[str]) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 if it makes no sense."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


class ContentDecoder:
    """Undoes a Content-Encoding that we did not ask for, a bounded piece at a time: a bomb never unfolds."""

    def __init__(self, encoding: str) -> None:
        """Refused if the encoding is not one that every server may use."""
        self.packed = encoding.strip().lower() not in ("", "identity")
        if self.packed and encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise Rejected(Outcome.HTTP_ERROR, f"sent in Content-Encoding {encoding[:40]!r}, which was not asked for")
        self.inflate = zlib.decompressobj(wbits=47)  # 47: the header tells gzip from zlib

    def unpack(self, chunk: bytes, at_most: int) -> bytes:
        """Up to `at_most` bytes of what a chunk unfolds to; the caller stops when it has more than it wants."""
        if not self.packed:
            return chunk
        body = b""
        try:
            while chunk and len(body) < at_most:
                if self.inflate.eof:  # a gzip file may have several parts
                    self.inflate = zlib.decompressobj(wbits=47)
                body += self.inflate.decompress(chunk, at_most - len(body))
                chunk = self.inflate.unused_data
        except zlib.error as error:
            raise Rejected(Outcome.HTTP_ERROR, f"its Content-Encoding is broken: {error}"[:200]) from None
        return body

    def finish(self) -> None:
        """Refused if the body ended in the middle."""
        if self.packed and not self.inflate.eof:
            raise Rejected(Outcome.HTTP_ERROR, "its Content-Encoding is broken: it ends too soon")
