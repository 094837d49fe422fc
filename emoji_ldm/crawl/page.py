"""A page is any addressable unit that gives tiles: a listing page, an API's answer, ten thousand records of a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emoji_ldm.crawl.outcomes import Outcome, Refused

MAX_TITLE = 500
BY_STRUCTURE = "by structure: the profile's selectors matched nothing"


@dataclass(frozen=True)
class Tile:
    """An image that a page shows, and what the page calls it."""

    image_url: str  # absolute
    title: str = ""
    tag: str = ""  # empty: that of the walk


@dataclass(frozen=True)
class Content:
    """What was found on a page."""

    tiles: Sequence[Tile]
    reason: str
    http_status: int | None = None


@dataclass(frozen=True)
class Page:
    """A page that was walked: its outcome, and rows of the `tiles` table."""

    url: str
    outcome: Outcome
    reason: str
    elapsed_s: float
    http_status: int | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)


class Names(Protocol):
    """Which pages a source has: walks, each a sequence of pages with addresses."""

    @property
    def tags(self) -> Sequence[str]:
        """Distinct names of the walks: tags of a site, queries of an API, URIs of files."""
        ...

    def url(self, tag: str, page: int) -> str:
        """Address of page `page`, from 1; the same address twice means that there are no more."""
        ...


class Reader(Protocol):
    """Reads pages; what it holds open (a browser, connections) it keeps from walk to walk."""

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[Page]:
        """Pages of one walk in order, up to and with the first that is empty; CrawlError if none can be had at all."""
        ...

    def close(self) -> None:
        """End browsers and connections."""
        ...


def walked(tag: str, urls: Sequence[str], read: Callable[[str, str], Content]) -> Iterator[Page]:
    """Read pages in order, up to and with the first that is empty; `read(tag, url)` raises Refused for its outcome."""
    for url in urls:
        began = time.monotonic()
        try:
            content = read(tag, url)
            rows = [_row(tag, url, position, tile) for position, tile in enumerate(content.tiles)]
            elapsed_s = time.monotonic() - began
            page = Page(url, Outcome.LISTED, content.reason, elapsed_s, content.http_status, rows)
        except Refused as refused:
            page = Page(url, refused.outcome, refused.reason, time.monotonic() - began, refused.http_status)
        yield page
        if page.outcome is Outcome.EMPTY:
            return


def remarks(reasons: Sequence[str]) -> list[str]:
    """Lines about the pages of a crawl that its user should see, from the reasons of their outcomes."""
    missed = sum(BY_STRUCTURE in reason for reason in reasons)
    if not missed:
        return []
    pages = "page" if missed == 1 else "pages"
    return [
        f"{missed} {pages}: the selectors of crawl.profile matched nothing, so tiles were found by structure; "
        "`emoji-ldm crawl probe URL` proposes new ones"
    ]


def nothing_found(url: str, outcome: str, reason: str) -> str:
    """One line for a crawl whose first page gave no tile, and so did all others."""
    if outcome == Outcome.ROBOTS:
        return f"nothing may be read: {url} is refused ({reason}); ask the site's owner, or crawl another site"
    if outcome == Outcome.EMPTY:
        return f"found no tiles on {url}: is the tag right? ({reason})"
    return f"found no tiles on {url}: {reason}"


def _row(tag: str, url: str, position: int, tile: Tile) -> dict[str, Any]:
    tile_id = hashlib.sha256(f"{url}\n{position}".encode()).hexdigest()
    return {"tile_id": tile_id, "image_url": tile.image_url, "title": tile.title, "tag": tile.tag or tag,
            "page_url": url, "position": position}  # fmt: skip
