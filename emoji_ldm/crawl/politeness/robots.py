"""robots.txt by RFC 9309: the group of our name, the longest matching rule, `*` and `$`, Crawl-delay; X-Robots-Tag.

What an origin asks of its visitors: its robots.txt, read and kept for a day.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.politeness.http_session import (
    MAX_REDIRECTS,
    NETWORK_ERRORS,
    ContentDecoder,
    open_session,
    redirect_target,
)
from emoji_ldm.crawl.politeness.ssrf_guard import SsrfGuard
from emoji_ldm.crawl.politeness.url_normalize import normalize_path, parse_url, remove_dot_segments
from emoji_ldm.outcomes import Outcome, Rejected

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: at least so much must be read
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Directives that image data sets honour; `none` stands for noindex, nofollow."""
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_AGENT = re.compile(r"[a-z0-9_.*-]+")


@dataclass(frozen=True)
class RobotsTxt:
    """What one host's robots.txt asks of us."""

    rules: tuple[tuple[str, bool], ...] = ()  # (path pattern, allowed), the rule that wins first
    delay_s: float = 0.0

    def refusal(self, url: str) -> str:
        """Why this URL must not be requested; "" if it may."""
        if not self.rules:
            return ""
        parts = urlsplit(url)
        path = normalize_path(remove_dot_segments(parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        for rule, allowed in self.rules:
            if _rule_matches(rule, path):
                return "" if allowed else f"robots.txt: Disallow: {rule}"
        return ""


def product_token(user_agent: str) -> str:
    """The name that robots.txt would call us by: the product token of a user agent."""
    return user_agent.split("/")[0].strip().lower()


def parse_robots(text: str, user_agent: str) -> RobotsTxt:
    """Rules for a user agent such as `emoji-ldm/0.1 (+https://...)`: of its own groups, else of `*`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    agents: list[str] = []
    in_rules = False
    for field, value in _directives(text):
        if field == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(product_token(value))
            groups.setdefault(agents[-1], [])
        elif field in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            for agent in agents:
                groups[agent].append((field, value))
    chosen = groups.get(product_token(user_agent), groups.get("*", []))
    rules = {(normalize_path(value), field == "allow") for field, value in chosen if field != "crawl-delay" and value}
    delays = [_parse_delay(value) for field, value in chosen if field == "crawl-delay"]
    # The longest wins; of equals, Allow (RFC 9309, 2.2.2).
    return RobotsTxt(tuple(sorted(rules, key=lambda r: (-len(r[0]), not r[1], r[0]))), max(delays, default=0.0))


def robots_tag_opt_outs(tags: Iterable[str], user_agent: str) -> list[str]:
    """Directives of X-Robots-Tag headers that forbid us to use an answer; those addressed to other agents do not."""
    ours, found = ("", "*", product_token(user_agent)), set[str]()
    for tag in tags:
        agent = ""  # holds until the header's end: `otherbot: noindex, noai` is all for otherbot
        for part in tag.lower().split(","):
            name, colon, directive = part.partition(":")
            if colon and name.strip() in _VALUED_DIRECTIVES:
                continue
            if colon and _AGENT.fullmatch(name.strip()):
                agent = name.strip()
            else:
                directive = part
            if agent in ours and directive.strip() in OPT_OUTS:
                found.add(directive.strip())
    return sorted(found)


def _directives(text: str) -> Iterator[tuple[str, str]]:
    for line in text.lstrip("\ufeff").splitlines():
        field, colon, value = line.split("#", 1)[0].partition(":")
        if colon:
            yield field.strip().lower(), value.strip()


def _parse_delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _rule_matches(rule: str, path: str) -> bool:
    """Whether a rule covers a path. No regular expression: a stranger's `*a*a*a*a*b` must cost linear time."""
    ends = rule.endswith("$")
    first, *parts = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not parts:
        return not ends or path == first
    place = len(first)
    for part in parts if not ends else parts[:-1]:
        found = path.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return not ends or (len(path) - len(parts[-1]) >= place and path.endswith(parts[-1]))


ROBOTS_TTL_S = 24 * 3600.0  # RFC 9309, 2.4
FAILED_ROBOTS_TTL_S = 300.0  # a host that was down is asked again sooner
NUM_TRIES, BACKOFF_S = 3, 0.25
MAX_CRAWL_DELAY_S = 120.0


@dataclass(frozen=True)
class OriginRules:
    """What holds for all URLs of an origin."""

    robots: RobotsTxt = field(default_factory=RobotsTxt)
    gap_s: float = 0.0  # between two requests; 0: several at once are fine
    refused: tuple[Outcome, str] | None = None  # why none may be requested
    ttl_s: float = ROBOTS_TTL_S

    def check(self, url: str) -> None:
        """Refused if this URL must not be requested."""
        if self.refused is not None:
            raise Rejected(*self.refused)
        if reason := self.robots.refusal(url):
            raise Rejected(Outcome.ROBOTS, reason)


class RobotsFetcher:
    """Reads robots.txt files; use it inside one event loop."""

    def __init__(self, config: CrawlConfig) -> None:
        """Nothing is requested yet; ConfigError if `crawl.allow_private` is wrong."""
        self.config, self.addresses = config, SsrfGuard(config)
        self._session: aiohttp.ClientSession | None = None

    async def read(self, origin: str) -> OriginRules:
        """The rules of an origin. RFC 9309, 2.3.1: unavailable (4xx) allows all, unreachable (5xx) denies all."""
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s):
                status, text = await self._try(f"{origin}/robots.txt")
        except Rejected as refused:
            return OriginRules(refused=(refused.outcome, f"robots.txt: {refused.reason}"), ttl_s=FAILED_ROBOTS_TTL_S)
        except TimeoutError:
            return _deny_all(f"was not whole within {self.config.fetch_timeout_s:g} s")
        except NETWORK_ERRORS as error:
            return _deny_all(f"cannot be read ({str(error) or type(error).__name__})")
        if status >= 500 or status == 429:
            return _deny_all(f"answers {status}")
        robots = parse_robots(text, self.config.user_agent) if status < 300 else RobotsTxt()
        if robots.delay_s > MAX_CRAWL_DELAY_S:
            return OriginRules(refused=(Outcome.ROBOTS, f"robots.txt: Crawl-delay of {robots.delay_s:g} s, too long"))
        return OriginRules(robots, max(self.config.min_request_interval_s, robots.delay_s))

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
            except NETWORK_ERRORS:
                pass
            await asyncio.sleep(BACKOFF_S * number)
        return await self._file(url)

    async def _file(self, url: str) -> tuple[int, str]:
        self._session = self._session or open_session(self.config, self.addresses)
        for _ in range(MAX_REDIRECTS + 1):
            parsed = parse_url(url)
            self.addresses.check(parsed)
            async with self._session.get(parsed, allow_redirects=False) as response:
                following = redirect_target(url, response)
                if following is None:
                    return response.status, await _read_text(response)
                url = following
        return 404, ""  # RFC 9309, 2.3.1.2: after five redirects it may be taken as unavailable


async def _read_text(response: aiohttp.ClientResponse) -> str:
    body, unpacker = bytearray(), ContentDecoder(response.headers.get("Content-Encoding", ""))
    while len(body) < MAX_ROBOTS_BYTES and (chunk := await response.content.readany()):
        body += unpacker.unpack(chunk, MAX_ROBOTS_BYTES)
    return body[:MAX_ROBOTS_BYTES].decode("utf-8", errors="replace")


def _deny_all(what: str) -> OriginRules:
    reason = f"robots.txt {what}, so nothing may be requested (RFC 9309, 2.3.1.4)"
    return OriginRules(refused=(Outcome.UNREACHABLE, reason), ttl_s=FAILED_ROBOTS_TTL_S)
