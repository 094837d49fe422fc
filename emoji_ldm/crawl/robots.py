"""robots.txt by RFC 9309: the group of our name, the longest matching rule, `*` and `$`, Crawl-delay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5: at least so much must be read


@dataclass(frozen=True)
class Robots:
    """What one host's robots.txt asks of us."""

    rules: tuple[tuple[str, bool], ...] = ()  # (path pattern, allowed)
    delay_s: float = 0.0
    denied: str = ""  # why nothing may be requested, or ""

    def refusal(self, url: str) -> str:
        """Why this URL must not be requested; "" if it may."""
        if self.denied:
            return self.denied
        parts = urlsplit(url)
        path = _normal((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        matching = [(len(rule), allowed, rule) for rule, allowed in self.rules if _matches(rule, path)]
        if not matching:
            return ""
        _, allowed, rule = max(matching)  # the longest wins; of equals, Allow (RFC 9309, 2.2.2)
        return "" if allowed else f"robots.txt: Disallow: {rule}"


def parse_robots(text: str, user_agent: str) -> Robots:
    """Rules for a user agent such as `emoji-ldm/0.1 (+https://...)`: of its own groups, else of `*`."""
    product = user_agent.split("/")[0].strip().lower()
    groups: dict[str, list[tuple[str, str]]] = {}
    agents: list[str] = []
    in_rules = False
    for field, value in _lines(text):
        if field == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(value.lower())
            groups.setdefault(value.lower(), [])
        elif field in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            for agent in agents:
                groups[agent].append((field, value))
    chosen = groups.get(product, groups.get("*", []))
    rules = tuple((_normal(value), field == "allow") for field, value in chosen if field != "crawl-delay" and value)
    delays = [_seconds(value) for field, value in chosen if field == "crawl-delay"]
    return Robots(rules, max(delays, default=0.0))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.lstrip("\ufeff").splitlines():
        field, colon, value = line.split("#", 1)[0].partition(":")
        if colon:
            yield field.strip().lower(), value.strip()


def _seconds(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0


def _normal(path: str) -> str:
    """The same octets, spelt the same: everything but what a path may hold is percent-encoded."""
    return re.sub(r"%[0-9a-fA-F]{2}", lambda code: code.group().upper(), quote(path, safe="/%?&=+:@!$*'(),;~-._"))


def _matches(rule: str, path: str) -> bool:
    ends = rule.endswith("$")
    pattern = ".*".join(re.escape(part) for part in rule.removesuffix("$").split("*"))
    return re.match(pattern + ("$" if ends else ""), path) is not None
