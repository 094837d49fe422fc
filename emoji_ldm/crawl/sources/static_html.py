"""Static HTML pages as a source: fetched like images, and read by the same extractor as a browser's pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.page_tree import PageTree
from emoji_ldm.crawl.extract.pagination import next_page_url
from emoji_ldm.crawl.extract.static_tree import parse_static_page
from emoji_ldm.crawl.extract.tile_extractor import extract_tiles
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody, HttpFetcher
from emoji_ldm.crawl.page_types import ListedPage, PageContent, read_pages
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, to_page_rejection
from emoji_ldm.crawl.sources.sitemap import SitemapPages
from emoji_ldm.outcomes import Outcome, Rejected

HTML_MEDIA_TYPE = re.compile(r"text/html|application/xhtml", re.IGNORECASE)
CHARSET_IN_CONTENT_TYPE = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
CHARSET_IN_META = re.compile(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", re.IGNORECASE)
PRESCAN_BYTES = 1024  # bytes in which a page must declare its encoding (HTML standard, section 13.2.3.2)


class HtmlReader:
    """Reads static pages; it keeps its connections."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter) -> None:
        """Load the profile; nothing is requested yet."""
        self.config, self.profile, self.repeats = config, load_site_profile(config.profile), RepeatedPageDetector()
        self.http_fetcher, self.runner = HttpFetcher(config, rate_limiter), asyncio.Runner()
        self.rate_limiter = rate_limiter
        self.sitemap = SitemapPages(
            lambda url: self.runner.run(self.http_fetcher.get(url)).body,
            lambda origin: self.runner.run(rate_limiter.rules(origin)).robots.sitemaps,
        )

    def prepare(self, num_blocks: int) -> int:
        """See `PageReader.prepare`."""
        return 1

    def read(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `PageReader.read`."""
        return read_pages(tag, urls, self._read_page)

    def close(self) -> None:
        """Close all connections and the rate limiter."""
        self.runner.run(self.http_fetcher.close())
        self.runner.run(self.rate_limiter.close())
        self.runner.close()

    def get(self, url: str) -> FetchedBody:
        """Fetch a page; Rejected if it cannot be fetched or is not HTML."""
        response = self.runner.run(self.http_fetcher.get(url))
        # A missing media type is no evidence; the extractor then decides whether there are tiles.
        if response.media_type and not HTML_MEDIA_TYPE.search(response.media_type):
            raise Rejected(Outcome.FAILED, f"no HTML but {response.media_type[:60]}", response.http_status)
        return response

    def parse(self, response: FetchedBody, url: str) -> PageTree:
        """Parse a page; relative URLs of a redirected one refer to where it ended."""
        return parse_static_page(decode_html(response.body, response.media_type), response.url or url, self.profile)

    def _read_page(self, tag: str, url: str) -> PageContent:
        first = self.profile.page_url(self.config.site, tag, 1) if self.config.site else url
        tree, status = self._load(url)
        extracted = extract_tiles(tree, self.profile, self.repeats.known_listings.get(tag))
        if url != first and self.repeats.needs_first_page(tag, extracted):
            self.repeats.learn(tag, extract_tiles(self._load(first)[0], self.profile))
            extracted = extract_tiles(tree, self.profile, self.repeats.known_listings.get(tag))
        content = self.repeats.content(tag, url, extracted, status)
        return replace(content, next_url=self._next_url(url, first, tree))

    def _next_url(self, url: str, first: str, tree: PageTree) -> str:
        if not self.profile.follows_links:
            return ""
        return self.sitemap.following(first, url) if self.profile.more == "sitemap" else next_page_url(url, tree.links)

    def _load(self, url: str) -> tuple[PageTree, int]:
        try:
            response = self.get(url)
        except Rejected as error:
            raise to_page_rejection(error) from None
        return self.parse(response, url), response.http_status


def decode_html(body: bytes, media_type: str) -> str:
    """Decode a page by byte order mark, Content-Type, <meta> or as UTF-8; invalid bytes become U+FFFD.

    This is the order of the encoding sniffing algorithm (HTML standard, section 13.2.3.2), without its guesses.
    """
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(name, errors="replace")
    in_header = CHARSET_IN_CONTENT_TYPE.search(media_type)
    in_meta = CHARSET_IN_META.search(body[:PRESCAN_BYTES])
    charset = in_header[1] if in_header else in_meta[1].decode("ascii", "replace") if in_meta else "utf-8"
    try:
        return body.decode(charset, errors="replace")
    except LookupError:  # no such encoding
        return body.decode("utf-8", errors="replace")
