"""Listing pages in a browser as a source: several at a time, each once, and once more after a crash."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from multidict import CIMultiDict, CIMultiDictProxy
from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.pagination import next_page_url
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.page_types import ListedPage, PageContent, read_pages
from emoji_ldm.crawl.politeness.http_session import retry_after
from emoji_ldm.crawl.politeness.loop_thread import LoopThread
from emoji_ldm.crawl.politeness.request_permits import NO_ANSWER, RateLimiter, RequestPermit
from emoji_ldm.crawl.politeness.robots import robots_tag_opt_outs
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources.browser_pool import BrowserPool
from emoji_ldm.crawl.sources.browser_tab import BrowserLost, BrowserTab, PageFailed
from emoji_ldm.crawl.sources.open_page import PageRequest
from emoji_ldm.crawl.sources.open_requests import are_of_one_site
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, to_page_rejection
from emoji_ldm.crawl.sources.rendered_page import RenderedPage, load_page, shows_more
from emoji_ldm.crawl.sources.sitemap import SitemapPages
from emoji_ldm.outcomes import Outcome, Rejected

RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
NUM_TRIES, BACKOFF_S = 2, 0.5
BAD_REQUEST = 400  # the first status of an error
TUNNEL_FAILED = "ERR_TUNNEL_CONNECTION_FAILED"  # Chromium's words for a document whose address the proxy refused


class BrowserListingReader:
    """Reads listing pages in the tabs of one browser, through the rate limiter; several threads may read at once."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Load the profile; the browser starts with the first page."""
        self.config, self.rate_limiter, self.profile = config, rate_limiter, load_site_profile(config.profile)
        self.repeats, self.pool = RepeatedPageDetector(), BrowserPool(config)
        # The rate limiter belongs to one event loop, whichever thread asks for a permit.
        self.runner = LoopThread("crawl-permits")
        self.http_fetcher = HttpFetcher(config, rate_limiter)
        self.sitemap = SitemapPages(
            lambda url: self.runner.run(self.http_fetcher.get(url)).body,
            lambda origin: self.runner.run(rate_limiter.rules(origin)).robots.sitemaps,
        )
        self._repeats_lock, self._sitemap_lock = threading.Lock(), threading.Lock()
        self._unanswered = set[str]()  # paths that no page waits for any more
        self._fruitless = Counter[str]()  # {path: pages that waited for its answer in vain}

    def prepare(self, num_blocks: int) -> int:
        """See `PageReader.prepare`."""
        num = min(num_blocks, self.config.pages_per_browser)
        self.pool.expect(num)
        return num

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `PageReader.read`."""
        return read_pages(tag, urls, self._read_page)

    def close(self) -> None:
        """End the browser and close the rate limiter."""
        self.pool.close()
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
        is_alone = False

        def attempt() -> RenderedPage:
            nonlocal is_alone
            try:
                return self._load_with_permit(url, tag, is_alone=is_alone)
            except BrowserLost:
                # Perhaps this very page took the browser down: it may not do so a second time beside others.
                is_alone = True
                raise

        try:
            page: RenderedPage = retrying(attempt)
        except PageFailed as error:
            raise Rejected(Outcome.FAILED, str(error)) from None
        return page

    def _read_page(self, tag: str, url: str) -> PageContent:
        try:
            page = self.load(url, tag)
            first = self.profile.page_url(self.config.site, tag, 1) if self.config.site else url
            if url != first and self.repeats.needs_first_page(tag, page.extracted):
                model = self.load(first, tag).extracted
                with self._repeats_lock:
                    self.repeats.learn(tag, model)
                page = self.load(url, tag)
        except Rejected as error:
            raise to_page_rejection(error) from None
        try:
            with self._repeats_lock:
                content = self.repeats.content(tag, url, page.extracted, page.status or None)
        except Rejected as error:
            # It would end its tag, although nobody knows what it would have shown.
            if error.outcome is Outcome.EMPTY and page.failure and page.status < BAD_REQUEST:
                raise Rejected(Outcome.FAILED, f"{page.failure}; {error.reason}", error.http_status) from None
            raise
        notes = "; ".join(filter(None, (page.ending, page.failure)))
        reason = content.reason + (f" ({notes})" if notes else "")
        return replace(content, reason=reason, next_url=self._next_url(url, first, page))

    def _next_url(self, url: str, first: str, page: RenderedPage) -> str:
        if not self.profile.follows_links:
            return ""
        if self.profile.more == "sitemap":
            with self._sitemap_lock:  # it is read once
                return self.sitemap.following(first, url)
        return next_page_url(page.url, page.extracted.tree.links)

    def _load_with_permit(self, url: str, tag: str, *, is_alone: bool) -> RenderedPage:
        # Before a browser is started for it.
        self.runner.run(self.rate_limiter.check(url))
        permits: list[RequestPermit] = []

        def next_permit() -> None:
            # Returned first, since a host may allow no second one beside it.
            self.runner.run(self.rate_limiter.release(permits.pop()))
            permits.append(self.runner.run(self.rate_limiter.acquire(url)))

        known = self.repeats.known_listings.get(tag)
        request = PageRequest(
            url, self.profile, known, self.config.max_pages, next_permit, self._unanswered, self._fruitless
        )
        status: int | None = None
        pause_s = 0.0
        try:
            # The tab comes before the permit, here and in `next_permit`. A page that waited for a tab with the only
            # permit of its host would wait for ever for one that is in a tab and needs a permit to go on.
            with self.pool.tab(is_alone=is_alone) as tab:
                # One permit for the page as it opens, and one for each step that lets it load more: the browser loads
                # scripts and data on its own, as a visitor does.
                permits.append(self.runner.run(self.rate_limiter.acquire(url)))
                try:
                    page, refusals = _load_in_tab(tab, request)
                    pause_s = retry_after(CIMultiDictProxy(CIMultiDict(page.headers)))
                except PageFailed:
                    status = tab.last_status or NO_ANSWER
                    raise
                finally:
                    # A page that stops the browser says nothing against its server, which has answered.
                    status = tab.last_status or status
        finally:
            for permit in permits:
                self.runner.run(self.rate_limiter.release(permit, status=status, retry_after_s=pause_s))
        self._check_redirect_target(url, page, refusals)
        return page

    def _check_redirect_target(self, url: str, page: RenderedPage, refusals: Mapping[str, str]) -> None:
        """Reject a page that may not be used, or whose redirects ended where it must not be requested."""
        tags = [page.headers.get("x-robots-tag", "").replace("\n", ",")]
        if opt_outs := robots_tag_opt_outs(tags, self.config.user_agent):
            raise Rejected(Outcome.ROBOTS, f"X-Robots-Tag: {', '.join(opt_outs)}", page.status or None)
        # The browser has followed redirects by itself: the rate limiter can only say afterwards that it must not have.
        final, requested = urlsplit(page.url), urlsplit(url)
        if (reason := refusals.get(final.hostname or "")) and page.status == 403:
            raise Rejected(Outcome.ADDRESS, reason)
        # Without a permit of the first host, since two pages that lead to each other's host would wait for ever.
        if final.scheme in ("http", "https") and final.netloc != requested.netloc:
            permit = self.runner.run(self.rate_limiter.acquire(page.url))
            self.runner.run(self.rate_limiter.release(permit))


def _load_in_tab(tab: BrowserTab, request: PageRequest) -> tuple[RenderedPage, dict[str, str]]:
    """Load a page; returns it with {host: why it was refused} of its requests."""
    # Discard those of the previous page.
    tab.proxy.take_refusals()
    tab.proxy.take_failures()
    try:
        page = load_page(tab, request)
    except PageFailed as error:
        # The browser only says that its tunnel failed; the proxy knows why. A page that fails otherwise does not fail
        # because one of its pictures or scripts was refused.
        refusals = tab.proxy.take_refusals()
        own = refusals.get(urlsplit(request.url).hostname or "")
        if reason := own or (next(iter(refusals.values()), "") if TUNNEL_FAILED in str(error) else ""):
            raise Rejected(Outcome.ADDRESS, reason) from error
        raise
    # A network that failed while the page was scrolled leaves a shorter list, which looks like a complete one. Where
    # tiles are in the document, an error of its other parts matters to nobody.
    failures = tab.proxy.take_failures()
    if not page.extracted.elements or shows_more(request.profile):
        failures = tab.failed_parts | failures
    failed = next((why for host, why in failures.items() if are_of_one_site(host, page.url)), "")
    page = replace(page, failure=f"a request of the page failed: {failed}") if failed else page
    return page, tab.proxy.take_refusals()


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
