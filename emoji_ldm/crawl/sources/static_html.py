"""Static pages: fetched like an image, read by the same finder as a browser's pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.tile_extractor import extract_tiles
from emoji_ldm.crawl.fetch.http_fetcher import FetchedBody, HttpFetcher
from emoji_ldm.crawl.page_types import ListedPage, PageContent, read_pages
from emoji_ldm.crawl.politeness.rate_limiter import RateLimiter
from emoji_ldm.crawl.site_profile import load_site_profile
from emoji_ldm.crawl.sources.page_outcomes import RepeatedPageDetector, to_page_rejection
from emoji_ldm.outcomes import Outcome, Rejected

HTML_MEDIA_TYPE = re.compile(r"text/html|application/xhtml", re.IGNORECASE)
CHARSET_IN_CONTENT_TYPE = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
CHARSET_IN_META = re.compile(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", re.IGNORECASE)
PRESCAN_BYTES = 1024  # bytes in which a page must name its encoding (HTML standard, 13.2.3.2)


class HtmlReader:
    """Walks static pages; keeps its connections."""

    def __init__(self, config: CrawlConfig, gate: RateLimiter) -> None:
        """Read the profile; nothing is requested yet."""
        self.profile, self.judge = load_site_profile(config.profile), RepeatedPageDetector()
        self.fetcher, self.runner = HttpFetcher(config, gate), asyncio.Runner()
        self.gate = gate

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[ListedPage]:
        """See `Reader.walk`."""
        return read_pages(tag, urls, self._read)

    def close(self) -> None:
        """Close all connections."""
        self.runner.run(self.fetcher.close())
        self.runner.run(self.gate.close())
        self.runner.close()

    def get(self, url: str) -> FetchedBody:
        """The page's bytes; Refused if it cannot be had or is no HTML."""
        download = self.runner.run(self.fetcher.get(url))
        if download.media_type and not HTML_MEDIA_TYPE.search(download.media_type):
            raise Rejected(Outcome.FAILED, f"no HTML but {download.media_type[:60]}", download.http_status)
        return download

    def _read(self, tag: str, url: str) -> PageContent:
        try:
            download = self.get(url)
        except Rejected as refused:
            raise to_page_rejection(refused) from None
        found = extract_tiles(decode_html(download.body, download.media_type), download.url or url, self.profile)
        return self.judge.content(tag, url, found, download.http_status)


def decode_html(body: bytes, media_type: str) -> str:
    """The text of a page: encoding by byte order mark, Content-Type, <meta>, else UTF-8; odd bytes become U+FFFD."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(name, errors="replace")
    named = CHARSET_IN_CONTENT_TYPE.search(media_type)
    meant = CHARSET_IN_META.search(body[:PRESCAN_BYTES])
    charset = named[1] if named else meant[1].decode("ascii", "replace") if meant else "utf-8"
    try:
        return body.decode(charset, errors="replace")
    except LookupError:
        return body.decode("utf-8", errors="replace")
