"""What a crawl would find on one page, and a profile that finds it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.finder import Found, find
from emoji_ldm.crawl.gate import LocalGate
from emoji_ldm.crawl.markup import squeeze
from emoji_ldm.crawl.numbering import Numbering, numbering_of
from emoji_ldm.crawl.outcomes import Outcome, Refused
from emoji_ldm.crawl.profile import Profile, Unwrap, load_profile
from emoji_ldm.crawl.proposal import tile_selector
from emoji_ldm.crawl.web import origin_of, parse_url
from emoji_ldm.errors import ConfigError, CrawlError

NUM_EXAMPLES = 5
MAX_SHOWN = 100  # characters of an address


@dataclass(frozen=True)
class Sight:
    """A page as it was seen."""

    url: str
    status: int | None
    found: Found
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
    sight = _look(config.model_copy(update={"site": site}), url)
    if not sight.found.spots:
        raise CrawlError(f"{sight.found.reason()} ({url})")
    numbering = numbering_of(sight.url, sight.found.tree, tag)
    profile = propose(sight.found, numbering, load_profile(config.profile))
    text = yaml.safe_dump(profile.model_dump(exclude_defaults=True, exclude_none=True), sort_keys=False)
    if output:
        Path(output).write_text(f"# Proposed by `emoji-ldm crawl probe {url}`.\n{text}", encoding="utf-8")
    lines = [*_seen(sight), *_proposed(profile, numbering)]
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


def propose(found: Found, numbering: Numbering, used: Profile) -> Profile:
    """A profile for pages like this one: selectors that worked stay, others are made anew."""
    if found.by == "selectors":
        return used.model_copy(update={"url": numbering.pattern})
    unwrap = used.unwrap or _proxy(found)
    return Profile(url=numbering.pattern, tile=tile_selector(found), unwrap=unwrap)


def _proxy(found: Found) -> Unwrap | None:
    """The image proxy of Next.js, which serves many a listing, if most tiles go through it."""
    proxy = Unwrap(path="/_next/image")
    num_hidden = sum(proxy.original(tile.image_url) != tile.image_url for tile in found.tiles)
    return proxy if 2 * num_hidden > len(found.tiles) else None


def _look(config: CrawlConfig, url: str) -> Sight:
    """The page and the verdict of its robots.txt; CrawlError if it may or can not be read."""
    gate = LocalGate(config)
    try:
        if config.source == "html":
            return _fetched(config, gate, url)
        return _browsed(config, gate, url)
    except Refused as refused:
        verb = "may not" if refused.outcome is Outcome.ROBOTS else "cannot"
        raise CrawlError(f"{url} {verb} be read: {refused.reason}") from None


def _browsed(config: CrawlConfig, gate: LocalGate, url: str) -> Sight:
    from emoji_ldm.crawl.sources.listing import Lister

    lister = Lister(config, gate)
    try:
        view = lister.look(url)
        return Sight(view.url, view.status or None, view.found, lister.runner.run(_verdict(gate, url)))
    finally:
        lister.close()


def _fetched(config: CrawlConfig, gate: LocalGate, url: str) -> Sight:
    from emoji_ldm.crawl.sources.html import HtmlReader, decoded

    reader = HtmlReader(config, gate)
    try:
        download = reader.get(url)
        found = find(decoded(download.body, download.media_type), download.url or url, reader.profile)
        return Sight(download.url or url, download.http_status, found, reader.runner.run(_verdict(gate, url)))
    finally:
        reader.close()


async def _verdict(gate: LocalGate, url: str) -> str:
    rules = await gate.rules(origin_of(parse_url(url)))
    pause = f"Crawl-delay {rules.robots.delay_s:g} s" if rules.robots.delay_s else "no Crawl-delay"
    return f"allowed; {pause}" + ("" if rules.robots.rules else " (robots.txt forbids nothing)")


def _seen(sight: Sight) -> list[str]:
    title = sight.found.tree.html.css_first("title")
    named = squeeze(title.text())[:MAX_SHOWN] if title else "without title"
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


def _proposed(profile: Profile, numbering: Numbering) -> list[str]:
    tile = profile.tile or "none of lasting words matches these tiles alone: leave them to the structure"
    return [
        f"selector  {tile}",
        *([f"proxy     {profile.unwrap.path} hides the originals, which are taken instead"] if profile.unwrap else []),
        f"pages     {profile.url}  ({numbering.seen})",
        f"tag       {numbering.tag}" if "{tag}" in profile.url else "tag       none in the address: name it with --tag",
    ]
