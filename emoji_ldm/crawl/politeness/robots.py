"""robots.txt and X-Robots-Tag: what a site asks of crawlers.

The rules of robots.txt follow RFC 9309: the groups of our product token apply, else those of `*`; the longest matching
rule wins, and Allow wins a tie; `*` stands for any characters and `$` for the end. Crawl-delay is not part of the RFC
but widely used. Reading the file over the network is `robots_fetcher`'s part.
"""

# Ours instead of Protego 0.7: on the corpus of test_robots.py Protego is evaded by dot segments, ignores a group such
# as `emoji-ldm/2.0`, applies a group `emoji` to us, and cannot name the rule that matched, which our reasons quote.

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from emoji_ldm.crawl.politeness.url_normalize import normalize_path, remove_dot_segments

OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Directives that image datasets honour; `none` means noindex and nofollow."""
# Directives whose value follows a colon, which must not be taken for the name of a crawler.
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_AGENT = re.compile(r"[a-z0-9_.*-]+")


@dataclass(frozen=True)
class RobotsTxt:
    """The rules of one robots.txt that apply to us."""

    rules: tuple[tuple[str, bool], ...] = ()  # (path pattern, is it allowed), sorted by precedence
    crawl_delay_s: float = 0.0

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
    agents: list[str] = []
    in_rules = False
    # A group is one or more user-agent lines followed by rules. Groups of the same name are merged (section 2.2.1).
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
    # A group of our own replaces that of `*` as a whole, also if it is empty (section 2.2.1).
    chosen = groups.get(product_token(user_agent), groups.get("*", []))
    rules = {(normalize_path(value), field == "allow") for field, value in chosen if field != "crawl-delay" and value}
    delays = [_parse_delay(value) for field, value in chosen if field == "crawl-delay"]
    # The longest rule takes precedence; of equally long ones, Allow does (RFC 9309, section 2.2.2).
    return RobotsTxt(tuple(sorted(rules, key=lambda r: (-len(r[0]), not r[1], r[0]))), max(delays, default=0.0))


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
