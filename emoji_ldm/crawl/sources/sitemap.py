"""Sitemaps as a source of page addresses: the pages of a listing that no link leads to.

The protocol is that of sitemaps.org: an XML file of addresses, or an index of such files, which robots.txt names or
which lies at /sitemap.xml. Addresses are read out of the text without an XML parser, so that entities cannot make a
small file large.
"""

from __future__ import annotations

import gzip
import html
import io
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from urllib.parse import urldefrag, urljoin, urlsplit

from emoji_ldm.outcomes import Rejected

LOCATION = re.compile(r"<loc>\s*(?:<!\[CDATA\[)?\s*(.*?)\s*(?:\]\]>)?\s*</loc>", re.DOTALL | re.IGNORECASE)
MAX_FILES, MAX_ADDRESSES, MAX_BYTES = 50, 100_000, 50_000_000


class SitemapPages:
    """The pages below a first one, in the order of the site's sitemap; the sitemap is read once."""

    def __init__(self, fetch: Callable[[str], bytes], named: Callable[[str], Sequence[str]] = lambda _: ()) -> None:
        """Request nothing yet.

        Args:
            fetch: Called with an address; returns a body, or raises Rejected.
            named: Called with an origin; returns the sitemaps that its robots.txt names; /sitemap.xml without one.
        """
        self.fetch, self.named = fetch, named
        self._addresses: dict[str, list[str]] = {}  # {site: all addresses of its sitemap}

    def pages_below(self, first: str) -> list[str]:
        """Return the addresses of the sitemap that lie below the path of a listing's first page, without that page."""
        site, first = urljoin(first, "/"), urldefrag(first)[0]
        if site not in self._addresses:
            self._addresses[site] = self._read(site)
        folder = first.partition("?")[0].rstrip("/") + "/"
        found = [url for url in self._addresses[site] if url.startswith(folder) or url.startswith(f"{first}?")]
        return [url for url in dict.fromkeys(found) if url not in (first, folder)]

    def following(self, first: str, url: str) -> str:
        """Return the address of the page after `url` in the listing that begins with `first`; "" after the last one."""
        pages = [first, *self.pages_below(first)]
        return dict(pairwise(pages)).get(url, "")

    def _read(self, site: str) -> list[str]:
        named = [urljoin(site, place) for place in self.named(site.rstrip("/"))]
        found, files, read = list[str](), named or [urljoin(site, "/sitemap.xml")], set[str]()
        while files and len(read) < MAX_FILES and len(found) < MAX_ADDRESSES:
            file = files.pop(0)
            if file in read:
                continue
            read.add(file)
            try:
                text = _text(self.fetch(file))
            except Rejected:
                continue  # a site without a sitemap has no further pages by it
            places = [urljoin(file, html.unescape(place)) for place in LOCATION.findall(text)]
            # A sitemap may only speak for its own site (sitemaps.org, "Sitemap file location").
            places = [place for place in places if urlsplit(place).netloc == urlsplit(site).netloc]
            if re.search(r"<sitemapindex\b", text[:2000], re.IGNORECASE):
                files += places
            else:
                found += places
        return found[:MAX_ADDRESSES]


def _text(body: bytes) -> str:
    if body[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(body)) as file:
            body = file.read(MAX_BYTES)
    return body.decode("utf-8", "replace")
