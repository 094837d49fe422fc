"""Probe of a listing page: what a crawl would find there, and a profile that finds it again.

The page is opened as a crawl would. Its groups of images are the candidates for the listing; the report and the contact
sheet show them all. Then one step beyond the first screen is tried, in the order in which sites offer it: scrolling, a
button, numbered pages, links to the next page, the sitemap. What works goes into the profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.pagination import Pagination, infer_pagination, next_page_url, page_number
from emoji_ldm.crawl.extract.selector_inference import infer_tile_selector
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles
from emoji_ldm.crawl.page_types import Tile
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.probe_reader import ProbedPage, ProbeReader
from emoji_ldm.crawl.probe_report import ProbeReport, contact_sheet
from emoji_ldm.crawl.site_profile import ImageProxy, More, SiteProfile, load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

FEW_TILES = 5  # below which a listing is suspiciously small


@dataclass(frozen=True)
class Probe:
    """What a probe found."""

    report: str  # for people
    doubts: list[str]  # why a crawl with this profile may find too little


@dataclass
class _Beyond:
    """What lies beyond the first screen, and how a crawl gets there."""

    more: More
    pattern: str
    shown: str  # for people
    second: ProbedPage | None = None  # the page after the first one
    doubts: list[str] = field(default_factory=list)


def probe(config: CrawlConfig, url: str, *, tag: str = "", output: str = "", sheet: str = "") -> Probe:
    """Load a page as the crawl would, with `crawl.source` listing or html, and propose a profile.

    Args:
        config: Source, profile, user agent and limits.
        url: A listing page.
        tag: The part of its address that is the tag; guessed if empty.
        output: File for the proposed profile; it is part of the report if empty.
        sheet: File for the contact sheet, an HTML page with the candidates.

    Raises:
        ConfigError: The address is invalid, the source does not read pages, or a file exists.
        CrawlError: The page cannot be loaded, may not be read, or shows no tiles; the message describes the page.
    """
    _check(config, url, output, sheet)
    # The probed page is the site: its own host may be private, as in a crawl with the same address.
    site = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    used = load_site_profile(config.profile)
    with _reading(config.model_copy(update={"site": site}), used, url) as reader:
        page = reader.load(url)
        robots = reader.robots(url)
        if not page.extracted.elements:
            raise CrawlError(f"{page.extracted.reason()} ({url})")
        pagination = infer_pagination(page.url, page.extracted.tree.links, tag)
        beyond = _look_beyond(reader, page, pagination, site)
    profile = _propose(used, page, beyond)
    if output:
        Path(output).write_text(f"# Proposed by `emoji-ldm crawl probe {url}`.\n{_as_yaml(profile)}", encoding="utf-8")
    if sheet:
        Path(sheet).write_text(contact_sheet(page.extracted, url), encoding="utf-8")
    doubts = [*_doubts(page.extracted), *beyond.doubts]
    report = ProbeReport(page, beyond.second, robots, profile, beyond.shown, pagination.tag or tag, doubts)
    files = (output, sheet)
    return Probe(report.text(_as_yaml(profile), config.source, site, files), doubts)


def _look_beyond(reader: ProbeReader, page: ProbedPage, pagination: Pagination, site: str) -> _Beyond:
    """Try one step beyond the first screen in each of the ways that sites offer."""
    links, own = page.extracted.tree.links, page.extracted.tiles
    alone = infer_pagination(page.url, [], pagination.tag).pattern
    failed = list[str]()
    if page.growth:
        return _Beyond("scroll" if page.growth == "scroll" else "button", alone, page.ending)
    if "{page}" in pagination.pattern:
        numbered, number = SiteProfile(url=pagination.pattern), page_number(page.url)
        second, doubt = _step_to(reader, numbered.page_url(site, pagination.tag, number + 1), own)
        if second:
            return _Beyond("pages", pagination.pattern, pagination.description, second)
        failed.append(doubt)
    if following := next_page_url(page.url, links):
        second, doubt = _step_to(reader, following, own)
        if second:
            return _Beyond("next", alone, f"by links to the next page, such as {following}", second)
        failed.append(doubt)
    pages = reader.sitemap_pages(page.url)
    if pages:
        second, doubt = _step_to(reader, pages[0], own)
        if second:
            return _Beyond("sitemap", alone, f"{len(pages)} further pages by the sitemap", second)
        failed.append(doubt)
    shown = "nothing more by scrolling, buttons, links or the sitemap"
    return _Beyond("none", alone, shown, doubts=failed)


def _step_to(reader: ProbeReader, url: str, own: list[Tile]) -> tuple[ProbedPage | None, str]:
    """Load a second page; returns it if it shows tiles that the first one does not, else why not."""
    try:
        page = reader.load(url)
    except Rejected as error:
        return None, f"the next page cannot be read: {error}"
    known = {tile.image_url for tile in own}
    if any(tile.image_url not in known for tile in page.extracted.tiles):
        return page, ""
    return None, f"the next page shows no other tiles ({url}: {page.extracted.reason()})"


def _propose(used: SiteProfile, page: ProbedPage, beyond: _Beyond) -> SiteProfile:
    """Propose a profile for pages like this one: selectors that worked are kept, others are inferred."""
    if page.extracted.method == "selectors":
        return used.model_copy(update={"url": beyond.pattern, "more": beyond.more})
    pages = [(p.first.tree, p.first.elements) for p in (page, beyond.second) if p is not None]
    unwrap = used.unwrap or _guess_proxy(page.extracted)
    return SiteProfile(url=beyond.pattern, tile=infer_tile_selector(pages), more=beyond.more, unwrap=unwrap)


def _guess_proxy(extracted: ExtractedTiles) -> ImageProxy | None:
    """Return the image proxy of Next.js, which many sites use, if most tiles go through it."""
    # Most tiles, not all: a page may show a few images from elsewhere.
    proxy = ImageProxy(path="/_next/image")
    num_proxied = sum(proxy.original_url(tile.image_url) != tile.image_url for tile in extracted.tiles)
    return proxy if 2 * num_proxied > len(extracted.tiles) else None


def _doubts(extracted: ExtractedTiles) -> list[str]:
    """Return why the listing may not be what the user means."""
    tiles, doubts = extracted.tiles, list[str]()
    if len(tiles) < FEW_TILES:
        doubts.append(f"only {len(tiles)} tiles, while the page holds {extracted.tree.num_images} images")
    untitled = sum(not tile.title for tile in tiles)
    if 2 * untitled > len(tiles):
        doubts.append(f"{untitled} of {len(tiles)} tiles have no title")
    return doubts


def _check(config: CrawlConfig, url: str, *files: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url!r} is not the address of a page; write it as https://example.org/emoji")
    if config.source not in ("listing", "html"):
        raise ConfigError(f"crawl probe loads pages; crawl.source={config.source} has none (use listing or html)")
    for file in filter(None, files):
        if Path(file).exists():
            raise ConfigError(f"{file} exists already; choose another file")


def _as_yaml(profile: SiteProfile) -> str:
    # Defaults are left out: the file should show what is special about this site.
    return yaml.safe_dump(profile.model_dump(exclude_defaults=True, exclude_none=True), sort_keys=False)


@contextmanager
def _reading(config: CrawlConfig, profile: SiteProfile, url: str) -> Iterator[ProbeReader]:
    """Open a reader under all rules of a crawl, so that a probe cannot show what a crawl may not read."""
    reader = ProbeReader(config, profile, LocalRateLimiter(config))
    try:
        yield reader
    except Rejected as error:
        verb = "may not" if error.outcome is Outcome.ROBOTS else "cannot"
        raise CrawlError(f"{url} {verb} be read: {error.reason}") from None
    finally:
        reader.close()
