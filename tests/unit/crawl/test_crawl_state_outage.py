"""After an outage in which three of ten answers were 503, asking again for what failed recovers everything."""

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl import frontier
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store
from tests.unit.crawl.stub_site import Site, answer, emoji

pytestmark = pytest.mark.slow

NUM_IMAGES = 20
SENT = OUTCOMES.schema.append(IMAGES.schema.field("fingerprint"))


def crawl(config):
    """What the job does with open images, in this process; returns the URLs that it asked for."""
    ledger = CrawlState(config, frontier.begin_recrawl(config, Store(config.store)))
    wanted = ledger.open_images()
    if not len(wanted):
        return []
    harvester = ImageFetcher(config.crawl, LocalRateLimiter(config.crawl))
    harvest = harvester.fetch(wanted.to_pylist())
    harvester.close()
    images = pa.Table.from_pylist(harvest.images, schema=IMAGES.schema)
    file = ledger.images.write_file(images) if len(images) else None
    ledger.commit_images(f"shard {ledger.generation}", file, pa.Table.from_pylist(harvest.outcomes, schema=SENT))
    return wanted["image_url"].to_pylist()


@pytest.fixture
def outage(tmp_path):
    """A site whose every third answer is 503, and a store that knows its tiles."""
    routes = {f"/{number:02}.png": answer(200, emoji(seed=number * 37)) for number in range(NUM_IMAGES)}
    failing = dict.fromkeys(list(routes)[::3], answer(503))
    with Site({**routes, **failing}) as site:
        crawl = {"site": site.url, "near_duplicates": "keep", "fetch_timeout_s": 5}
        config = build({"store": str(tmp_path), "crawl": crawl}, where="test")
        tiles = [{"tile_id": path, "image_url": site.url + path, "title": path, "tag": "A", "page_url": "p",
                  "position": place} for place, path in enumerate(routes)]  # fmt: skip
        ledger = CrawlState(config)
        file = ledger.listings.write_file(pa.Table.from_pylist(tiles, schema=LISTINGS.schema))
        ledger.listings.commit([file], app_id="tiles", metadata={})
        yield site, config, routes, failing


def test_an_outage_is_healed_by_asking_again_for_what_failed(outage):
    site, config, routes, failing = outage
    crawl(config)
    assert CrawlState(config).images.count() == NUM_IMAGES - len(failing)
    site.routes = routes
    retry = config.model_copy(update={"crawl": config.crawl.model_copy(update={"retry": "failed"})})
    assert sorted(crawl(retry)) == sorted(site.url + path for path in failing), "only what failed is asked for"
    ended = CrawlState(config).outcomes.read(["url", "outcome"]).to_pylist()
    assert sorted(row["url"] for row in ended) == [site.url + path for path in routes], "one outcome a URL"
    assert {row["outcome"] for row in ended} == {"kept"}
    assert CrawlState(config).images.count() == NUM_IMAGES
    assert crawl(retry) == []
