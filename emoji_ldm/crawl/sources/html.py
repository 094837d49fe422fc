"""Static pages: fetched like an image, read by the same finder as a browser's pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch import Download, Fetcher
from emoji_ldm.crawl.finder import find
from emoji_ldm.crawl.gate import Gate
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.page import Content, Page, walked
from emoji_ldm.crawl.profile import load_profile
from emoji_ldm.crawl.sources.pages import Judge, as_page

HTML = re.compile(r"text/html|application/xhtml", re.IGNORECASE)
IN_TYPE = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
IN_TEXT = re.compile(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", re.IGNORECASE)
PRESCAN = 1024  # bytes in which a page must name its encoding (HTML standard, 13.2.3.2)


class HtmlReader:
    """Walks static pages; keeps its connections."""

    def __init__(self, config: CrawlConfig, gate: Gate) -> None:
        """Read the profile; nothing is requested yet."""
        self.profile, self.judge = load_profile(config.profile), Judge()
        self.fetcher, self.runner = Fetcher(config, gate), asyncio.Runner()
        self.gate = gate

    def walk(self, tag: str, urls: Sequence[str]) -> Iterator[Page]:
        """See `Reader.walk`."""
        return walked(tag, urls, self._read)

    def close(self) -> None:
        """Close all connections."""
        self.runner.run(self.fetcher.close())
        self.runner.run(self.gate.close())
        self.runner.close()

    def get(self, url: str) -> Download:
        """The page's bytes; Refused if it cannot be had or is no HTML."""
        download = self.runner.run(self.fetcher.get(url))
        if download.media_type and not HTML.search(download.media_type):
            raise Refused(Outcome.FAILED, f"no HTML but {download.media_type[:60]}", download.http_status)
        return download

    def _read(self, tag: str, url: str) -> Content:
        try:
            download = self.get(url)
        except Refused as refused:
            raise as_page(refused) from None
        found = find(decoded(download.body, download.media_type), download.url or url, self.profile)
        return self.judge.content(tag, url, found, download.http_status)


def decoded(body: bytes, media_type: str) -> str:
    """The text of a page: encoding by byte order mark, Content-Type, <meta>, else UTF-8; odd bytes become U+FFFD."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(name, errors="replace")
    named = IN_TYPE.search(media_type)
    meant = IN_TEXT.search(body[:PRESCAN])
    charset = named[1] if named else meant[1].decode("ascii", "replace") if meant else "utf-8"
    try:
        return body.decode(charset, errors="replace")
    except LookupError:
        return body.decode("utf-8", errors="replace")
