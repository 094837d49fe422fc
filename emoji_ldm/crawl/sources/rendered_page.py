"""A page in the browser from its address to its tiles: when it is ready, and what it shows beyond the first screen.

When is a page ready? A script in every document (`scripts/watch.js`) notes changes and what is still to come: requests
and timers, without those that only tick or wait for news. The tiles are collected after each change. They are complete
once they have not changed for a moment while nothing is to come, or for some seconds if something always is. A page
without tiles is ready once it rests.

Beyond the first screen, tiles are collected after each step (scrolling, a button), so that lists which remove what is
out of view lose nothing. Each step may take as long as a page, and the steps end when one shows nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from emoji_ldm.crawl.extract.page_links import MORE_WORDS, NEXT_WORDS, OTHER_WORDS, PAGE_ADDRESS
from emoji_ldm.crawl.extract.page_tree import tree_from_rows
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, KnownListing, TileElement, extract_tiles
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.crawl.sources.browser_tab import BrowserTab, PageFailed

POLL_INTERVAL_S = 0.08
COLLECT_INTERVAL_S = 0.2  # between two looks at a page that changes all the time
TILES_QUIET_S = 0.3  # without another tile, after which tiles are complete if nothing is to come
END_QUIET_S = 1.0  # the same after a step that has shown nothing new
TILES_BUSY_S = 4.0  # the same while something is to come: a page that never rests is read all the same
HELD_S = 10.0  # the same while the frame after a step has not been drawn, as on a machine with much other work
PAGE_QUIET_S = 1.0  # without a change, after which a complete page without tiles counts as empty
LEFT_S = 1.5  # after its answer, in which a page takes the place of the one before; a download never does
MAX_DOCUMENTS = 12  # of one page: more are a circle of redirects
MAX_GROWTH_S = 900.0
MAX_IDLE_STEPS = 3  # of scrolling that moves on but shows nothing new
MAX_TILES = 20_000
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


@dataclass(frozen=True)
class RenderedPage:
    """A page with all its tiles, and the HTTP response of its document."""

    extracted: ExtractedTiles
    first: ExtractedTiles  # what it showed before any further step
    url: str  # where redirects ended
    growth: str = ""  # how more was shown than at first: "scroll", "button" or ""
    ending: str = ""  # how that ended, for people
    status: int = 0  # 0 if the browser does not report it
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    failure: str = ""  # of a request to its own host, after which tiles may be missing


def load_page(tab: BrowserTab, request: PageRequest) -> RenderedPage:
    """Load a page, wait until its tiles are there, and let it show more as its profile says.

    Raises:
        PageFailed: The page cannot be loaded, or shows no tiles and does not rest in time.
        BrowserLost: The browser crashed or does not answer.
    """
    page = _OpenPage(tab, request)
    with tab.page_errors():
        page.open()
        first = page.snapshot()
        # Pages of an error are read as they are: nothing more is to be had there.
        if first.elements and tab.last_status < 400:
            page.grow()
    return page.result(first)


def shows_more(profile: SiteProfile) -> bool:
    """Whether pages are expected to show more by scrolling or pressing, at the same address."""
    return profile.more in ("scroll", "button") or (profile.more == "auto" and "{page}" not in profile.url)


class _OpenPage:
    """The page that is in the tab now."""

    def __init__(self, tab: BrowserTab, request: PageRequest) -> None:
        self.tab, self.request = tab, request
        profile = request.profile
        self.selectors = {"content": profile.content, "tile": profile.tile, "image": profile.image,
                          "title": profile.title}  # fmt: skip
        self.signature, self.version = "", ""
        self.extracted: ExtractedTiles | None = None
        self.known, self.url = request.known, request.url
        self.changed_at, self.collected_at = time.monotonic(), 0.0
        self.tiles: dict[str, TileElement] = {}  # {image URL: tile}, of all steps
        self.growth = self.ending = ""
        self.is_thorough, self.quiet_s = False, TILES_QUIET_S

    # Opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the page and wait until it is ready."""
        self.tab.navigate(self.request.url)
        deadline = time.monotonic() + self.tab.timeout_s
        if not self.settle(deadline) and not self.snapshot().elements:
            raise self._unfinished(f"no tiles and no rest within {self.tab.timeout_s:g} s")
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
        answered_at = None
        while time.monotonic() < deadline:
            state = self.tab.run_script("state.js", deadline=deadline)
            if state is None:  # the document is just being replaced
                time.sleep(POLL_INTERVAL_S)
                continue
            if state["is_left"]:
                answered_at = self._check_answer(answered_at)
            elif self._look(state) and self._is_ready(state):
                return True
            time.sleep(POLL_INTERVAL_S)
        if self.extracted is None:
            raise self._unfinished(f"no answer within {self.tab.timeout_s:g} s")
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
        before = [tile.image_url for tile in self.extracted.tiles] if self.extracted else None
        self.extracted = extracted
        if [tile.image_url for tile in extracted.tiles] != before:
            self.changed_at = time.monotonic()

    def _is_ready(self, state: Mapping[str, Any]) -> bool:
        if state["url"].startswith(ERROR_PAGE):
            return True
        if self.snapshot().elements:
            quiet_s = time.monotonic() - self.changed_at
            limit_s = TILES_BUSY_S if state["is_busy"] else self.quiet_s
            return quiet_s >= (HELD_S if state["is_held"] else limit_s)
        return not state["is_busy"] and state["quiet_s"] >= PAGE_QUIET_S

    # Growing ------------------------------------------------------------------------------------------------------

    def merge(self) -> None:
        """Add the tiles of the last look to all tiles."""
        for element in self.snapshot().elements:
            self.tiles.setdefault(element.tile.image_url, element)

    def grow(self) -> None:
        """Scroll and press, as the profile says, until nothing new is shown."""
        more, began = self.request.profile.more, time.monotonic()
        # Pages with numbers in their address need no button, and rarely more than the first screen.
        self.is_thorough = shows_more(self.request.profile)
        if more in ("auto", "scroll"):
            self._scroll(began)
        if more == "button" or (more == "auto" and self.is_thorough and not self.growth):
            self._press(began)

    def _step(self, began: float) -> bool:
        """Wait until a step has shown what it shows, and merge it; whether another step may follow."""
        num, self.changed_at = len(self.tiles), time.monotonic()
        for quiet_s in (TILES_QUIET_S, END_QUIET_S) if self.is_thorough else (TILES_QUIET_S,):
            self.quiet_s = quiet_s
            self.settle(time.monotonic() + self.tab.timeout_s)
            self.merge()
            # What seems to be the end is looked at twice, since the end of a list is no reason for haste.
            if len(self.tiles) > num:
                break
        self.quiet_s = TILES_QUIET_S
        if len(self.tiles) >= MAX_TILES or time.monotonic() - began > MAX_GROWTH_S:
            self.ending = f"stopped at {len(self.tiles)} tiles"
            return False
        return True

    def _scroll(self, began: float) -> None:
        """Scroll to the end as long as it moves away; step by step where that skips tiles."""
        first = {tile.image_url for tile in self.snapshot().tiles}
        height, num, steps, idle = -1.0, len(self.tiles), 0, 0
        while steps < self.request.max_steps:
            state = self._scroll_to("end")
            if not state["moved"] and idle:
                break
            steps += 1
            if not self._step(began):
                return
            shown = {tile.image_url for tile in self.snapshot().tiles}
            # A list that removes tiles, or fills gaps, has to be seen part by part.
            if not first <= shown or (len(self.tiles) > num and self._height() == state["height"]):
                self._scroll_through(began, len(first))
                return
            idle = idle + 1 if len(self.tiles) == num else 0
            # A page may grow without end and show nothing new.
            if idle and (state["height"] == height or idle == MAX_IDLE_STEPS):
                break
            height, num = state["height"], len(self.tiles)
        self._finish("scroll", steps, len(first))

    def _scroll_through(self, began: float, first: int) -> None:
        self._scroll_to("top")
        steps = 0
        while self._step(began) and steps < self.request.max_steps:
            steps += 1
            if not self._scroll_to("step")["moved"]:
                break
        self._finish("scroll", steps, first)

    def _scroll_to(self, mode: str) -> dict[str, Any]:
        self.request.between_steps()
        return self.tab.run_script("scroll.js", mode) or {"moved": False, "height": -1.0}

    def _height(self) -> float:
        return float((self.tab.run_script("scroll.js", "") or {"height": -1.0})["height"])

    def _press(self, began: float) -> None:
        """Press the button for more, or for the next tiles, until it is gone or shows nothing new."""
        useless, steps = list[str](), 0
        first = len(self.tiles)
        while steps < self.request.max_steps:
            num = len(self.tiles)
            self.request.between_steps()
            name = self.tab.run_script("press.js", WORDS, useless)
            if name is None:
                break
            steps += 1
            if not self._step(began):
                return
            if len(self.tiles) == num:
                useless.append(name)
        self._finish("button", steps, first)

    def _finish(self, kind: str, steps: int, first: int) -> None:
        if len(self.tiles) > first:
            self.growth = kind
            verb = "scrolling" if kind == "scroll" else "pressing a button"
            limit = steps >= self.request.max_steps
            self.ending = f"{steps} steps of {verb}, " + ("the limit" if limit else "until nothing new came")

    def result(self, first: ExtractedTiles) -> RenderedPage:
        """Return the page with the tiles of all steps."""
        tab, last = self.tab, self.snapshot()
        tab.read_responses()
        extracted = first
        if self.tiles:
            listing = last.listing or first.listing
            extracted = replace(first, elements=list(self.tiles.values()), missed="", listing=listing)
        return RenderedPage(extracted, first, first.tree.url, self.growth, self.ending, tab.last_status,
                            tab.last_headers)  # fmt: skip
