"""Whether and when a URL may be requested: its address, its host's robots.txt, the gap between requests."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from urllib.parse import urljoin, urlsplit

import httpx

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.robots import MAX_BYTES, Robots, parse_robots

MAX_REDIRECTS = 5
DEFAULT_PORTS = {"http": 80, "https": 443}


class Politeness:
    """The manners of one worker: robots.txt of a host is read once, requests to a host keep their distance."""

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested before the first URL is asked for."""
        self.config = config
        headers = {"User-Agent": config.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        limits = httpx.Limits(max_connections=config.host_concurrency, keepalive_expiry=30)
        # Redirects are followed by hand, so that each target is asked about first.
        self.client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None, follow_redirects=False)
        self._robots: dict[str, asyncio.Task[Robots]] = {}
        self._private: dict[str, asyncio.Task[bool]] = {}
        self._free_at: dict[str, float] = {}  # host -> when the next request may start, monotonic seconds

    async def may_request(self, url: str) -> None:
        """Return when the URL may be requested; Refused if it may not."""
        await self._check_address(url)
        host = _origin(url)
        if host not in self._robots:
            self._robots[host] = asyncio.create_task(self._read_robots(host))
        robots = await self._robots[host]
        if reason := robots.refusal(url):
            raise Refused(Outcome.ROBOTS, reason)
        await self._wait_turn(host, max(self.config.gap_s, robots.delay_s))

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    async def _wait_turn(self, host: str, gap_s: float) -> None:
        if gap_s:
            now = time.monotonic()
            turn = max(self._free_at.get(host, now), now)
            self._free_at[host] = turn + gap_s
            await asyncio.sleep(turn - now)

    async def _check_address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise Refused(Outcome.ADDRESS, f"not an http address: {url[:100]}")
        # A public page must not make us read a private network (SSRF); a site that is itself private may.
        own = urlsplit(self.config.site).hostname or ""
        if await self._is_private(parts.hostname) and not await self._is_private(own):
            raise Refused(Outcome.ADDRESS, f"{parts.hostname} is in a private network")

    async def _is_private(self, host: str) -> bool:
        if host not in self._private:
            self._private[host] = asyncio.create_task(_resolves_private(host))
        return await self._private[host]

    async def _read_robots(self, host: str) -> Robots:
        """RFC 9309, 2.3.1: unavailable (4xx) allows all, unreachable (5xx, no answer) denies all."""
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s):
                status, text = await self._robots_file(f"{host}/robots.txt")
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            return Robots(denied=f"robots.txt cannot be read ({type(error).__name__}), so nothing may be")
        if status >= 500:
            return Robots(denied=f"robots.txt answers {status}, so nothing may be read")
        return parse_robots(text, self.config.user_agent) if status < 300 else Robots()

    async def _robots_file(self, url: str) -> tuple[int, str]:
        for _ in range(MAX_REDIRECTS + 1):
            await self._check_address(url)
            async with self.client.stream("GET", url) as response:
                if not response.has_redirect_location:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) >= MAX_BYTES:
                            break
                    return response.status_code, body[:MAX_BYTES].decode("utf-8", errors="replace")
                url = urljoin(url, response.headers["location"])
        return 404, ""  # RFC 9309, 2.3.1.2: after five redirects it may be taken as unavailable


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port and parts.port != DEFAULT_PORTS[parts.scheme] else ""
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{name}{port}"


async def _resolves_private(host: str) -> bool:
    """Whether some address of a host is not a public one; False if it has none (the request itself will tell)."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(address[4][0]).split("%")[0]).is_global for address in found)
