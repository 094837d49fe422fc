"""What is left to do, as plain anti-joins of committed tables: a crawl that died goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.outcomes import Outcome
from emoji_ldm.crawl.page import Names
from emoji_ldm.crawl.profile import ApiProfile, Profile

FIRST_WAVE = 4  # pages of a tag that are read at first; each wave is as large as all before it, and these more
PAGES_PER_BLOCK = 4  # pages that one browser walks in order, and one commit
FAILS_IN_A_ROW = 4  # so many pages in a row that cannot be listed end a tag
ENDED_BADLY = (Outcome.FAILED, Outcome.ROBOTS, Outcome.ADDRESS)


@dataclass(frozen=True)
class Block:
    """Neighbouring pages of one tag, walked in order up to the first empty one."""

    tag: str
    urls: list[str]


@dataclass(frozen=True)
class SitePages:
    """Names of a site's pages: those of its tags, by a profile."""

    site: str
    wanted: tuple[str, ...]
    profile: Profile | ApiProfile

    @property
    def tags(self) -> Sequence[str]:
        """The wanted tags, each once."""
        return list(dict.fromkeys(self.wanted))

    def url(self, tag: str, page: int) -> str:
        """Address of page `page`, from 1, of a tag."""
        return self.profile.page_url(self.site, tag, page)


def next_pages(config: CrawlConfig, names: Names, ended: Mapping[str, str]) -> list[Block]:
    """The next wave: for each tag that has not come to its end, its next pages without an outcome.

    Args:
        config: Says how many pages a tag may have (`max_pages`).
        names: Tags, and addresses of their pages.
        ended: {page URL: outcome} of all that is done.
    """
    blocks = []
    for tag in names.tags:
        urls = list(dict.fromkeys(names.url(tag, page) for page in range(1, config.max_pages + 1)))
        done = [ended.get(url) for url in urls]
        if _is_over(done):
            continue
        missing = [url for url, outcome in zip(urls, done, strict=True) if outcome is None]
        wave = missing[: len(urls) - len(missing) + FIRST_WAVE]
        blocks += [Block(tag, part) for part in chunks(wave, PAGES_PER_BLOCK)]
    return blocks


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Items in lists of `size`, the last one maybe shorter."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _is_over(done: Sequence[str | None]) -> bool:
    """Whether a tag ended: at an empty page, after too many bad ones in a row, or with every page done."""
    in_a_row = 0
    for outcome in done:
        if outcome == Outcome.EMPTY:
            return True
        in_a_row = in_a_row + 1 if outcome in ENDED_BADLY else 0
        if in_a_row == FAILS_IN_A_ROW:
            return True
    return None not in done
