"""A page with all its tiles: those of the first screen, and what it shows beyond.

Beyond the first screen, tiles are collected after each step (scrolling, a button), so that lists which remove what is
out of view lose nothing. Each step may take as long as a page, and the steps end when one shows nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles
from emoji_ldm.crawl.page_types import STOPPED
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.crawl.sources.browser_tab import BrowserTab
from emoji_ldm.crawl.sources.open_page import TILES_QUIET_S, WORDS, OpenPage, PageRequest

END_QUIET_S = 1.0  # without another tile, after a step that has shown nothing new
MAX_GROWTH_S = 900.0
MAX_IDLE_STEPS = 3  # of scrolling that moves on but shows nothing new
MAX_TILES = 20_000


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
    page = OpenPage(tab, request)
    growth = _Growth(page)
    with tab.page_errors():
        page.open()
        first = page.snapshot()
        # Pages of an error are read as they are: nothing more is to be had there.
        if first.elements and tab.last_status < 400:
            growth.grow()
    return growth.result(first)


def shows_more(profile: SiteProfile) -> bool:
    """Whether pages are expected to show more by scrolling or pressing, at the same address."""
    return profile.more in ("scroll", "button") or (profile.more == "auto" and "{page}" not in profile.url)


class _Growth:
    """The steps by which a page shows more."""

    def __init__(self, page: OpenPage) -> None:
        self.page, self.growth, self.ending = page, "", ""
        # Pages with numbers in their address need no button, and rarely more than the first screen.
        self.is_thorough = shows_more(page.request.profile)

    def grow(self) -> None:
        """Scroll and press, as the profile says, until nothing new is shown."""
        more, began = self.page.request.profile.more, time.monotonic()
        if more in ("auto", "scroll"):
            self._scroll(began)
        if more == "button" or (more == "auto" and self.is_thorough and not self.growth):
            self._press(began)

    def _step(self, began: float) -> bool:
        """Wait until a step has shown what it shows, and merge it; whether another step may follow."""
        num, self.page.changed_at = len(self.page.tiles), time.monotonic()
        for quiet_s in (TILES_QUIET_S, END_QUIET_S) if self.is_thorough else (TILES_QUIET_S,):
            self.page.quiet_s = quiet_s
            self.page.settle(time.monotonic() + self.page.tab.timeout_s)
            self.page.merge()
            # What seems to be the end is looked at twice, since the end of a list is no reason for haste.
            if len(self.page.tiles) > num:
                break
        self.page.quiet_s = TILES_QUIET_S
        if len(self.page.tiles) >= MAX_TILES or time.monotonic() - began > MAX_GROWTH_S:
            self.ending = f"{STOPPED} {len(self.page.tiles)} tiles"
            return False
        return True

    def _scroll(self, began: float) -> None:
        """Scroll to the end as long as it moves away; step by step where that skips tiles."""
        first = {tile.image_url for tile in self.page.snapshot().tiles}
        height, num, steps, idle = -1.0, len(self.page.tiles), 0, 0
        while steps < self.page.request.max_steps:
            state = self._scroll_to("end")
            if not state["moved"] and idle:
                break
            steps += 1
            if not self._step(began):
                return
            shown = {tile.image_url for tile in self.page.snapshot().tiles}
            # A list that removes tiles, or fills gaps, has to be seen part by part.
            if not first <= shown or (len(self.page.tiles) > num and self._height() == state["height"]):
                self._scroll_through(began, len(first))
                return
            idle = idle + 1 if len(self.page.tiles) == num else 0
            # A page may grow without end and show nothing new.
            if idle and (state["height"] == height or idle == MAX_IDLE_STEPS):
                break
            height, num = state["height"], len(self.page.tiles)
        self._finish("scroll", steps, len(first))

    def _scroll_through(self, began: float, first: int) -> None:
        self._scroll_to("top")
        steps = 0
        while self._step(began) and steps < self.page.request.max_steps:
            steps += 1
            if not self._scroll_to("step")["moved"]:
                break
        self._finish("scroll", steps, first)

    def _scroll_to(self, mode: str) -> dict[str, Any]:
        self.page.request.between_steps()
        return self.page.tab.run_script("scroll.js", mode) or {"moved": False, "height": -1.0}

    def _height(self) -> float:
        return float((self.page.tab.run_script("scroll.js", "") or {"height": -1.0})["height"])

    def _press(self, began: float) -> None:
        """Press the button for more, or for the next tiles, until it is gone or shows nothing new."""
        useless, steps = list[str](), 0
        first = len(self.page.tiles)
        while steps < self.page.request.max_steps:
            num = len(self.page.tiles)
            self.page.request.between_steps()
            name = self.page.tab.run_script("press.js", WORDS, useless)
            if name is None:
                break
            steps += 1
            if not self._step(began):
                return
            if len(self.page.tiles) == num:
                useless.append(name)
        self._finish("button", steps, first)

    def _finish(self, kind: str, steps: int, first: int) -> None:
        if len(self.page.tiles) > first:
            self.growth = kind
            verb = "scrolling" if kind == "scroll" else "pressing a button"
            is_cut = steps >= self.page.request.max_steps
            self.ending = f"{steps} steps of {verb}, {f'{STOPPED} the limit' if is_cut else 'until nothing new came'}"

    def result(self, first: ExtractedTiles) -> RenderedPage:
        """Return the page with the tiles of all steps."""
        tab, last = self.page.tab, self.page.snapshot()
        tab.read_responses()
        extracted = first
        if self.page.tiles:
            listing = last.listing or first.listing
            extracted = replace(first, elements=list(self.page.tiles.values()), missed="", listing=listing)
        return RenderedPage(extracted, first, first.tree.url, self.growth, self.ending, tab.last_status,
                            tab.last_headers)  # fmt: skip
