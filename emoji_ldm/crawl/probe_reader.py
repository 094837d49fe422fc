"""The readers of a crawl, as the probe uses them: page by page, with what a page shows at first and in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, extract_tiles
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.politeness.robots import OriginRules
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.crawl.site_profile import SiteProfile
from emoji_ldm.crawl.sources.page_outcomes import reject_bad_status

PROBE_STEPS = 3  # of scrolling or pressing
TAG = ""  # under which the reader remembers the listing


@dataclass(frozen=True)
class ProbedPage:
    """A page as the crawl sees it."""

    url: str
    status: int | None
    extracted: ExtractedTiles
    first: ExtractedTiles  # without the tiles of further steps
    growth: str = ""
    ending: str = ""


class ProbeReader:
    """Loads pages as `crawl.source` listing or html does, under all rules of a crawl."""

    def __init__(self, config: CrawlConfig, profile: SiteProfile, rate_limiter: LocalRateLimiter) -> None:
        """Open nothing yet.

        Args:
            config: Source and limits.
            profile: Its selectors are used; what lies beyond the first screen is found out.
            rate_limiter: It is closed together with the reader.
        """
        # Without {page}, the browser tries buttons too.
        profile = profile.model_copy(update={"url": "{site}", "more": "auto"})
        # The readers are imported on use: a browser needs selenium, a static page does not.
        self.reader: Any
        if config.source == "html":
            from emoji_ldm.crawl.sources.static_html import HtmlReader

            self.reader, self._load = HtmlReader(config, rate_limiter), self._load_static
        else:
            from emoji_ldm.crawl.sources.browser_listing import BrowserListingReader

            # A few steps are enough to see that there is more, and one page is read at a time.
            config = config.model_copy(update={"max_pages": PROBE_STEPS, "pages_per_browser": 1})
            self.reader, self._load = BrowserListingReader(config, rate_limiter), self._load_in_browser
        self.reader.profile, self.rate_limiter = profile, rate_limiter

    def load(self, url: str) -> ProbedPage:
        """Load a page; Rejected if it may not or cannot be read."""
        page = self._load(url)
        reject_bad_status(page.status)
        self.reader.repeats.learn(TAG, page.first)
        return page

    def robots(self, url: str) -> str:
        """Return what robots.txt says about a page that was read, for people."""
        rules: OriginRules = self.reader.runner.run(self.rate_limiter.rules(origin_of(parse_url(url))))
        # The rules were read for the page itself, so this asks for nothing more.
        delay_s = rules.robots.crawl_delay_s
        pause = f"Crawl-delay {delay_s:g} s" if delay_s else "no Crawl-delay"
        return f"allowed; {pause}" + ("" if rules.robots.rules else " (robots.txt forbids nothing)")

    def sitemap_pages(self, url: str) -> list[str]:
        """Return the addresses below a page that the site's sitemap lists."""
        found: list[str] = self.reader.sitemap.pages_below(url)
        return found

    def close(self) -> None:
        """Close browsers and connections."""
        self.reader.close()

    def _load_in_browser(self, url: str) -> ProbedPage:
        page = self.reader.load(url, TAG)
        return ProbedPage(page.url, page.status or None, page.extracted, page.first, page.growth, page.ending)

    def _load_static(self, url: str) -> ProbedPage:
        response = self.reader.get(url)
        known = self.reader.repeats.known_listings.get(TAG)
        extracted = extract_tiles(self.reader.parse(response, url), self.reader.profile, known)
        return ProbedPage(response.url or url, response.http_status, extracted, extracted)
