"""Section `crawl`: the sources of emoji and the limits of fetching them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoji_ldm.config.base import Fraction, Positive, Section


class CrawlConfig(Section):
    """Where emoji come from, and how politely they are fetched."""

    source: Literal["listing", "html", "api", "records", "folder"] = "listing"
    """`listing`: pages in a browser; `html`: static pages; `api`: JSON image search; `records`, `folder`: `files`."""
    site: str | None = None
    """Address of the site or API, such as https://example.org. Required by `listing`, `html` and `api`."""
    profile: str = "listing"
    """Name of a shipped crawl profile or path of a YAML file: URL pattern and selectors."""
    tags: tuple[str, ...] = ("Blobs", "Panda", "Cat", "Pepe")
    """Tags whose listing pages are read, or queries of the API."""
    license: str = ""
    """Licence of the images of this source, such as Apache-2.0; each image that is kept gets the tag `license:NAME`."""
    files: tuple[str, ...] = ()
    """`records`: CSV, JSON, JSON Lines or text files of {link, caption}; `folder`: folders of image files."""
    max_pages: Positive = 1000
    """Pages to read per tag at most; a tag also ends at its first page without tiles."""
    num_browsers: Positive = 2
    """Headless browsers that run at once, over the whole cluster."""
    pages_per_browser: Positive = 4
    """Pages that one browser reads at once; pages of the same host also wait for its limits."""
    num_fetchers: Positive = 2
    """Actors that download and normalise images, over the whole cluster."""
    host_concurrency: Positive = 8
    """Requests in flight to one host, over the whole cluster."""
    min_request_interval_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from one request to a host to the next, over the whole cluster; a longer Crawl-delay wins."""
    page_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest wait for the tiles of one page, in seconds."""
    # The limit covers the whole exchange. A server that sends a byte now and then would outlast a limit on single
    # reads.
    fetch_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Longest time that one image may take, redirects and body included, in seconds."""
    max_bytes: Positive = 5_000_000
    """Largest response body of one image."""
    max_px: Positive = 4096
    """Longest side of an image that is still decoded."""
    size_px: Positive = 128
    """Longest side of the canonical image; larger images are scaled down, smaller ones keep their size."""
    near_duplicates: Literal["drop", "keep"] = "drop"
    """Whether images that look like an existing one are dropped; images of equal pixels always are."""
    retry: Literal["failed"] | None = None
    """`failed` requests every URL that failed (dead, timed out, bad status, unreachable) once more."""
    refresh: bool = False
    """Read all pages again and request every image again, unless the server says that it has not changed."""
    # A page may name any address. Without this rule it could make the crawler request services inside the cluster.
    allow_private: tuple[str, ...] = ()
    """Private hosts or networks, such as 10.1.0.0/16, that may be requested; the site itself always may."""
    rows_per_shard: Positive = 64
    """Image URLs per commit."""
    max_failed_fraction: Fraction = 0.5
    """Share of image URLs that may fail (dead, timed out) before the job itself fails."""
    user_agent: str = "emoji-ldm/0.1 (+https://github.com/emoji-ldm/emoji_ldm)"
    """User-Agent header of all requests; put your own contact here."""
