"""What an origin asks of its visitors: its robots.txt, read and kept for a day."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.address import Addresses
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.robots import MAX_BYTES, Robots, parse_robots
from emoji_ldm.crawl.web import BROKEN, MAX_REDIRECTS, Unpacker, open_session, parse_url, target

TTL_S = 24 * 3600.0  # RFC 9309, 2.4
FAILED_TTL_S = 300.0  # a host that was down is asked again sooner
NUM_TRIES, BACKOFF_S = 3, 0.25
LONGEST_DELAY_S = 120.0


@dataclass(frozen=True)
class Rules:
    """What holds for all URLs of an origin."""

    robots: Robots = field(default_factory=Robots)
    gap_s: float = 0.0  # between two requests; 0: several at once are fine
    refused: tuple[Outcome, str] | None = None  # why none may be requested
    ttl_s: float = TTL_S

    def check(self, url: str) -> None:
        """Refused if this URL must not be requested."""
        if self.refused is not None:
            raise Refused(*self.refused)
        if reason := self.robots.refusal(url):
            raise Refused(Outcome.ROBOTS, reason)


class RulesReader:
    """Reads robots.txt files; use it inside one event loop."""

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested yet; ConfigError if `crawl.allow_private` is wrong."""
        self.config, self.addresses = config, Addresses(config)
        self._session: aiohttp.ClientSession | None = None

    async def read(self, origin: str) -> Rules:
        """The rules of an origin. RFC 9309, 2.3.1: unavailable (4xx) allows all, unreachable (5xx) denies all."""
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s):
                status, text = await self._try(f"{origin}/robots.txt")
        except Refused as refused:
            return Rules(refused=(refused.outcome, f"robots.txt: {refused.reason}"), ttl_s=FAILED_TTL_S)
        except TimeoutError:
            return _denied(f"was not whole within {self.config.fetch_timeout_s:g} s")
        except BROKEN as error:
            return _denied(f"cannot be read ({str(error) or type(error).__name__})")
        if status >= 500 or status == 429:
            return _denied(f"answers {status}")
        robots = parse_robots(text, self.config.user_agent) if status < 300 else Robots()
        if robots.delay_s > LONGEST_DELAY_S:
            return Rules(refused=(Outcome.ROBOTS, f"robots.txt: Crawl-delay of {robots.delay_s:g} s, too long"))
        return Rules(robots, max(self.config.min_request_interval_s, robots.delay_s))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.addresses.close()

    async def _try(self, url: str) -> tuple[int, str]:
        """Status and text, after some tries if it does not come at once."""
        for number in range(1, NUM_TRIES):
            try:
                status, text = await self._file(url)
                if status < 500:
                    return status, text
            except BROKEN:
                pass
            await asyncio.sleep(BACKOFF_S * number)
        return await self._file(url)

    async def _file(self, url: str) -> tuple[int, str]:
        self._session = self._session or open_session(self.config, self.addresses)
        for _ in range(MAX_REDIRECTS + 1):
            parsed = parse_url(url)
            self.addresses.check(parsed)
            async with self._session.get(parsed, allow_redirects=False) as response:
                following = target(url, response)
                if following is None:
                    return response.status, await _text(response)
                url = following
        return 404, ""  # RFC 9309, 2.3.1.2: after five redirects it may be taken as unavailable


async def _text(response: aiohttp.ClientResponse) -> str:
    body, unpacker = bytearray(), Unpacker(response.headers.get("Content-Encoding", ""))
    while len(body) < MAX_BYTES and (chunk := await response.content.readany()):
        body += unpacker.unpack(chunk, MAX_BYTES)
    return body[:MAX_BYTES].decode("utf-8", errors="replace")


def _denied(what: str) -> Rules:
    reason = f"robots.txt {what}, so nothing may be requested (RFC 9309, 2.3.1.4)"
    return Rules(refused=(Outcome.UNREACHABLE, reason), ttl_s=FAILED_TTL_S)
