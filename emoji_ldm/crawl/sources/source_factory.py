"""Choice and validation of the configured source.

`validate_source` checks the configuration without a request, `page_names` says which pages there are, and
`open_reader` gives each worker a reader for them. The modules of the sources are imported on use: a crawl of records
needs neither selenium nor an HTML parser.
"""

from __future__ import annotations

import asyncio

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.page_types import PageNames, PageReader
from emoji_ldm.crawl.politeness.http_session import NETWORK_ERRORS
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.crawl.politeness.robots import OriginRules, RobotsFetcher
from emoji_ldm.crawl.politeness.url_normalize import origin_of, parse_url
from emoji_ldm.crawl.site_profile import SitePages, load_api_profile, load_site_profile
from emoji_ldm.errors import ConfigError, CrawlError

WEB_SOURCES = ("listing", "html", "api")


def validate_source(config: CrawlConfig) -> None:
    """Check everything that can be wrong without sending a request.

    Raises:
        ConfigError: Site, tags, profile or files are missing or invalid.
        CrawlError: The environment holds no API key.
    """
    if config.source in WEB_SOURCES:
        _validate_web_source(config)
        if config.source == "api":
            from emoji_ldm.crawl.sources.json_api import read_api_key

            read_api_key(load_api_profile(config.profile))
    elif not config.files:
        what = "files of {link, caption}" if config.source == "records" else "folders of image files"
        raise ConfigError(f"crawl.source={config.source} needs {what}: 'crawl.files=[data/emoji]'")
    elif config.source == "records":
        from emoji_ldm.crawl.sources.record_files import check_files

        check_files(config.files)
    else:
        from emoji_ldm.crawl.sources.file_pages import check_folders

        check_folders(config.files)


def read_site_rules(config: CrawlConfig) -> dict[str, OriginRules]:
    """Return {origin: rules} of `crawl.site`; CrawlError if nothing answers there.

    The request is for robots.txt, the one file that is always allowed. Any response will do. The rate limiter takes the
    rules over, so that robots.txt is requested once per run.
    """
    # Local files need no site. Their existence was checked by `validate_source`.
    if config.source not in WEB_SOURCES:
        return {}
    origin = origin_of(parse_url(config.site or ""))
    try:
        return {origin: asyncio.run(_read_robots(config, origin))}
    except TimeoutError:
        raise CrawlError(f"crawl.site {config.site} does not answer within {config.fetch_timeout_s:g} s") from None
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CrawlError(f"crawl.site {config.site} does not answer: {reason}") from None


def page_names(config: CrawlConfig) -> PageNames:
    """Return the pages of the configured source; ConfigError if its profile is invalid."""
    if config.source in WEB_SOURCES:
        profile = load_api_profile(config.profile) if config.source == "api" else load_site_profile(config.profile)
        return SitePages(config.site or "", config.tags, profile)
    from emoji_ldm.crawl.sources.file_pages import FilePages

    return FilePages(config.files)


def open_reader(config: CrawlConfig, rate_limiter: RateLimiter) -> PageReader:
    """Return a reader of the configured source's pages.

    Closing the reader closes the rate limiter too, which lives in the reader's event loop.
    """
    if config.source == "listing":
        from emoji_ldm.crawl.sources.browser_listing import BrowserListingReader

        return BrowserListingReader(config, rate_limiter)
    if config.source == "html":
        from emoji_ldm.crawl.sources.static_html import HtmlReader

        return HtmlReader(config, rate_limiter)
    if config.source == "api":
        from emoji_ldm.crawl.sources.json_api import ApiReader

        return ApiReader(config, rate_limiter)
    from emoji_ldm.crawl.sources.file_pages import FileReader, tiles_of_folder
    from emoji_ldm.crawl.sources.record_files import tiles_of

    return FileReader(tiles_of if config.source == "records" else tiles_of_folder)


def _validate_web_source(config: CrawlConfig) -> None:
    if not (config.site or "").startswith(("http://", "https://")):
        raise ConfigError(
            f"crawl.site is {config.site or 'not set'}; give the site's address: crawl.site=https://example.org"
        )
    # An empty list would crawl nothing and report success.
    if not config.tags:
        raise ConfigError("crawl.tags is empty; name at least one tag: 'crawl.tags=[Blobs]'")
    names = page_names(config)
    # Several tags with the same address would be crawled as one, and the images would get the first tag only.
    if len({names.url(tag, 1) for tag in names.tags}) < len(names.tags):
        raise ConfigError(
            f"the url of crawl.profile {config.profile} does not contain {{tag}}: crawl.tags must name a single tag"
        )


async def _read_robots(config: CrawlConfig, origin: str) -> OriginRules:
    fetcher = RobotsFetcher(config)
    try:
        return await fetcher.read_answer(origin)
    finally:
        await fetcher.close()
