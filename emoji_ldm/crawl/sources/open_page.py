"""A page in the browser from its address until it is ready.

When is a page ready? A script in every document (`scripts/watch.js`) notes changes and what is still to come: requests
and timers, without those that only tick or wait for news. The tiles are collected after each change. They are complete
once they have not changed for a moment while nothing is to come, or for some seconds if something always is; answers of
the page's own site are waited for until its deadline (`open_requests`). A page without tiles is ready once it rests.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from emoji_ldm.crawl.extract.page_links import MORE_WORDS, NEXT_WORDS, OTHER_WORDS, PAGE_ADDRESS
from emoji_ldm.crawl.extract.page_tree import tree_from_rows
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, KnownListing, TileElement, extract_tiles
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.crawl.sources.browser_tab import BrowserTab, PageFailed

POLL_INTERVAL_S = 0.08
COLLECT_INTERVAL_S = 0.2  # between two looks at a page that changes all the time
TILES_QUIET_S = 0.3  # without another tile, after which tiles are complete if nothing is to come
GAPS = 2.5  # the same as a multiple of the last wait for more, where tiles come by and by
TILES_BUSY_S = 4.0  # the same while something is to come: a page that never rests is read all the same
HELD_S = 10.0  # the same while the frame after a step has not been drawn, as on a machine with much other work
PAGE_QUIET_S = 1.0  # without a change, after which a complete page without tiles counts as empty
LEFT_S = 1.5  # after its answer, in which a page takes the place of the one before; a download never does
MAX_DOCUMENTS = 12  # of one page: more are a circle of redirects
NUM_FRUITLESS = 2  # pages that wait for a late answer in vain before others do without it
ERROR_PAGE = "chrome-error:"
WORDS = {"pager": NEXT_WORDS, "address": PAGE_ADDRESS, "more": MORE_WORDS, "next": NEXT_WORDS, "other": OTHER_WORDS}


@dataclass(frozen=True)
class PageRequest:
    """A page to read, and what is known before."""

    url: str
    profile: SiteProfile
    known: KnownListing | None = None  # the listing as earlier pages of the tag show it
    max_steps: int = 1000  # of scrolling or pressing
    between_steps: Callable[[], None] = lambda: None  # waits until the site may be asked for more
    # Both grow, and are shared by pages.
    unanswered: set[str] = field(default_factory=set)  # paths that no page waits for
    fruitless: Counter[str] = field(default_factory=Counter)  # {path: pages that waited for its answer in vain}


class OpenPage:
    """The page that is in the tab now, with all tiles that it has shown."""

    def __init__(self, tab: BrowserTab, request: PageRequest) -> None:
        """Open nothing yet."""
        self.tab, self.request = tab, request
        profile = request.profile
        self.selectors = {"content": profile.content, "tile": profile.tile, "image": profile.image,
                          "title": profile.title}  # fmt: skip
        self.signature, self.version = "", ""
        self.extracted: ExtractedTiles | None = None
        self.known, self.url = request.known, request.url
        self.changed_at, self.collected_at = time.monotonic(), 0.0
        self.grown_at, self.gap_s = 0.0, 0.0  # when there were more tiles than before, and how long after the last time
        self.held_by = set[str]()  # paths of requests that alone keep the tiles from being complete
        self.tiles: dict[str, TileElement] = {}  # {image URL: tile}, of all steps
        self.quiet_s = TILES_QUIET_S  # may be set longer

    def open(self) -> None:
        """Load the page and wait until it is ready."""
        self.tab.navigate(self.request.url)
        deadline = time.monotonic() + self.tab.timeout_s
        if not self.settle(deadline) and not self.snapshot().elements:
            waits = "".join(f", no answer to {urlsplit(url).path}" for url in self._awaited()[:1])
            raise self._unfinished(f"no tiles and no rest within {self.tab.timeout_s:g} s{waits}")
        if self.url.startswith(ERROR_PAGE) and not self.tab.last_status:
            raise PageFailed(self.tab.last_error or "the browser shows an error page: nobody answered")
        self.known = self.snapshot().listing or self.known
        self.merge()

    def snapshot(self) -> ExtractedTiles:
        """Return the tiles of the last look."""
        assert self.extracted is not None, "the page was looked at"
        return self.extracted

    def settle(self, deadline: float) -> bool:
        """Wait until the tiles are complete; False if the deadline came first."""
        answered_at, self.grown_at, self.gap_s, self.held_by = None, 0.0, 0.0, set()
        while time.monotonic() < deadline:
            state = self.tab.run_script("state.js", deadline=deadline)
            if state is None:  # the document is just being replaced
                time.sleep(POLL_INTERVAL_S)
                continue
            if state["is_left"]:
                answered_at = self._check_answer(answered_at)
            elif self._look(state) and self._is_ready(state):
                # Their answers came late and changed nothing: news, which will change nothing on the next page.
                self.request.fruitless.update(self.held_by)
                return True
            time.sleep(POLL_INTERVAL_S)
        if self.extracted is None:
            raise self._unfinished(f"no answer within {self.tab.timeout_s:g} s")
        if self.extracted.elements:
            self.request.unanswered.update(self._awaited())
        return False

    def _unfinished(self, reason: str) -> PageFailed:
        """Return the error of a page that still goes on: its next move could replace the page that follows it."""
        self.tab.is_stuck = True
        return PageFailed(reason)

    def _check_answer(self, answered_at: float | None) -> float | None:
        """Fail if an answer has come but no page; returns since when there is one."""
        self._count_documents()
        if not self.tab.last_status:
            return None
        if answered_at is not None and time.monotonic() - answered_at > LEFT_S:
            kind = self.tab.last_headers.get("content-disposition", "").partition(";")[0]
            kind = "a download" if kind else self.tab.last_headers.get("content-type", "") or "nothing"
            raise PageFailed(f"no page but {kind} (HTTP {self.tab.last_status})")
        return answered_at or time.monotonic()

    def _count_documents(self) -> None:
        if self.tab.read_responses() > MAX_DOCUMENTS:
            raise self._unfinished(f"it leads from page to page without end: more than {MAX_DOCUMENTS} documents")

    def _look(self, state: Mapping[str, Any]) -> bool:
        """Collect the tiles if the page has changed since the last look; whether they are those of this state."""
        if state["version"] == self.version:
            return True
        now = time.monotonic()
        if now - self.collected_at < COLLECT_INTERVAL_S:
            return False
        self._count_documents()
        self.collected_at = now
        rows = self.tab.run_script("collect.js", self.selectors, WORDS, self.signature)
        if rows is not None:
            self.signature, self.url = rows["signature"], rows["url"]
            self._take(extract_tiles(tree_from_rows(rows), self.request.profile, self.known))
        if self.extracted is None:
            return False
        self.version = state["version"]
        return True

    def _take(self, extracted: ExtractedTiles) -> None:
        before = [tile.image_url for tile in self.extracted.tiles] if self.extracted else []
        self.extracted, now = extracted, time.monotonic()
        if [tile.image_url for tile in extracted.tiles] != before:
            self.changed_at = now
            self.held_by.clear()
        if len(extracted.elements) > len(before):
            self.grown_at, self.gap_s = now, now - self.grown_at if self.grown_at else 0.0

    def _is_ready(self, state: Mapping[str, Any]) -> bool:
        if state["url"].startswith(ERROR_PAGE):
            return True
        if not self.snapshot().elements:
            rests = not state["is_busy"] and state["quiet_s"] >= PAGE_QUIET_S
            return rests and self._rested_s(streams=True) >= PAGE_QUIET_S
        quiet_s = time.monotonic() - self.changed_at
        # The next tile may take as long as the last one.
        least_s = max(self.quiet_s, min(GAPS * self.gap_s, TILES_BUSY_S))
        if quiet_s < least_s or (state["is_held"] and quiet_s < HELD_S):
            return False
        is_busy = self._rested_s() < self.quiet_s or state["is_busy"]
        if is_busy and quiet_s < TILES_BUSY_S:
            return False
        awaited = self._awaited()
        self.held_by.update(awaited)
        return not awaited

    def _rested_s(self, *, streams: bool = False) -> float:
        """Return for how long no request has been open; the log is not free, so only a page that may be ready asks."""
        self.tab.read_responses()
        return 0.0 if self._awaited() else self.tab.requests.rested_s(streams=streams)

    def _awaited(self) -> list[str]:
        has_tiles = self.extracted is not None and self.extracted.elements
        fruitless = {path for path, pages in self.request.fruitless.items() if pages >= NUM_FRUITLESS}
        return self.tab.requests.awaited(self.url, self.request.unanswered | (fruitless if has_tiles else set()))

    def merge(self) -> None:
        """Add the tiles of the last look to all tiles."""
        for element in self.snapshot().elements:
            self.tiles.setdefault(element.tile.image_url, element)
