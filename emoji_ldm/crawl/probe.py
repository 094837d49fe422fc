"""What a crawl would find on one page, and a profile that finds it again."""

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
MAX_SHOWN = 100  # characters of an address


@dataclass(frozen=True)
class ProbedPage:
    """A page as it was seen."""

    url: str
    status: int | None
    found: ExtractedTiles
    robots: str


def probe(config: CrawlConfig, url: str, *, tag: str = "", output: str = "") -> str:
    """Look at a page as the crawl would, with `crawl.source` listing or html; returns a report for people.

    Args:
        config: `source`, `profile`, user agent and limits count.
        url: A listing page.
        tag: The part of its address that is the tag; guessed if empty.
        output: File for the proposed profile; shown in the report if empty.

    Raises:
        ConfigError: The address is none, the source reads no pages, or the file exists.
        CrawlError: The page cannot be had, may not be read, or shows no tiles; says what it does show.
    """
    _check(config, url, output)
    site = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    sight = _load_page(config.model_copy(update={"site": site}), url)
    if not sight.found.spots:
        raise CrawlError(f"{sight.found.reason()} ({url})")
    numbering = infer_pagination(sight.url, sight.found.tree, tag)
    profile = propose_profile(sight.found, numbering, load_site_profile(config.profile))
    text = yaml.safe_dump(profile.model_dump(exclude_defaults=True, exclude_none=True), sort_keys=False)
    if output:
        Path(output).write_text(f"# Proposed by `emoji-ldm crawl probe {url}`.\n{text}", encoding="utf-8")
    lines = [*_page_report(sight), *_profile_report(profile, numbering)]
    lines += [f"wrote     {output}"] if output else ["", text]
    return "\n".join([*lines, _next_command(config, site, numbering.tag or tag, output)])


def _check(config: CrawlConfig, url: str, output: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url!r} is no address of a page; write it as https://example.org/emoji")
    if config.source not in ("listing", "html"):
        raise ConfigError(f"crawl probe looks at pages; crawl.source={config.source} has none (listing, html)")
    if output and Path(output).exists():
        raise ConfigError(f"{output} exists already; choose another -o FILE")


def _next_command(config: CrawlConfig, site: str, tag: str, output: str) -> str:
    source = "" if config.source == "listing" else f" crawl.source={config.source}"
    tags = f"'crawl.tags=[{tag or 'TAG'}]'"
    return f"next: emoji-ldm crawl{source} crawl.site={site} {tags} crawl.profile={output or 'FILE.yaml'}\n"


def propose_profile(found: ExtractedTiles, numbering: Pagination, used: SiteProfile) -> SiteProfile:
    """A profile for pages like this one: selectors that worked stay, others are made anew."""
    if found.by == "selectors":
        return used.model_copy(update={"url": numbering.pattern})
    unwrap = used.unwrap or _guess_proxy(found)
    return SiteProfile(url=numbering.pattern, tile=infer_tile_selector(found), unwrap=unwrap)


def _guess_proxy(found: ExtractedTiles) -> ImageProxy | None:
    """The image proxy of Next.js, which serves many a listing, if most tiles go through it."""
    proxy = ImageProxy(path="/_next/image")
    num_hidden = sum(proxy.original(tile.image_url) != tile.image_url for tile in found.tiles)
    return proxy if 2 * num_hidden > len(found.tiles) else None


def _load_page(config: CrawlConfig, url: str) -> ProbedPage:
    """The page and the verdict of its robots.txt; CrawlError if it may or can not be read."""
    gate = LocalRateLimiter(config)
    try:
        if config.source == "html":
            return _load_static(config, gate, url)
        return _load_in_browser(config, gate, url)
    except Rejected as refused:
        verb = "may not" if refused.outcome is Outcome.ROBOTS else "cannot"
        raise CrawlError(f"{url} {verb} be read: {refused.reason}") from None


def _load_in_browser(config: CrawlConfig, gate: LocalRateLimiter, url: str) -> ProbedPage:
    from emoji_ldm.crawl.sources.browser_listing import BrowserListingReader

    lister = BrowserListingReader(config, gate)
    try:
        view = lister.look(url)
        return ProbedPage(view.url, view.status or None, view.found, lister.runner.run(_robots_verdict(gate, url)))
    finally:
        lister.close()


def _load_static(config: CrawlConfig, gate: LocalRateLimiter, url: str) -> ProbedPage:
    from emoji_ldm.crawl.sources.static_html import HtmlReader, decode_html

    reader = HtmlReader(config, gate)
    try:
        download = reader.get(url)
        found = extract_tiles(decode_html(download.body, download.media_type), download.url or url, reader.profile)
        return ProbedPage(
            download.url or url, download.http_status, found, reader.runner.run(_robots_verdict(gate, url))
        )
    finally:
        reader.close()


async def _robots_verdict(gate: LocalRateLimiter, url: str) -> str:
    rules = await gate.rules(origin_of(parse_url(url)))
    pause = f"Crawl-delay {rules.robots.delay_s:g} s" if rules.robots.delay_s else "no Crawl-delay"
    return f"allowed; {pause}" + ("" if rules.robots.rules else " (robots.txt forbids nothing)")


def _page_report(sight: ProbedPage) -> list[str]:
    title = sight.found.tree.html.css_first("title")
    named = collapse_whitespace(title.text())[:MAX_SHOWN] if title else "without title"
    missed = " (the selectors of crawl.profile matched nothing)" if sight.found.missed else ""
    by = "the profile's selectors" if sight.found.by == "selectors" else f"structure{missed}"
    lines = [
        f"page      {named}" + (f" (HTTP {sight.status})" if sight.status else ""),
        f"robots    {sight.robots}",
        f"tiles     {len(sight.found.spots)}, found by {by}",
    ]
    for tile in sight.found.tiles[:NUM_EXAMPLES]:
        lines.append(f"          {tile.title[:30]:<30}  {tile.image_url[:MAX_SHOWN]}")
    return lines


def _profile_report(profile: SiteProfile, numbering: Pagination) -> list[str]:
    tile = profile.tile or "none of lasting words matches these tiles alone: leave them to the structure"
    return [
        f"selector  {tile}",
        *([f"proxy     {profile.unwrap.path} hides the originals, which are taken instead"] if profile.unwrap else []),
        f"pages     {profile.url}  ({numbering.seen})",
        f"tag       {numbering.tag}" if "{tag}" in profile.url else "tag       none in the address: name it with --tag",
    ]
