"""Listing pages in a browser as a source: each page once, once more after a crash; browsers are replaced in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from multidict import CIMultiDict, CIMultiDictProxy
from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.pagination import next_page_url
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.page_types import ListedPage, PageContent, read_pages
from emoji_ldm.crawl.politeness.browser_proxy import BrowserProxy
from emoji_ldm.crawl.politeness.http_session import retry_after
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.crawl.politeness.robots import robots_tag_opt_outs
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources.browser import Browser, BrowserLost, PageFailed
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, to_page_rejection
from emoji_ldm.crawl.sources.rendered_page import PageRequest, RenderedPage, load_page
from emoji_ldm.crawl.sources.sitemap import SitemapPages
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

# A browser grows with every page, and starting a fresh one costs a second.
PAGES_PER_BROWSER = 200
# Above this size a browser would soon reach the memory limit of a small worker, which would then lose all its work.
# Memory shared by Chromium's processes is counted once for each of them, so the measure errs on the safe side.
MAX_BROWSER_BYTES = 1_500_000_000
RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
NUM_TRIES, BACKOFF_S = 2, 0.5
TUNNEL_FAILED = "ERR_TUNNEL_CONNECTION_FAILED"  # Chromium's words for a document whose address the proxy refused


class BrowserListingReader:
    """Reads listing pages with one browser, through the rate limiter."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Load the profile; the browser starts with the first page."""
        self.config, self.rate_limiter, self.profile = config, rate_limiter, load_site_profile(config.profile)
        self.repeats, self.runner = RepeatedPageDetector(), asyncio.Runner()
        self.browser: Browser | None = None
        self.proxy = BrowserProxy(config)
        self.num_loads = self.num_browsers = 0
        self.max_memory_bytes = MAX_BROWSER_BYTES
        self.http_fetcher = HttpFetcher(config, rate_limiter)
        self.sitemap = SitemapPages(
            lambda url: self.runner.run(self.http_fetcher.get(url)).body,
            lambda origin: self.runner.run(rate_limiter.rules(origin)).robots.sitemaps,
        )

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `PageReader.read`."""
        return read_pages(tag, urls, self._read_page)

    def close(self) -> None:
        """End the browser and close the rate limiter."""
        if self.browser is not None:
            self.browser.quit()
            self.browser = None
        self.proxy.close()
        self.runner.run(self.http_fetcher.close())
        self.runner.run(self.rate_limiter.close())
        self.runner.close()

    def load(self, url: str, tag: str = "") -> RenderedPage:
        """Load a page of a tag in the browser, with one retry if that may help; Rejected if there is none."""
        retrying = Retrying(
            retry=retry_if_exception_type(BrowserLost) | retry_if_result(_is_retryable),
            # A lost browser is replaced at once; a server that is overloaded gets a pause.
            wait=lambda state: 0 if state.outcome and state.outcome.failed else BACKOFF_S,
            stop=stop_after_attempt(NUM_TRIES),
            retry_error_callback=_reject_last,
        )
        try:
            page: RenderedPage = retrying(self._load_or_drop_browser, url, tag)
        except PageFailed as error:
            raise Rejected(Outcome.FAILED, str(error)) from None
        return page

    def _read_page(self, tag: str, url: str) -> PageContent:
        try:
            page = self.load(url, tag)
            first = self.profile.page_url(self.config.site, tag, 1) if self.config.site else url
            if url != first and self.repeats.needs_first_page(tag, page.extracted):
                self.repeats.learn(tag, self.load(first, tag).extracted)
                page = self.load(url, tag)
        except Rejected as error:
            raise to_page_rejection(error) from None
        content = self.repeats.content(tag, url, page.extracted, page.status or None)
        notes = "; ".join(filter(None, (page.ending, page.failure)))
        reason = content.reason + (f" ({notes})" if notes else "")
        return replace(content, reason=reason, next_url=self._next_url(url, first, page))

    def _next_url(self, url: str, first: str, page: RenderedPage) -> str:
        if not self.profile.follows_links:
            return ""
        if self.profile.more == "sitemap":
            return self.sitemap.following(first, url)
        return next_page_url(page.url, page.extracted.tree.links)

    def _load_or_drop_browser(self, url: str, tag: str) -> RenderedPage:
        try:
            return self._load_with_permit(url, tag)
        except BrowserLost:
            self._drop_browser(kill=True)
            raise

    def _load_with_permit(self, url: str, tag: str) -> RenderedPage:
        # One permit for the page as it opens, and one for each step that lets it load more: the browser loads scripts
        # and data on its own, as a visitor does.
        permits, page = [self.runner.run(self.rate_limiter.acquire(url))], None
        # Discard those of the previous page.
        self.proxy.take_refusals()
        self.proxy.take_failures()

        def next_permit() -> None:
            # Returned first, since a host may allow no second one beside it.
            self.runner.run(self.rate_limiter.release(permits.pop()))
            permits.append(self.runner.run(self.rate_limiter.acquire(url)))

        request = PageRequest(
            url, self.profile, self.repeats.known_listings.get(tag), self.config.max_pages, next_permit
        )
        try:
            page = load_page(self._open_browser(), request)
        except PageFailed as error:
            # The browser only says that its tunnel failed; the proxy knows why. A page that fails otherwise does not
            # fail because one of its pictures or scripts was refused.
            refusals = self.proxy.take_refusals()
            own = refusals.get(urlsplit(url).hostname or "")
            if reason := own or (next(iter(refusals.values()), "") if TUNNEL_FAILED in str(error) else ""):
                raise Rejected(Outcome.ADDRESS, reason) from error
            raise
        finally:
            # A page that stops the browser says nothing against its server, which has answered.
            status = (page.status if page else self.browser.last_status if self.browser else 0) or None
            pause_s = retry_after(CIMultiDictProxy(CIMultiDict(page.headers))) if page else 0.0
            for permit in permits:
                self.runner.run(self.rate_limiter.release(permit, status=status, retry_after_s=pause_s))
        self._check_redirect_target(url, page)
        # A network that failed while the page was scrolled leaves a shorter list, which looks like a complete one.
        failed = self.proxy.take_failures().get(urlsplit(page.url).hostname or "")
        return replace(page, failure=f"a request of the page failed: {failed}") if failed else page

    def _check_redirect_target(self, url: str, page: RenderedPage) -> None:
        """Reject a page that may not be used, or whose redirects ended where it must not be requested."""
        tags = [page.headers.get("x-robots-tag", "").replace("\n", ",")]
        if opt_outs := robots_tag_opt_outs(tags, self.config.user_agent):
            raise Rejected(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(opt_outs)}", page.status or None)
        # The browser has followed redirects by itself: the rate limiter can only say afterwards that it must not have.
        final, requested = urlsplit(page.url), urlsplit(url)
        if (reason := self.proxy.take_refusals().get(final.hostname or "")) and page.status == 403:
            raise Rejected(Outcome.ADDRESS, reason)
        if final.scheme in ("http", "https") and final.netloc != requested.netloc:
            permit = self.runner.run(self.rate_limiter.acquire(page.url))
            self.runner.run(self.rate_limiter.release(permit))

    def _open_browser(self) -> Browser:
        """Return the browser, replaced if it has loaded many pages, is too large or is stuck."""
        if self.browser is not None and (
            self.num_loads >= PAGES_PER_BROWSER
            or self.browser.is_stuck
            or self.browser.memory_bytes() > self.max_memory_bytes
        ):
            self._drop_browser()
        if self.browser is None:
            self.browser = self._start_browser()
            self.num_browsers += 1
        self.num_loads += 1
        return self.browser

    def _start_browser(self) -> Browser:
        """Start a browser; a start that fails, for example because it is killed meanwhile, is tried once more."""
        retrying = Retrying(retry=retry_if_exception_type(CrawlError), stop=stop_after_attempt(NUM_TRIES), reraise=True)
        timeout_s = self.config.page_timeout_s
        return retrying(Browser, user_agent=self.config.user_agent, timeout_s=timeout_s, proxy=self.proxy)

    def _drop_browser(self, *, kill: bool = False) -> None:
        if self.browser is not None:
            # A browser that hangs would not answer `quit`.
            self.browser.kill() if kill else self.browser.quit()
        self.browser, self.num_loads = None, 0


def _is_retryable(page: RenderedPage) -> bool:
    return page.status in RETRYABLE_STATUSES or bool(page.failure)


def _reject_last(state: RetryCallState) -> RenderedPage:
    """Reject the page after the last attempt, which ended with a crash or an error status.

    A page is kept of which a request fails each time: its reason says so.
    """
    assert state.outcome is not None, "an attempt was made"
    if state.outcome.failed:
        raise Rejected(Outcome.FAILED, f"the browser crashed twice: {state.outcome.exception()}") from None
    page: RenderedPage = state.outcome.result()
    if page.status not in RETRYABLE_STATUSES:
        return page
    raise Rejected(Outcome.FAILED, f"HTTP {page.status}, twice", page.status)
