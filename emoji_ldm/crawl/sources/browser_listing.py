"""Listing pages in a browser: each page once, once more after a crash; the browser is fresh before it grows old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.page_types import ListedPage, PageContent, read_pages
from emoji_ldm.crawl.politeness.http_session import retry_after
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.crawl.politeness.robots import robots_tag_opt_outs
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources.browser import Browser, BrowserLost, PageFailed, RenderedPage
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, to_page_rejection
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

PAGES_PER_BROWSER = 200  # a browser grows with every page; a fresh one costs a second
# A browser that grows past this would soon meet the memory limit of a small worker, which then loses all it was doing.
# The measure counts memory that Chromium's processes share once for each of them, so it errs on the early side.
MAX_BROWSER_BYTES = 1_500_000_000
RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
BACKOFF_S = 0.5


class BrowserListingReader:
    """Owns one browser and walks listing pages with it, politely."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        """Read the profile; the browser starts with the first page."""
        self.config, self.gate, self.profile = config, gate, load_site_profile(config.profile)
        self.judge, self.runner = RepeatedPageDetector(), asyncio.Runner()
        self.browser: Browser | None = None
        self.num_views = self.num_browsers = 0
        self.max_memory = MAX_BROWSER_BYTES

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `Reader.walk`."""
        return read_pages(tag, urls, self._read)

    def close(self) -> None:
        """End the browser and the connections."""
        if self.browser is not None:
            self.browser.quit()
            self.browser = None
        self.runner.run(self.gate.close())
        self.runner.close()

    def look(self, url: str) -> RenderedPage:
        """A page as the browser shows it, after one retry if that may help; Refused if there is none."""
        for last in (False, True):
            try:
                view = self._visit(url)
            except BrowserLost as lost:
                self._drop_browser(kill=True)
                if last:
                    raise Rejected(Outcome.FAILED, f"the browser crashed twice: {lost}") from None
                continue
            except PageFailed as failed:
                raise Rejected(Outcome.FAILED, str(failed)) from None
            if view.status not in RETRYABLE_STATUSES:
                return view
            time.sleep(0 if last else BACKOFF_S)
        raise Rejected(Outcome.FAILED, f"HTTP {view.status}, twice", view.status)

    def _read(self, tag: str, url: str) -> PageContent:
        try:
            view = self.look(url)
        except Rejected as refused:
            raise to_page_rejection(refused) from None
        return self.judge.content(tag, url, view.found, view.status or None)

    def _visit(self, url: str) -> RenderedPage:
        permit, view = self.runner.run(self.gate.enter(url)), None
        try:
            view = self._open_browser().view(url, self.profile)
        finally:
            status = view.status or None if view else None
            pause_s = retry_after(CIMultiDictProxy(CIMultiDict(view.headers))) if view else 0.0
            self.runner.run(self.gate.leave(permit, status=status, retry_after_s=pause_s))
        self._check_landing(url, view)
        return view

    def _check_landing(self, url: str, view: RenderedPage) -> None:
        """Refused if the page may not be used, or redirects ended where the gate would not have let us in."""
        tags = [view.headers.get("x-robots-tag", "").replace("\n", ",")]
        if refusals := robots_tag_opt_outs(tags, self.config.user_agent):
            raise Rejected(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(refusals)}", view.status or None)
        ended, asked = urlsplit(view.url), urlsplit(url)
        if ended.scheme in ("http", "https") and ended.netloc != asked.netloc:
            permit = self.runner.run(self.gate.enter(view.url))
            self.runner.run(self.gate.leave(permit))

    def _open_browser(self) -> Browser:
        """The browser, replaced before it is too old, too large or stuck."""
        if self.browser is not None and (
            self.num_views >= PAGES_PER_BROWSER or self.browser.is_stuck or self.browser.memory() > self.max_memory
        ):
            self._drop_browser()
        if self.browser is None:
            self.browser = self._start()
            self.num_browsers += 1
        self.num_views += 1
        return self.browser

    def _start(self) -> Browser:
        """A browser; a start that fails, as when it is killed meanwhile, is tried once more."""
        for last in (False, True):
            try:
                return Browser(user_agent=self.config.user_agent, timeout_s=self.config.page_timeout_s)
            except CrawlError:
                if last:
                    raise
        raise AssertionError("the second try returns or raises")

    def _drop_browser(self, *, kill: bool = False) -> None:
        if self.browser is not None:
            self.browser.kill() if kill else self.browser.quit()
        self.browser, self.num_views = None, 0
