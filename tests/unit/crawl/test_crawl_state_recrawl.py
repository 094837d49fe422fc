"""Retry and refresh: what is requested again, and what it replaces."""

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl import frontier
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from emoji_ldm.store import Store
from tests.unit.crawl.crawl_rows import commit_listings, interrupt, open_urls, recrawl, refreshed, shard, stored
from tests.unit.crawl.stub_site import Site, answer, emoji


@pytest.fixture
def config(tmp_path):
    return build({"store": str(tmp_path)}, where="test")


def test_a_retry_requests_failed_urls_only_and_replaces_their_outcomes(config):
    state = CrawlState(config)
    commit_listings(state, "a", "b", "c")
    state.commit_images("one", *shard(state, a="1", b=Outcome.TIMED_OUT, c=Outcome.NOT_AN_IMAGE))
    assert open_urls(CrawlState(config)) == []
    retry = recrawl(config, retry="failed")
    assert open_urls(retry) == ["b"]
    retry.commit_images("two", *shard(retry, b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept", "c": "not-an-image"})


def test_a_url_that_fails_again_is_not_requested_a_third_time_in_the_same_run(config):
    state = CrawlState(config)
    commit_listings(state, "a")
    state.commit_images("one", *shard(state, a=Outcome.DEAD))
    retry = recrawl(config, retry="failed")
    retry.commit_images("two", *shard(retry, a=Outcome.DEAD))
    assert open_urls(retry) == []
    assert open_urls(recrawl(config, retry="failed")) == ["a"]


def test_a_refresh_replaces_what_changed_and_keeps_the_rest(config):
    refresh = refreshed(config)
    answers = {"a": "5", "b": Outcome.UNCHANGED, "c": Outcome.UNCHANGED, "d": Outcome.DEAD, "e": Outcome.HTTP_ERROR}
    refresh.commit_images("two", *shard(refresh, **answers))
    assert refresh.drop_vanished_images() == 0, (
        "image 1 is still shown by b; 3 and 4 are kept although their sources fail"
    )
    assert sorted(refresh.images.keys()) == ["1", "2", "3", "4", "5"]
    ends = {"a": "kept", "b": "duplicate-of", "c": "kept", "d": "dead", "e": "kept"}
    assert stored(config)[1] == ends


def test_an_image_that_no_url_shows_any_more_is_dropped(config):
    refresh = refreshed(config)
    refresh.commit_images("two", *shard(refresh, a="5", b="6", c=Outcome.ROBOTS))
    assert refresh.drop_vanished_images() == 2
    assert sorted(refresh.images.keys()) == ["3", "4", "5", "6"]
    assert refresh.drop_vanished_images() == 0


def test_a_refresh_of_a_site_leaves_images_of_files_alone(config):
    """Once it asked for them, was refused, and dropped them."""
    state = CrawlState(config)
    commit_listings(state, "http://s/a.png", "file:///pictures/b.png")
    state.commit_images("one", *shard(state, **{"http://s/a.png": "1", "file:///pictures/b.png": "2"}))
    assert open_urls(recrawl(config, refresh=True)) == ["http://s/a.png"]
    assert open_urls(recrawl(config, refresh=True, source="folder")) == ["file:///pictures/b.png", "http://s/a.png"]


def test_an_interrupted_refresh_continues_where_it_stopped(config):
    refresh = refreshed(config)
    refresh.commit_images("two", *shard(refresh, a="5", b=Outcome.UNCHANGED))
    later = recrawl(config, refresh=True)
    assert open_urls(later) == ["c", "d", "e"]
    frontier.finish_recrawl(later.config, later.store)
    assert open_urls(recrawl(config, refresh=True)) == ["a", "b", "c", "d", "e"]


def test_a_refreshed_shard_that_was_interrupted_between_its_commits_adds_nothing_twice(config, monkeypatch):
    refresh = refreshed(config)
    interrupt(refresh, "two", *shard(refresh, a="5", c="6"), monkeypatch=monkeypatch)
    later = recrawl(config, refresh=True)
    later.commit_images("two", *shard(later, a="5", c="6"))
    later.drop_vanished_images()
    assert sorted(later.images.keys()) == ["1", "3", "4", "5", "6"]
    assert stored(config)[1]["a"] == "kept"


def test_a_page_that_is_read_again_replaces_its_tiles(config):
    def page(state, *urls):
        rows = [{"tile_id": f"p{place}", "image_url": url, "title": "x", "tag": "A", "page_url": "p",
                 "position": place} for place, url in enumerate(urls)]  # fmt: skip
        file = state.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
        outcomes = [outcome_row("p", "page", Outcome.LISTED, "seen")]
        state.commit_pages(str(urls), file, pa.Table.from_pylist(outcomes, schema=OUTCOMES.schema))

    first = CrawlState(config)
    page(first, "a", "b", "c")
    assert first.finished_pages() == {"p": "listed"}
    refresh = recrawl(config, refresh=True)
    assert refresh.finished_pages() == {}
    page(refresh, "b", "d")
    assert refresh.finished_pages() == {"p": "listed"}
    assert sorted(CrawlState(config).listings.read(["image_url"])["image_url"].to_pylist()) == ["b", "d"]


def test_a_refresh_after_one_that_reached_nothing_is_committed(config):
    refresh = refreshed(config)
    names = f"shard {refresh.generation}"
    refresh.commit_images(names, *shard(refresh, a=Outcome.HTTP_ERROR, b=Outcome.HTTP_ERROR))
    frontier.finish_recrawl(refresh.config, refresh.store)
    later = recrawl(config, refresh=True)
    later.commit_images(f"shard {later.generation}", *shard(later, a="5", b="6"))
    later.drop_vanished_images()
    assert {"5", "6"} <= later.images.keys()
    assert stored(config)[0]["a"] == "5"


def test_a_page_that_fails_at_a_refresh_keeps_its_tiles(config):
    state = CrawlState(config)
    commit_listings(state, "a", "b")
    listed = pa.Table.from_pylist([outcome_row("p", "page", Outcome.LISTED, "seen")], schema=OUTCOMES.schema)
    state.commit_pages("one", None, listed)
    refresh = recrawl(config, refresh=True)
    failed = pa.Table.from_pylist([outcome_row("p", "page", Outcome.FAILED, "HTTP 503")], schema=OUTCOMES.schema)
    refresh.commit_pages("two", None, failed)
    assert CrawlState(config).listings.count() == 2
    assert CrawlState(config).finished_pages() == {"p": "failed"}


def test_the_same_image_may_be_dropped_more_than_once(config):
    state = CrawlState(config)
    commit_listings(state, "a")
    state.commit_images("one", *shard(state, a="1"))
    for shown in ("2", "1", "2"):
        refresh = recrawl(config, refresh=True)
        refresh.commit_images(f"shard {refresh.generation}", *shard(refresh, a=shown))
        assert refresh.drop_vanished_images() == 1
        frontier.finish_recrawl(refresh.config, refresh.store)
        assert list(refresh.images.keys()) == [shown]


NUM_IMAGES = 20

SHARD_SCHEMA = OUTCOMES.schema.append(IMAGES.schema.field("fingerprint"))


def crawl(config):
    """Fetch and commit the open images, as the job does; returns the URLs that were requested."""
    state = CrawlState(config, frontier.begin_recrawl(config, Store(config.store)))
    requests = state.open_images()
    if not len(requests):
        return []
    fetcher = ImageFetcher(config.crawl, LocalRateLimiter(config.crawl))
    fetched = fetcher.fetch(requests.to_pylist())
    fetcher.close()
    images = pa.Table.from_pylist(fetched.images, schema=IMAGES.schema)
    file = state.images.write_file(images) if len(images) else None
    state.commit_images(f"shard {state.generation}", file, pa.Table.from_pylist(fetched.outcomes, schema=SHARD_SCHEMA))
    return requests["image_url"].to_pylist()


@pytest.fixture
def outage(tmp_path):
    """A site whose every third response is 503, and a store that knows its tiles."""
    routes = {f"/{number:02}.png": answer(200, emoji(seed=number * 37)) for number in range(NUM_IMAGES)}
    failing = dict.fromkeys(list(routes)[::3], answer(503))
    with Site({**routes, **failing}) as site:
        crawl = {"site": site.url, "near_duplicates": "keep", "fetch_timeout_s": 5}
        config = build({"store": str(tmp_path), "crawl": crawl}, where="test")
        tiles = [{"tile_id": path, "image_url": site.url + path, "title": path, "tag": "A", "page_url": "p",
                  "position": place} for place, path in enumerate(routes)]  # fmt: skip
        state = CrawlState(config)
        file = state.listings.write_file(pa.Table.from_pylist(tiles, schema=LISTINGS.schema))
        state.listings.commit([file], app_id="tiles", metadata={})
        yield site, config, routes, failing


@pytest.mark.slow
def test_a_retry_recovers_everything_after_an_outage(outage):
    site, config, routes, failing = outage
    crawl(config)
    assert CrawlState(config).images.count() == NUM_IMAGES - len(failing)
    site.routes = routes
    retry = config.model_copy(update={"crawl": config.crawl.model_copy(update={"retry": "failed"})})
    assert sorted(crawl(retry)) == sorted(site.url + path for path in failing), "only what failed is requested"
    ended = CrawlState(config).outcomes.read(["url", "outcome"]).to_pylist()
    assert sorted(row["url"] for row in ended) == [site.url + path for path in routes], "one outcome a URL"
    assert {row["outcome"] for row in ended} == {"kept"}
    assert CrawlState(config).images.count() == NUM_IMAGES
    assert crawl(retry) == []
