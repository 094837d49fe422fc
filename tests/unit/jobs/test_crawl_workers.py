"""The actors of the crawl over readers and fetchers that need no network."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa

from emoji_ldm.config import CrawlConfig
from emoji_ldm.crawl.frontier import PageBlock
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, LISTINGS
from ray_jobs import crawl
from ray_jobs.workers import crawl_workers
from ray_jobs.workers.crawl_workers import OUTCOME_COLUMNS, ImageWorker, PageWorker
from tests.emoji_images import blobs, image_rows


class Reader:
    """Two tiles on the first page, none on the others; the pages after an empty one are not read."""

    def prepare(self, num_blocks):
        return 1

    def read(self, tag, urls):
        for url in urls[:2]:
            tiles = [{"tile_id": f"{url}{n}", "image_url": f"{url}/{n}.png", "title": "a cat", "tag": tag,
                      "page_url": url, "position": n} for n in range(2 if url == urls[0] else 0)]  # fmt: skip
            outcome = Outcome.LISTED if tiles else Outcome.EMPTY
            yield SimpleNamespace(url=url, tiles=tiles, outcome=outcome, reason="", http_status=200, elapsed_s=0.1)


def test_tiles_of_all_pages_come_with_an_outcome_for_each_page_that_was_read(monkeypatch):
    monkeypatch.setattr(crawl_workers.source_factory, "open_reader", lambda config, rate_limiter: Reader())
    pages = pa.table({"block": [0] * 3, "tag": ["Blobs"] * 3, "url": ["p1", "p2", "p3"]})
    output = PageWorker(CrawlConfig(), rate_limiter=None)(pages)
    assert output.rows.schema == LISTINGS.schema and output.rows["image_url"].to_pylist() == ["p1/0.png", "p1/1.png"]
    assert output.counts == {"empty": 1, "listed": 1}
    assert output.extra["url"].to_pylist() == ["p1", "p2"]


def test_the_blocks_of_a_wave_are_spread_over_the_browsers_and_read_side_by_side_in_each():
    blocks = [PageBlock(f"tag{n}", [f"https://a/{n}/1", f"https://a/{n}/2"]) for n in range(10)]

    def sizes(num_blocks, **options):
        config = CrawlConfig(num_browsers=2, **options)
        return [len(group) for group in crawl._grouped(blocks[:num_blocks], config)]

    assert sizes(10) == [4, 4, 2] and sizes(3) == [2, 1] and sizes(2) == [1, 1]
    assert sizes(10, pages_per_browser=1) == [1] * 10 == sizes(10, source="html")
    shard = crawl._page_shard(blocks[:2], 0)
    rows = crawl._page_rows(shard.payload)
    assert shard.num_items == len(rows) == 4 and rows.schema == crawl.PAGE_SCHEMA
    assert crawl_workers._blocks(rows) == blocks[:2]


def test_a_page_to_which_two_blocks_lead_has_one_outcome(monkeypatch):
    monkeypatch.setattr(crawl_workers.source_factory, "open_reader", lambda config, rate_limiter: Reader())
    pages = pa.table({"block": [0, 1], "tag": ["Blobs", "Cats"], "url": ["p1", "p1"]})
    output = PageWorker(CrawlConfig(), rate_limiter=None)(pages)
    assert output.extra["url"].to_pylist() == ["p1"] and set(output.rows["tag"].to_pylist()) == {"Blobs"}


def test_an_image_that_failed_is_an_outcome_without_a_row(monkeypatch):
    rows = image_rows(blobs(1)).to_pylist()
    kept = outcome_row("https://a/0", "image", Outcome.KEPT, "", image_id=rows[0]["image_id"])
    dead = outcome_row("https://a/1", "image", Outcome.DEAD, "404")
    fetched = SimpleNamespace(images=rows, outcomes=[kept | {"fingerprint": rows[0]["fingerprint"]}, dead])
    fetcher = SimpleNamespace(fetch=lambda requests, on_outcome: fetched)
    monkeypatch.setattr(crawl_workers, "ImageFetcher", lambda *_: fetcher)
    output = ImageWorker(CrawlConfig(), rate_limiter=None)(pa.table({"image_url": ["https://a/0", "https://a/1"]}))
    assert output.rows.num_rows == 1 and output.rows.schema == IMAGES.schema
    assert output.extra.schema == OUTCOME_COLUMNS and output.counts == {"dead": 1, "kept": 1}
