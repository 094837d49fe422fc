"""The actors of the crawl: page readers and image fetchers. Both wait for the network most of the time."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.crawl.page_types import ListedPage
from emoji_ldm.crawl.politeness.request_permits import RateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.block_reader import read_blocks
from emoji_ldm.outcomes import count_outcomes, outcome_row, outcome_table
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from ray_jobs.execution.delta_sink import ShardOutput
from ray_jobs.execution.live_progress import ShardReporter

# The driver tells near duplicates of other shards by their fingerprint.
OUTCOME_COLUMNS = OUTCOMES.schema.append(IMAGES.schema.field("fingerprint"))


class PageWorker:
    """Actor with one reader, such as a browser: blocks of pages -> tiles."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter, board: Any = None) -> None:
        self.reader, self.reporter = source_factory.open_reader(config, rate_limiter), ShardReporter(board)

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Return the tiles of all pages, and an outcome for each page that was read."""
        blocks, read = _blocks(rows), list[tuple[int, ListedPage]]()
        self.reporter.begin(blocks[0].urls[0])
        for index, page in read_blocks(self.reader, blocks):
            read.append((index, page))
            self.reporter.add(**{page.outcome.value: 1}, tiles=len(page.tiles))
        # In the order of the blocks, whichever was read first. Links of two blocks may lead to the same page.
        pages = dict[str, ListedPage]()
        for _, page in sorted(read, key=itemgetter(0)):
            pages.setdefault(page.url, page)
        outcomes = outcome_table([
            outcome_row(p.url, "page", p.outcome, p.reason, http_status=p.http_status, elapsed_s=p.elapsed_s)
            for p in pages.values()
        ])  # fmt: skip
        tiles = pa.Table.from_pylist([tile for page in pages.values() for tile in page.tiles], schema=LISTINGS.schema)
        return ShardOutput(tiles, count_outcomes(outcomes), outcomes)


def _blocks(rows: pa.Table) -> list[PageBlock]:
    """Return the blocks of a shard; its rows have the number of a block, its tag and the address of a page."""
    groups = groupby(rows.select(["block", "tag", "url"]).to_pylist(), key=lambda row: (row["block"], row["tag"]))
    return [PageBlock(tag, [row["url"] for row in pages]) for (_, tag), pages in groups]


class ImageWorker:
    """Actor with connections: image URLs of a shard -> normalized images."""

    def __init__(self, config: CrawlConfig, rate_limiter: RateLimiter, board: Any = None) -> None:
        self.fetcher, self.reporter = ImageFetcher(config, rate_limiter), ShardReporter(board)

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Return the distinct images, and an outcome for each URL."""
        # Outcomes travel beside the images and not in their table: a URL that failed has an outcome and no image.
        requests = rows.to_pylist()
        self.reporter.begin(requests[0]["image_url"])
        fetched = self.fetcher.fetch(requests, lambda outcome: self.reporter.add(**{outcome: 1}))
        images = pa.Table.from_pylist(fetched.images, schema=IMAGES.schema)
        outcomes = pa.Table.from_pylist(fetched.outcomes, schema=OUTCOME_COLUMNS)
        return ShardOutput(images, count_outcomes(outcomes), outcomes)
