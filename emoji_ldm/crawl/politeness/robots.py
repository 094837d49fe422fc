"""robots.txt and X-Robots-Tag: what a site asks of crawlers, fetched per origin and cached for a day.

The rules of robots.txt follow RFC 9309: the groups of our product token apply, else those of `*`; the longest matching
rule wins, and Allow wins a tie; `*` stands for any characters and `$` for the end. Crawl-delay is not part of the RFC
but widely used. What a missing file means follows section 2.3.1: "unavailable" (4xx) allows every URL, while
"unreachable" (5xx, no connection) forbids every URL, since a site in trouble may have rules that cannot be read now.
"""

# Ours instead of Protego 0.7: on the corpus of test_robots.py Protego is evaded by dot segments, ignores a group such
# as `emoji-ldm/2.0`, applies a group `emoji` to us, and cannot name the rule that matched, which our reasons quote.

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_incrementing,
)

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
from emoji_ldm.crawl.politeness.url_normalize import normalize_path, parse_url, remove_dot_segments
from emoji_ldm.outcomes import Outcome, Rejected

OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Directives that image datasets honour; `none` means noindex and nofollow."""
# Directives whose value follows a colon, which must not be taken for the name of a crawler.
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_AGENT = re.compile(r"[a-z0-9_.*-]+")
MAX_SITEMAPS = 20
MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, section 2.5: at least this much must be parsed
ROBOTS_TTL_S = 24 * 3600.0  # RFC 9309, section 2.4
FAILED_ROBOTS_TTL_S = 300.0  # a host that was down is asked again sooner
MAX_CRAWL_DELAY_S = 120.0  # with a longer one a crawl would not end; the site is not crawled
NUM_TRIES, BACKOFF_S = 3, 0.25


@dataclass(frozen=True)
class RobotsTxt:
    """The rules of one robots.txt that apply to us."""

    rules: tuple[tuple[str, bool], ...] = ()  # (path pattern, is it allowed), sorted by precedence
    crawl_delay_s: float = 0.0
    sitemaps: tuple[str, ...] = ()  # addresses, for all crawlers alike

    def disallow_reason(self, url: str) -> str:
        """Return why this URL must not be requested; "" if it may be."""
        if not self.rules:
            return ""
        parts = urlsplit(url)
        # Rules were normalized when they were parsed; the path must be spelt the same way.
        path = normalize_path(remove_dot_segments(parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        # Sorted by precedence, so the first match decides.
        for rule, allowed in self.rules:
            if _rule_matches(rule, path):
                return "" if allowed else f"robots.txt: Disallow: {rule}"
        return ""


def parse_robots(text: str, user_agent: str) -> RobotsTxt:
    """Parse the rules for a user agent such as `emoji-ldm/0.1 (+https://...)`: of its own groups, else those of `*`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    agents, sitemaps = list[str](), list[str]()
    in_rules = False
    # A group is one or more user-agent lines followed by rules. Groups of the same name are merged (section 2.2.1).
    for key, value in _directives(text):
        if key == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(product_token(value))
            groups.setdefault(agents[-1], [])
        elif key == "sitemap":
            sitemaps.append(value)
        elif key in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            for agent in agents:
                groups[agent].append((key, value))
    # A group of our own replaces that of `*` as a whole, also if it is empty (section 2.2.1).
    chosen = groups.get(product_token(user_agent), groups.get("*", []))
    rules = {(normalize_path(value), key == "allow") for key, value in chosen if key != "crawl-delay" and value}
    delays = [_parse_delay(value) for key, value in chosen if key == "crawl-delay"]
    # The longest rule takes precedence; of equally long ones, Allow does (RFC 9309, section 2.2.2).
    ordered = tuple(sorted(rules, key=lambda r: (-len(r[0]), not r[1], r[0])))
    return RobotsTxt(ordered, max(delays, default=0.0), tuple(sitemaps[:MAX_SITEMAPS]))


def product_token(user_agent: str) -> str:
    """Return the name by which robots.txt addresses a user agent: the part before the version, in lower case."""
    return user_agent.split("/")[0].strip().lower()


def robots_tag_opt_outs(tags: Iterable[str], user_agent: str) -> list[str]:
    """Return the opt-out directives of X-Robots-Tag headers that apply to us or to all crawlers, sorted.

    A header may address a crawler by name: `otherbot: noindex, noai`. The name holds until the end of the header or
    the next name.
    """
    ours, found = ("", "*", product_token(user_agent)), set[str]()
    for tag in tags:
        agent = ""
        for part in tag.lower().split(","):
            name, colon, directive = part.partition(":")
            # `unavailable_after: 25 Jun 2030 15:00` would otherwise be read as the name of a crawler.
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
    """Yield (field, value) of each line that has a colon, without comments."""
    # Many files start with a byte order mark, which would hide the first directive.
    for line in text.lstrip("\ufeff").splitlines():
        field, colon, value = line.split("#", 1)[0].partition(":")
        if colon:
            yield field.strip().lower(), value.strip()


