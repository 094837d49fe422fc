"""robots.txt by RFC 9309: the group of our name, the longest matching rule, `*` and `$`, Crawl-delay; X-Robots-Tag."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from emoji_ldm.crawl.path import normal, undotted

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5: at least so much must be read
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Directives that image data sets honour; `none` stands for noindex, nofollow."""
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_AGENT = re.compile(r"[a-z0-9_.*-]+")


@dataclass(frozen=True)
class Robots:
    """What one host's robots.txt asks of us."""

    rules: tuple[tuple[str, bool], ...] = ()  # (path pattern, allowed), the rule that wins first
    delay_s: float = 0.0

    def refusal(self, url: str) -> str:
        """Why this URL must not be requested; "" if it may."""
        if not self.rules:
            return ""
        parts = urlsplit(url)
        path = normal(undotted(parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        for rule, allowed in self.rules:
            if _matches(rule, path):
                return "" if allowed else f"robots.txt: Disallow: {rule}"
        return ""


def product_of(user_agent: str) -> str:
    """The name that robots.txt would call us by: the product token of a user agent."""
    return user_agent.split("/")[0].strip().lower()


def parse_robots(text: str, user_agent: str) -> Robots:
    """Rules for a user agent such as `emoji-ldm/0.1 (+https://...)`: of its own groups, else of `*`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    agents: list[str] = []
    in_rules = False
    for field, value in _lines(text):
        if field == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(product_of(value))
            groups.setdefault(agents[-1], [])
        elif field in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            for agent in agents:
                groups[agent].append((field, value))
    chosen = groups.get(product_of(user_agent), groups.get("*", []))
    rules = {(normal(value), field == "allow") for field, value in chosen if field != "crawl-delay" and value}
    delays = [_seconds(value) for field, value in chosen if field == "crawl-delay"]
    # The longest wins; of equals, Allow (RFC 9309, 2.2.2).
    return Robots(tuple(sorted(rules, key=lambda r: (-len(r[0]), not r[1], r[0]))), max(delays, default=0.0))


def opt_outs(tags: Iterable[str], user_agent: str) -> list[str]:
    """Directives of X-Robots-Tag headers that forbid us to use an answer; those addressed to other agents do not."""
    ours, found = ("", "*", product_of(user_agent)), set[str]()
    for tag in tags:
        agent = ""  # holds until the header's end: `otherbot: noindex, noai` is all for otherbot
        for part in tag.lower().split(","):
            name, colon, directive = part.partition(":")
            if colon and name.strip() in _VALUED:
                continue
            if colon and _AGENT.fullmatch(name.strip()):
                agent = name.strip()
            else:
                directive = part
            if agent in ours and directive.strip() in OPT_OUTS:
                found.add(directive.strip())
    return sorted(found)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.lstrip("\ufeff").splitlines():
        field, colon, value = line.split("#", 1)[0].partition(":")
        if colon:
            yield field.strip().lower(), value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _matches(rule: str, path: str) -> bool:
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
