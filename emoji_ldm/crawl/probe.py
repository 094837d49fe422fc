"""Probe of a listing page: what a crawl would find there, and a profile that would find it again.

The CSS selector of the profile is inferred from tiles that were found by structure. It is built from names that are
likely to survive the next build of the site: attributes that describe a role, and ids and class names that look like
words. Class names that a compiler generated (`FS5UE28h`) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.extract.dom import HtmlTree, Node, collapse_whitespace
from emoji_ldm.crawl.extract.pagination import Pagination, infer_pagination
from emoji_ldm.crawl.extract.tile_extractor import ExtractedTiles, extract_tiles
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.crawl.site_profile import ImageProxy, SiteProfile, load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError
from emoji_ldm.outcomes import Outcome, Rejected

NUM_EXAMPLES = 5
MAX_URL_CHARS = 100  # of a URL in the report
# Attributes that name a role in the page, the most specific first. A value counts only if all tiles share it.
STABLE_ATTRIBUTES = ("data-testid", "data-test", "data-type", "data-role", "itemprop", "itemtype", "role", "rel")
# Words written by people: lower-case letters, joined by - or _. Generated names mix cases and digits.
WORD = re.compile(r"[a-z]+(?:[-_]{1,2}[a-z]+)*(?:-\d{1,2})?")
VOWEL = re.compile(r"[aeiouy]")
IDENTIFIER = re.compile(r"-?[A-Za-z_][\w-]*")


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


def infer_tile_selector(extracted: ExtractedTiles) -> str:
    """Return a CSS selector that matches exactly the extracted tiles, "" if stable names do not suffice.

    Starting at the tiles, the selector grows by one level of ancestors at a time until it matches nothing else.
    """
    nodes = [element.node for element in extracted.elements]
    wanted = {node.mem_id for node in nodes}
    levels = [nodes]
    # All tiles are lifted at the same time; levels end where the first one reaches the root.
    while all(node.parent is not None and node.parent.tag not in ("html", None) for node in levels[-1]):
        levels.append([node.parent for node in levels[-1] if node.parent is not None])
    selector = ""
    for level in levels:
        step = _shared_selector(level)
        selector = f"{step} > {selector}" if selector else step
        # A tag or class name alone may match on this page and match other things on the next one.
        if (">" in selector or "[" in selector) and _selects(extracted.tree, selector, wanted):
            return _shorten(extracted.tree, selector, wanted)
    return ""


def is_stable_name(word: str) -> bool:
    """Whether a name looks like a word that a person chose, rather than a hash that changes with every build."""
    parts = re.split(r"[-_]+", word)
    return WORD.fullmatch(word) is not None and all(len(p) < 4 or p.isdigit() or VOWEL.search(p) for p in parts)


def _shared_selector(nodes: Sequence[Node]) -> str:
    """Return what all these elements share: tag and a stable attribute, else a common id, else class names."""
    first = nodes[0]
    tag = str(first.tag) if all(node.tag == first.tag for node in nodes) else "*"
    for name in STABLE_ATTRIBUTES:
        value = _single_value(node.attributes.get(name) for node in nodes)
        # A quote would end the selector, and long values are rarely names.
        if value and '"' not in value and len(value) <= 60:
            return f'{tag}[{name}="{value}"]'
    name = _single_value(node.attributes.get("id") for node in nodes)
    if name and is_stable_name(name):
        return f"{tag}#{name}"
    words = [set((node.attributes.get("class") or "").split()) for node in nodes]
    common = sorted(word for word in set.intersection(*words) if is_stable_name(word) and IDENTIFIER.fullmatch(word))
    data = sorted(set.intersection(*({n for n in node.attributes if n.startswith("data-")} for node in nodes)))
    # The name of a data attribute is stable even if its values differ from tile to tile.
    if data and not common:
        return f"{tag}[{data[0]}]"
    return tag + "".join(f".{word}" for word in common[:2])


def _single_value(values: Iterable[str | None]) -> str:
    """Return the value that all share, "" if they differ or have none."""
    found = set(values)
    return (found.pop() or "") if len(found) == 1 else ""


def _selects(tree: HtmlTree, selector: str, wanted: set[int]) -> bool:
    return {node.mem_id for node in tree.select(selector)} == wanted


def _shorten(tree: HtmlTree, selector: str, wanted: set[int]) -> str:
    """Return the selector without the levels between its first and last one, if that matches the same elements."""
    steps = selector.split(" > ")
    short = f"{steps[0]} {steps[-1]}" if len(steps) > 2 else selector
    return short if _selects(tree, short, wanted) else selector
