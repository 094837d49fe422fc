"""Pages and tiles, the vocabulary of all sources.

A page is any addressable unit that gives tiles: a listing page of a site, an answer of an API, or ten thousand records
of a file. Pages are grouped by tag: a tag of a site, a query of an API, or the URI of a file. The pages of a tag are
numbered from 1 and are read in order until one of them is empty; where pages have no numbers, each says which one comes
next, and the tag is a chain of pages.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emoji_ldm.outcomes import Outcome, Rejected

# Titles come from strangers: a page whose "title" is a novel must not fill the table.
MAX_TITLE = 500
# Parts of the reasons that are stored with page outcomes, where warnings and `following_page` look for them.
SELECTOR_MISSED = "matches nothing; the page"
STOPPED = "stopped at"  # a limit, before the page had shown all
NEXT_PAGE = "; next page: "
PAGES_PER_BLOCK = 4  # pages that one reader reads in order, and one commit


@dataclass(frozen=True)
class Tile:
    """An image shown on a page, and how the page labels it."""

    image_url: str  # absolute
    title: str = ""
    tag: str = ""  # empty: the tag whose pages are read


@dataclass(frozen=True)
class PageContent:
    """The tiles found on a page."""

    tiles: Sequence[Tile]
    reason: str
    http_status: int | None = None
    next_url: str = ""  # of the page after this one, where pages say so


@dataclass(frozen=True)
class ListedPage:
    """A page that was read: its outcome, and rows of the `listings` table."""

    url: str
    outcome: Outcome
    reason: str
    elapsed_s: float
    http_status: int | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)


class PageNames(Protocol):
    """The tags of a source and the addresses of their pages."""

    @property
    def tags(self) -> Sequence[str]:
        """Distinct tags: tags of a site, queries of an API, URIs of files."""
        ...

    def url(self, tag: str, page: int) -> str:
        """Return the address of page `page`, from 1. An address that repeats means that there are no more pages."""
        ...

    @property
    def follows_links(self) -> bool:
        """Whether only the first page of a tag has a known address, and each page says which one comes next."""
        ...


class PageReader(Protocol):
    """Reads pages; it keeps what it opens (a browser, connections) from one call to the next."""

    def prepare(self, num_blocks: int) -> int:
        """Prepare to read some blocks of pages; returns how many threads may call `read` at the same time."""
        ...

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """Read pages of one tag in order, up to and including the first empty one, and some that these lead to.

        Raises:
            CrawlError: No page of the source can be read at all.
        """
        ...

    def close(self) -> None:
        """Close browsers and connections."""
        ...


def read_pages(tag: str, urls: Sequence[str], read: Callable[[str, str], PageContent]) -> Iterator[ListedPage]:
    """Read pages in order, up to and including the first empty one.

    Where a page says which one comes next, that one follows, up to `PAGES_PER_BLOCK` pages in all. The reason of the
    last one carries the address that comes then, so that whoever plans the next pages goes on from there.

    Args:
        tag: Their tag.
        urls: Their addresses.
        read: `read(tag, url)` returns the content, or raises Rejected with the page's outcome.
    """
    queue, seen = deque(urls), set(urls)
    while queue:
        page, next_url = _read_page(tag, queue.popleft(), read)
        # Yielded before the check below, since the empty page itself gets an outcome.
        yield page
        if page.outcome is Outcome.EMPTY:
            return
        # A link back to a page of this block is the end, and no page is read twice.
        if next_url and not queue and next_url not in seen and len(seen) < PAGES_PER_BLOCK:
            queue.append(next_url)
            seen.add(next_url)


def _read_page(tag: str, url: str, read: Callable[[str, str], PageContent]) -> tuple[ListedPage, str]:
    """Return a page with its outcome, and the address of the next one."""
    began = time.monotonic()
    try:
        content = read(tag, url)
        # Rows are built inside the `try`: what a source raises while its tiles are iterated belongs to the page too.
        rows = [_tile_row(tag, url, position, tile) for position, tile in enumerate(content.tiles)]
        reason = content.reason + (f"{NEXT_PAGE}{content.next_url}" if content.next_url else "")
        elapsed_s = time.monotonic() - began
        return ListedPage(url, Outcome.LISTED, reason, elapsed_s, content.http_status, rows), content.next_url
    except Rejected as error:
        return ListedPage(url, error.outcome, error.reason, time.monotonic() - began, error.http_status), ""


def following_page(reason: str) -> str:
    """Return the address of the page after one, from the reason of its outcome; "" if there is none."""
    return reason.partition(NEXT_PAGE)[2]


def selector_warnings(reasons: Sequence[str]) -> list[str]:
    """Return warnings for the user of a crawl, from the reasons of its page outcomes."""
    # The reason is the only thing that is stored of how a page was read, so the warning is derived from it. That way it
    # also covers pages of earlier runs.
    missed = sum(SELECTOR_MISSED in reason for reason in reasons)
    if not missed:
        return []
    pages = "page" if missed == 1 else "pages"
    return [
        f"{missed} {pages}: the selectors of crawl.profile match nothing although the page shows images; "
        "`emoji-ldm crawl probe URL` proposes new ones"
    ]


def no_tiles_message(url: str, outcome: str, reason: str) -> str:
    """Return the error message of a crawl that found no tile, from the outcome of its first page."""
    # The three cases call for different actions: ask for permission, correct the tag, or look at the site.
    if outcome == Outcome.ROBOTS:
        return f"the crawl is not allowed: {url} is refused ({reason}); ask the site's owner, or crawl another site"
    if outcome == Outcome.EMPTY:
        return f"found no tiles on {url}: is the tag right? ({reason})"
    return f"found no tiles on {url}: {reason}"


def _tile_row(tag: str, url: str, position: int, tile: Tile) -> dict[str, Any]:
    # The id depends on page and position only: reading a page again replaces its rows instead of adding to them.
    tile_id = hashlib.sha256(f"{url}\n{position}".encode()).hexdigest()
    return {"tile_id": tile_id, "image_url": tile.image_url, "title": tile.title, "tag": tile.tag or tag,
            "page_url": url, "position": position}  # fmt: skip
