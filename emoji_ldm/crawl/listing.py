"""Pages of a tag -> tiles: walks pages in order until one is empty, each page with one outcome."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.browser import Browser, BrowserLost, ErrorPage, PageFailed, View
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.polite import Politeness
from emoji_ldm.crawl.profile import load_profile

PAGES_PER_BROWSER = 200  # a browser grows with every page; a fresh one costs a second
GONE = (404, 410)
MAY_HEAL = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Page:
    """A listing page that was walked: its outcome, and rows of the `tiles` table."""

    url: str
    outcome: Outcome
    reason: str
    elapsed_s: float
    http_status: int | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)


class Lister:
    """Owns one browser and walks listing pages with it, politely."""

    def __init__(self, config: CrawlConfig) -> None:
        """Read the profile; the browser starts with the first page."""
        self.config, self.profile = config, load_profile(config.profile)
        self.polite = Politeness(config)
        self.runner = asyncio.Runner()
        self.browser: Browser | None = None
        self.num_views = 0
        self.seen: dict[str, set[str]] = {}  # tag -> image addresses of the pages before

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[Page]:
        """Pages of one tag in order, up to and with the first that is empty."""
        for url in urls:
            page = self._page(tag, url)
            yield page
            if page.outcome is Outcome.EMPTY:
                return

    def close(self) -> None:
        """End the browser and the connections."""
        if self.browser is not None:
            self.browser.quit()
            self.browser = None
        self.runner.run(self.polite.close())
        self.runner.close()

    def _page(self, tag: str, url: str) -> Page:
        began = time.monotonic()
        try:
            view = self._view(url)
            tiles = self._new_tiles(tag, url, view)
        except Refused as refused:
            elapsed_s = time.monotonic() - began
            return Page(url, refused.outcome, refused.reason, elapsed_s, refused.http_status)
        return Page(url, Outcome.LISTED, f"{len(tiles)} tiles", time.monotonic() - began, view.status or None, tiles)

    def _view(self, url: str) -> View:
        """Look at a page, once more if that may help: after a crash with a fresh browser."""
        for last in (False, True):
            self.runner.run(self.polite.may_request(url))
            try:
                view = self._open_browser().view(url, self.profile)
            except BrowserLost as lost:
                self._drop_browser()
                if last:
                    raise Refused(Outcome.FAILED, f"the browser crashed twice: {lost}") from None
                continue
            except ErrorPage as failed:
                view = View([], self.runner.run(self._status(url, failed)))
            except PageFailed as failed:
                raise Refused(Outcome.FAILED, str(failed)) from None
            if view.status not in MAY_HEAL:
                return view
            time.sleep(0 if last else 0.5)
        raise Refused(Outcome.FAILED, f"HTTP {view.status}, twice", view.status)

    async def _status(self, url: str, failed: ErrorPage) -> int:
        """The status behind the browser's own error page, which does not tell it; Refused if nobody answers."""
        try:
            async with asyncio.timeout(self.config.fetch_timeout_s), self.polite.client.stream("GET", url) as response:
                status = response.status_code
        except (TimeoutError, httpx.HTTPError):
            raise Refused(Outcome.FAILED, str(failed)) from None
        if status < 400:
            raise Refused(Outcome.FAILED, str(failed), status)
        return status

    def _new_tiles(self, tag: str, url: str, view: View) -> list[dict[str, Any]]:
        """The rows of a page; Refused if it has none, or none that earlier pages of the tag have not."""
        if view.status in GONE:
            raise Refused(Outcome.EMPTY, f"HTTP {view.status}", view.status)
        if view.status >= 400:
            raise Refused(Outcome.FAILED, f"HTTP {view.status}", view.status)
        if not view.tiles:
            raise Refused(Outcome.EMPTY, "no tiles", view.status or None)
        before, here = self.seen.setdefault(tag, set()), {tile["src"] for tile in view.tiles}
        if here <= before:  # sites answer a page past the end with the last one
            raise Refused(Outcome.EMPTY, "only tiles of earlier pages", view.status or None)
        before |= here
        return [_row(tag, url, tile) for tile in view.tiles]

    def _open_browser(self) -> Browser:
        if self.num_views >= PAGES_PER_BROWSER or (self.browser is not None and self.browser.is_stuck):
            self._drop_browser()
        if self.browser is None:
            self.browser = Browser(user_agent=self.config.user_agent, timeout_s=self.config.page_timeout_s)
        self.num_views += 1
        return self.browser

    def _drop_browser(self) -> None:
        if self.browser is not None:
            self.browser.quit()
        self.browser, self.num_views = None, 0


def _row(tag: str, url: str, tile: dict[str, Any]) -> dict[str, Any]:
    tile_id = hashlib.sha256(f"{url}\n{tile['position']}".encode()).hexdigest()
    return {"tile_id": tile_id, "image_url": tile["src"], "title": tile["title"], "tag": tag, "page_url": url,
            "position": tile["position"]}  # fmt: skip
