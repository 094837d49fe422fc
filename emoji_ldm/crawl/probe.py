"""Probe of a listing page: what a crawl would find there, and a profile that would find it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.dom import collapse_whitespace
from emoji_ldm.crawl.extract.pagination import Pagination, infer_pagination
from emoji_ldm.crawl.extract.selector_inference import infer_tile_selector
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, extract_tiles
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.crawl.site_profile import ImageProxy, SiteProfile, load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

NUM_EXAMPLES = 5
MAX_URL_CHARS = 100  # of a URL in the report


@dataclass(frozen=True)
class ProbedPage:
    """A page as the crawl sees it."""

    url: str
    status: int | None
    extracted: ExtractedTiles
    robots: str  # what robots.txt says, for people


def probe(config: CrawlConfig, url: str, *, tag: str = "", output: str = "") -> str:
    """Load a page as the crawl would, with `crawl.source` listing or html; returns a report for people.

    Args:
        config: Source, profile, user agent and limits.
        url: A listing page.
        tag: The part of its address that is the tag; guessed if empty.
        output: File for the proposed profile; it is part of the report if empty.

    Raises:
        ConfigError: The address is invalid, the source does not read pages, or the output file exists.
        CrawlError: The page cannot be loaded, may not be read, or shows no tiles; the message describes the page.
    """
    _check(config, url, output)
    # The probed page is the site: its own host may be private, as in a crawl with the same address.
    site = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    # The page is loaded under all rules of a crawl, so that a probe cannot show what a crawl may not read.
    page = _load_page(config.model_copy(update={"site": site}), url)
    if not page.extracted.elements:
        raise CrawlError(f"{page.extracted.reason()} ({url})")
    pagination = infer_pagination(page.url, page.extracted.tree, tag)
    profile = propose_profile(page.extracted, pagination, load_site_profile(config.profile))
    # Defaults are left out: the file should show what is special about this site.
    text = yaml.safe_dump(profile.model_dump(exclude_defaults=True, exclude_none=True), sort_keys=False)
    if output:
        Path(output).write_text(f"# Proposed by `emoji-ldm crawl probe {url}`.\n{text}", encoding="utf-8")
    lines = [*_page_report(page), *_profile_report(profile, pagination)]
    lines += [f"wrote     {output}"] if output else ["", text]
    return "\n".join([*lines, _next_command(config, site, pagination.tag or tag, output)])


def propose_profile(extracted: ExtractedTiles, pagination: Pagination, used: SiteProfile) -> SiteProfile:
    """Propose a profile for pages like this one: selectors that worked are kept, others are inferred."""
    if extracted.method == "selectors":
        return used.model_copy(update={"url": pagination.pattern})
    unwrap = used.unwrap or _guess_proxy(extracted)
    return SiteProfile(url=pagination.pattern, tile=infer_tile_selector(extracted), unwrap=unwrap)


def _check(config: CrawlConfig, url: str, output: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url!r} is not the address of a page; write it as https://example.org/emoji")
    if config.source not in ("listing", "html"):
        raise ConfigError(f"crawl probe loads pages; crawl.source={config.source} has none (use listing or html)")
    if output and Path(output).exists():
        raise ConfigError(f"{output} exists already; choose another -o FILE")


def _guess_proxy(extracted: ExtractedTiles) -> ImageProxy | None:
    """Return the image proxy of Next.js, which many sites use, if most tiles go through it."""
    # Most tiles, not all: a page may show a few images from elsewhere.
    proxy = ImageProxy(path="/_next/image")
    num_proxied = sum(proxy.original_url(tile.image_url) != tile.image_url for tile in extracted.tiles)
    return proxy if 2 * num_proxied > len(extracted.tiles) else None


def _load_page(config: CrawlConfig, url: str) -> ProbedPage:
    """Load the page under the same rules as the crawl; CrawlError if it may not or cannot be read."""
    rate_limiter = LocalRateLimiter(config)
    try:
        if config.source == "html":
            return _load_static(config, rate_limiter, url)
        return _load_in_browser(config, rate_limiter, url)
    except Rejected as error:
        verb = "may not" if error.outcome is Outcome.ROBOTS else "cannot"
        raise CrawlError(f"{url} {verb} be read: {error.reason}") from None


# The readers are imported on use: a browser needs selenium, a static page does not.


def _load_in_browser(config: CrawlConfig, rate_limiter: LocalRateLimiter, url: str) -> ProbedPage:
    from emoji_ldm.crawl.sources.browser_listing import BrowserListingReader

    reader = BrowserListingReader(config, rate_limiter)
    try:
        page = reader.load(url)
        robots = reader.runner.run(_robots_report(rate_limiter, url))
        return ProbedPage(page.url, page.status or None, page.extracted, robots)
    finally:
        reader.close()


def _load_static(config: CrawlConfig, rate_limiter: LocalRateLimiter, url: str) -> ProbedPage:
    from emoji_ldm.crawl.sources.static_html import HtmlReader, decode_html

    reader = HtmlReader(config, rate_limiter)
    try:
        response = reader.get(url)
        final_url = response.url or url
        extracted = extract_tiles(decode_html(response.body, response.media_type), final_url, reader.profile)
        robots = reader.runner.run(_robots_report(rate_limiter, url))
        return ProbedPage(final_url, response.http_status, extracted, robots)
    finally:
        reader.close()


async def _robots_report(rate_limiter: LocalRateLimiter, url: str) -> str:
    rules = await rate_limiter.rules(origin_of(parse_url(url)))
    # The rules were read for the page itself, so this asks for nothing more.
    delay_s = rules.robots.crawl_delay_s
    pause = f"Crawl-delay {delay_s:g} s" if delay_s else "no Crawl-delay"
    return f"allowed; {pause}" + ("" if rules.robots.rules else " (robots.txt forbids nothing)")


def _page_report(page: ProbedPage) -> list[str]:
    title = page.extracted.tree.html.css_first("title")
    named = collapse_whitespace(title.text())[:MAX_URL_CHARS] if title else "without title"
    missed = " (the selectors of crawl.profile matched nothing)" if page.extracted.selectors_missed else ""
    by = "the profile's selectors" if page.extracted.method == "selectors" else f"structure{missed}"
    lines = [
        f"page      {named}" + (f" (HTTP {page.status})" if page.status else ""),
        f"robots    {page.robots}",
        f"tiles     {len(page.extracted.elements)}, found by {by}",
    ]
    for tile in page.extracted.tiles[:NUM_EXAMPLES]:
        lines.append(f"          {tile.title[:30]:<30}  {tile.image_url[:MAX_URL_CHARS]}")
    return lines


def _profile_report(profile: SiteProfile, pagination: Pagination) -> list[str]:
    tile = profile.tile or "no stable names match these tiles alone: leave them to the structure"
    proxy = f"proxy     {profile.unwrap.path} serves the images; their originals are fetched" if profile.unwrap else ""
    return [
        f"selector  {tile}",
        *([proxy] if proxy else []),
        f"pages     {profile.url}  ({pagination.description})",
        f"tag       {pagination.tag}"
        if "{tag}" in profile.url
        else "tag       none in the address: name it with --tag",
    ]


def _next_command(config: CrawlConfig, site: str, tag: str, output: str) -> str:
    source = "" if config.source == "listing" else f" crawl.source={config.source}"
    tags = f"'crawl.tags=[{tag or 'TAG'}]'"
    return f"next: emoji-ldm crawl{source} crawl.site={site} {tags} crawl.profile={output or 'FILE.yaml'}\n"
