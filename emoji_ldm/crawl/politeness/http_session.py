"""HTTP sessions of the crawler: an honest user agent, checked addresses, no cookies, proxies or automatic redirects.

The check is a guard against server-side request forgery (SSRF): it says which IP addresses may be connected to.
Allowed are public addresses, the crawled site's own host and port, and what `crawl.allow_private` names. A malicious
page could otherwise make the crawler request internal services, such as the metadata service of a cloud machine.

A host name is resolved once. The guard is the resolver of the connection pool, so the addresses that were checked are
the ones that are connected to: a DNS answer that changes between check and connection (DNS rebinding) has no effect.
"""

from __future__ import annotations

import asyncio
import re
import socket
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.aiohttp_compat import disable_connection_retry
from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Outcome, Rejected

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[list[Any]]]

HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
NAT64 = IPv6Network("64:ff9b::/96")
# IPv4 addresses inside IPv6 that no resolver gives for a public host: IPv4-compatible, mapped, translated, 6to4,
# Teredo. They would lead to a private IPv4 address past a check that looks at IPv6 only.
EMBEDDED_IPV4_NETWORKS = tuple(
    IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "2002::/16", "2001::/32")
)
NUM_DNS_THREADS = 16  # names looked up at the same time; a slow name server must not hold up the others
MAX_REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # callers have a deadline for the whole request
NETWORK_ERRORS = (aiohttp.ClientError, OSError, EOFError, ValueError)
"""What aiohttp raises if a server cannot be reached, does not speak HTTP, or has an invalid name (UnicodeError)."""
GZIP_OR_ZLIB = 47  # `wbits` of zlib: 32 to detect the format by its header, 15 for the largest window


class SsrfGuard(AbstractResolver):
    """Checks URLs, and resolves hosts for aiohttp to addresses that may be connected to."""

    def __init__(self, config: CrawlConfig, lookup: Lookup | None = None) -> None:
        """Read `crawl.site` and `crawl.allow_private`.

        Args:
            config: The crawl's configuration.
            lookup: A replacement for the system's resolver, `lookup(host, port)` with the result of `getaddrinfo`.

        Raises:
            ConfigError: An entry of `crawl.allow_private` is neither a host nor a network.
        """
        self.site = _site_host_port(config.site or "")
        self.allowed_hosts, self.allowed_networks = _parse_allowlist(config.allow_private)
        self.lookup = lookup or self._getaddrinfo
        self.threads: ThreadPoolExecutor | None = None

    def check(self, url: URL) -> None:
        """Reject what can be recognized without a DNS lookup: other schemes, and private literal addresses.

        aiohttp does not ask the resolver about a host that is an IP address, so these must be checked here.
        """
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise Rejected(Outcome.ADDRESS, f"not an http address: {str(url)[:100]}")
        host = url.raw_host
        address = _literal_address(host)
        if address is not None:
            self._check_addresses(host, url.port or 0, [address])
            if str(address) != host and ":" not in host:
                raise Rejected(Outcome.ADDRESS, f"{host} is an odd spelling of {address}")

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Resolve a host to addresses that were all checked.

        Raises:
            Rejected: One of them is not public. A name with public and private addresses is not trusted at all.
            OSError: There is no address.
        """
        found = await self.lookup(host, port)
        # A link-local IPv6 address may carry a zone (fe80::1%eth0), which is not part of the address.
        self._check_addresses(host, port, [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found])
        return [
            ResolveResult(hostname=host, host=entry[4][0], port=port, family=entry[0], proto=entry[2],
                          flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
            for entry in found
        ]  # fmt: skip

    async def close(self) -> None:
        """Stop the lookup threads without waiting for slow lookups."""
        if self.threads is not None:
            self.threads.shutdown(wait=False, cancel_futures=True)
            self.threads = None

    def _check_addresses(self, host: str, port: int, addresses: list[Address]) -> None:
        host = host.lower()
        if (host, port) == self.site or host.rstrip(".") in self.allowed_hosts:
            return
        for address in addresses:
            if not is_public(address) and not any(address in network for network in self.allowed_networks):
                shown = "" if str(address) == host else f" is {address}, which"
                raise Rejected(Outcome.ADDRESS, f"{host}{shown} is not a public address (crawl.allow_private)")

    async def _getaddrinfo(self, host: str, port: int) -> list[Any]:
        # Threads of our own: the event loop's default pool is small, and other work shares it.
        self.threads = self.threads or ThreadPoolExecutor(NUM_DNS_THREADS, "dns")
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )


def is_public(address: Address) -> bool:
    """Whether the address means the same machine everywhere on the internet."""
    if isinstance(address, IPv6Address):
        # Networks that only speak IPv6 translate public IPv4 hosts to this prefix (RFC 6052).
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in EMBEDDED_IPV4_NETWORKS) or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _literal_address(host: str) -> Address | None:
    """Return the address that a host spells out, also as 0x7f.1, 017700000001 or 2130706433; None for a name."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    # RFC 3696, section 2: a top-level domain is not all-numeric. The system's resolver would read such a host as a
    # number, in every notation that `inet_aton` knows.
    if not host.rstrip(".").rpartition(".")[2][:1].isdigit():
        return None
    try:
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeError):
        return None


def _site_host_port(site: str) -> tuple[str, int] | None:
    """Return host and port of the crawled site, None if it is not a URL."""
    try:
        url = URL(site)
        return (url.raw_host.lower(), url.port or 0) if url.raw_host else None
    except ValueError:
        return None


def _parse_allowlist(entries: tuple[str, ...]) -> tuple[frozenset[str], list[IPv4Network | IPv6Network]]:
    hosts, networks = set[str](), list[IPv4Network | IPv6Network]()
    for entry in entries:
        try:
            networks.append(ip_network(entry))
        except ValueError:
            # A host whose last label is a number is a misspelt address, not a name.
            if not HOST.fullmatch(entry.lower()) or entry.rstrip(".").rpartition(".")[2].isdigit():
                raise ConfigError(
                    f"crawl.allow_private: {entry!r} is neither a host nor a network; write intranet.example.org, "
                    "10.1.2.3 or 10.1.0.0/16"
                ) from None
            hosts.add(entry.lower().rstrip("."))
    return frozenset(hosts), networks


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
