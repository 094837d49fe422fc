"""HTTP sessions of the crawler: an honest user agent, checked addresses, no cookies, proxies or automatic redirects."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import aiohttp
from multidict import CIMultiDictProxy

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.aiohttp_compat import disable_connection_retry
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.outcomes import Outcome, Rejected

MAX_REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # callers have a deadline for the whole request
NETWORK_ERRORS = (aiohttp.ClientError, OSError, EOFError, ValueError)
"""What aiohttp raises if a server cannot be reached, does not speak HTTP, or has an invalid name (UnicodeError)."""
GZIP_OR_ZLIB = 47  # `wbits` of zlib: 32 to detect the format by its header, 15 for the largest window


def open_session(config: CrawlConfig, guard: SsrfGuard) -> aiohttp.ClientSession:
    """Open a connection pool in the running event loop. Bodies arrive as they were sent; see `ContentDecoder`."""
    # limit=0: the rate limiter bounds the connections. Encoding "identity" saves the work of decompression, and the
    # size of a body is known before it is read. `trust_env=False` ignores proxies of the environment.
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=guard, ttl_dns_cache=60, keepalive_timeout=30),
        headers={"User-Agent": config.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(), timeout=NO_TIMEOUT, trust_env=False, auto_decompress=False,
    )  # fmt: skip
    disable_connection_retry(session)
    return session


def redirect_target(url: str, response: aiohttp.ClientResponse) -> str | None:
    """Return the absolute URL that a response redirects to; None if it does not."""
    location = response.headers.get("Location")
    # A redirect status without Location, or 300 and 304, is an answer of its own.
    if response.status not in REDIRECT_STATUSES or location is None:
        return None
    try:
        return urljoin(url, location.strip())
    except ValueError:
        raise Rejected(Outcome.HTTP_ERROR, f"redirected to {location[:100]!r}", response.status) from None


def retry_after(headers: CIMultiDictProxy[str]) -> float:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, section 10.2.3); 0 if it is invalid."""
    value = headers.get("Retry-After", "").strip()
    # `isdecimal` alone also accepts digits of other scripts. Nine digits are enough for any pause.
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


class ContentDecoder:
    """Decodes a Content-Encoding that was not asked for, in bounded pieces, so that a zip bomb is never expanded.

    Requests ask for `identity`, but some servers send gzip or deflate anyway.
    """

    def __init__(self, encoding: str) -> None:
        """Raise Rejected if the encoding is neither gzip nor deflate."""
        self.is_encoded = encoding.strip().lower() not in ("", "identity")
        # The standard library decodes neither Brotli nor zstd.
        if self.is_encoded and encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise Rejected(Outcome.HTTP_ERROR, f"sent in Content-Encoding {encoding[:40]!r}, which was not asked for")
        self.inflate = zlib.decompressobj(wbits=GZIP_OR_ZLIB)

    def decode(self, chunk: bytes, max_bytes: int) -> bytes:
        """Decode a chunk, up to `max_bytes`. The rest is lost: callers give up when they reach their limit."""
        if not self.is_encoded:
            return chunk
        body = b""
        try:
            while chunk and len(body) < max_bytes:
                # A gzip file may consist of several members (RFC 1952, section 2.2).
                if self.inflate.eof:
                    self.inflate = zlib.decompressobj(wbits=GZIP_OR_ZLIB)
                body += self.inflate.decompress(chunk, max_bytes - len(body))
                chunk = self.inflate.unused_data
        except zlib.error as error:
            raise Rejected(Outcome.HTTP_ERROR, f"its Content-Encoding is broken: {error}"[:200]) from None
        return body

    def finish(self) -> None:
        """Raise Rejected if the body ended in the middle of the encoded data."""
        if self.is_encoded and not self.inflate.eof:
            raise Rejected(Outcome.HTTP_ERROR, "its Content-Encoding is broken: it ends too soon")
