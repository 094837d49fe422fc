"""A page is any addressable unit that gives tiles: a listing page, an API's answer, ten thousand records of a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emoji_ldm.outcomes import Outcome, Rejected

MAX_TITLE = 500
STRUCTURE_FALLBACK = "by structure: the profile's selectors matched nothing"


@dataclass(frozen=True)
class Tile:
    """An image that a page shows, and what the page calls it."""

    image_url: str  # absolute
    title: str = ""
    tag: str = ""  # empty: that of the walk


@dataclass(frozen=True)
class PageContent:
    """What was found on a page."""

    tiles: Sequence[Tile]
    reason: str
    http_status: int | None = None


@dataclass(frozen=True)
class ListedPage:
    """A page that was walked: its outcome, and rows of the `tiles` table."""

    url: str
    outcome: Outcome
    reason: str
    elapsed_s: float
    http_status: int | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)


class PageNames(Protocol):
    """Which pages a source has: walks, each a sequence of pages with addresses."""

    @property
    def tags(self) -> Sequence[str]:
        """Distinct names of the walks: tags of a site, queries of an API, URIs of files."""
        ...

    def url(self, tag: str, page: int) -> str:
        """Address of page `page`, from 1; the same address twice means that there are no more."""
        ...


class PageReader(Protocol):
    """Reads pages; what it holds open (a browser, connections) it keeps from walk to walk."""

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """Pages of one walk in order, up to and with the first that is empty; CrawlError if none can be had at all."""
        ...

    def close(self) -> None:
        """End browsers and connections."""
        ...


def read_pages(tag: str, urls: Sequence[str], read: Callable[[str, str], PageContent]) -> Iterator[ListedPage]:
    """Read pages in order, up to and with the first that is empty; `read(tag, url)` raises Refused for its outcome."""
    for url in urls:
        began = time.monotonic()
        try:
            content = read(tag, url)
            rows = [_tile_row(tag, url, position, tile) for position, tile in enumerate(content.tiles)]
            elapsed_s = time.monotonic() - began
            page = ListedPage(url, Outcome.LISTED, content.reason, elapsed_s, content.http_status, rows)
        except Rejected as refused:
            page = ListedPage(url, refused.outcome, refused.reason, time.monotonic() - began, refused.http_status)
        yield page
        if page.outcome is Outcome.EMPTY:
            return


def selector_warnings(reasons: Sequence[str]) -> list[str]:
    """Lines about the pages of a crawl that its user should see, from the reasons of their outcomes."""
    missed = sum(STRUCTURE_FALLBACK in reason for reason in reasons)
    if not missed:
        return []
    pages = "page" if missed == 1 else "pages"
    return [
        f"{missed} {pages}: the selectors of crawl.profile matched nothing, so tiles were found by structure; "
        "`emoji-ldm crawl probe URL` proposes new ones"
    ]


def no_tiles_message(url: str, outcome: str, reason: str) -> str:
    """One line for a crawl whose first page gave no tile, and so did all others."""
    if outcome == Outcome.ROBOTS:
        return f"nothing may be read: {url} is refused ({reason}); ask the site's owner, or crawl another site"
    if outcome == Outcome.EMPTY:
        return f"found no tiles on {url}: is the tag right? ({reason})"
    return f"found no tiles on {url}: {reason}"


def _tile_row(tag: str, url: str, position: int, tile: Tile) -> dict[str, Any]:
    tile_id = hashlib.sha256(f"{url}\n{position}".encode()).hexdigest()
    return {"tile_id": tile_id, "image_url": tile.image_url, "title": tile.title, "tag": tile.tag or tag,
            "page_url": url, "position": position}  # fmt: skip