def _parse_delay(text: str) -> float:
    """Return the seconds of a Crawl-delay, 0 if it is not a finite number."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _rule_matches(rule: str, path: str) -> bool:
    """Whether a rule matches a path.

    Not by a regular expression: a hostile rule such as `*a*a*a*a*b` would take exponential time. Searching the parts
    between the stars from left to right finds a match whenever there is one, in linear time.
    """
    is_anchored = rule.endswith("$")
    first, *parts = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not parts:
        return not is_anchored or path == first
    position = len(first)
    for part in parts if not is_anchored else parts[:-1]:
        found = path.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    # The last part of an anchored rule must end the path, without overlapping the part before it.
    return not is_anchored or (len(path) - len(parts[-1]) >= position and path.endswith(parts[-1]))


@dataclass(frozen=True)
class OriginRules:
    """What applies to all URLs of an origin."""

    robots: RobotsTxt = field(default_factory=RobotsTxt)
    min_interval_s: float = 0.0  # between the starts of two requests
    rejection: tuple[Outcome, str] | None = None  # why no URL may be requested
    ttl_s: float = ROBOTS_TTL_S

    @property
    def is_spaced(self) -> bool:
        """Whether time must pass between two requests; several at once are allowed otherwise."""
        return self.min_interval_s > 0 or self.robots.crawl_delay_s > 0

    def check(self, url: str) -> None:
        """Raise Rejected if this URL must not be requested."""
        if self.rejection is not None:
            raise Rejected(*self.rejection)
        if reason := self.robots.disallow_reason(url):
            raise Rejected(Outcome.ROBOTS, reason)


@dataclass(frozen=True)
class _RobotsAnswer:
    status: int
    text: str = ""
    pause_s: float = 0.0  # of its Retry-After


class RobotsFetcher:
    """Fetches robots.txt files; each instance belongs to one event loop."""

    def __init__(self, config: CrawlConfig) -> None:
        """Open no connection yet; ConfigError if `crawl.allow_private` is invalid."""
        self.config, self.guard = config, SsrfGuard(config)
        self._session: aiohttp.ClientSession | None = None

    async def read(self, origin: str) -> OriginRules:
        """Return the rules of an origin; whatever goes wrong is a rule that forbids every URL."""
        try:
            return await self.read_answer(origin)
        except TimeoutError:
            return _deny_all(f"was not whole within {self.config.fetch_timeout_s:g} s")
        except NETWORK_ERRORS as error:
            return _deny_all(f"cannot be read ({str(error) or type(error).__name__})")

    async def read_answer(self, origin: str) -> OriginRules:
        """Return the rules of an origin that answers.

        Raises:
            TimeoutError: There is no complete answer within `crawl.fetch_timeout_s`.
            NETWORK_ERRORS: There is none at all.
        """
        try:
            # One deadline for all attempts: a server that drips must not hold up the crawl three times.
            async with asyncio.timeout(self.config.fetch_timeout_s):
                answer = await self._fetch_with_retries(f"{origin}/robots.txt")
        except Rejected as error:
            return OriginRules(rejection=(error.outcome, f"robots.txt: {error.reason}"), ttl_s=FAILED_ROBOTS_TTL_S)
        status, text = answer.status, answer.text
        if status >= 500 or status == 429:
            return _deny_all(f"answers {status}", answer.pause_s)
        # Any other status below 500 means that there is no robots.txt, so everything is allowed.
        robots = parse_robots(text, self.config.user_agent) if status < 300 else RobotsTxt()
        if robots.crawl_delay_s > MAX_CRAWL_DELAY_S:
            reason = f"robots.txt: Crawl-delay of {robots.crawl_delay_s:g} s, too long"
            return OriginRules(rejection=(Outcome.ROBOTS, reason))
        return OriginRules(robots, self.config.min_request_interval_s)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.guard.close()

    async def _fetch_with_retries(self, url: str) -> _RobotsAnswer:
        """Return the answer; the last of `NUM_TRIES` attempts decides."""
        # Redirects are followed inside an attempt. A 429 or a Retry-After is not retried: the host asks to be left
        # alone.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(NETWORK_ERRORS)
            | retry_if_result(lambda answer: answer.status >= 500 and not answer.pause_s),
            wait=wait_incrementing(start=BACKOFF_S, increment=BACKOFF_S),
            stop=stop_after_attempt(NUM_TRIES),
            retry_error_callback=_last_result,
        )
        answer: _RobotsAnswer = await retrying(self._fetch, url)
        return answer

    async def _fetch(self, url: str) -> _RobotsAnswer:
        self._session = self._session or open_session(self.config, self.guard)
        for _ in range(MAX_REDIRECTS + 1):
            parsed = parse_url(url)
            self.guard.check(parsed)
            async with self._session.get(parsed, allow_redirects=False) as response:
                following = redirect_target(url, response)
                if following is None:
                    return _RobotsAnswer(response.status, await _read_text(response), retry_after(response.headers))
                url = following
        # RFC 9309, section 2.3.1.2: after five redirects the file may be taken for unavailable.
        return _RobotsAnswer(404)


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """Return the first `MAX_ROBOTS_BYTES` of a body as text."""
    body, decoder = bytearray(), ContentDecoder(response.headers.get("Content-Encoding", ""))
    # A longer file is cut, as the RFC allows, so that an endless one ends.
    while len(body) < MAX_ROBOTS_BYTES and (chunk := await response.content.readany()):
        body += decoder.decode(chunk, MAX_ROBOTS_BYTES)
    return body[:MAX_ROBOTS_BYTES].decode("utf-8", errors="replace")


def _last_result(state: RetryCallState) -> _RobotsAnswer:
    """Return the answer of the last attempt, or raise its error."""
    assert state.outcome is not None, "an attempt was made"
    answer: _RobotsAnswer = state.outcome.result()
    return answer


def _deny_all(what: str, pause_s: float = 0.0) -> OriginRules:
    reason = f"robots.txt {what}, so nothing may be requested (RFC 9309, 2.3.1.4)"
    # Nobody waits for this: the URLs fail until robots.txt may be asked for again.
    ttl_s = min(max(FAILED_ROBOTS_TTL_S, pause_s), ROBOTS_TTL_S)
    return OriginRules(rejection=(Outcome.UNREACHABLE, reason), ttl_s=ttl_s)
