"""Commits of a crawl: exactly once, wherever it was interrupted."""

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.dataset.lineage import RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import resolve
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.errors import DatasetError
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, LISTINGS, OUTCOMES
from tests.unit.crawl.crawl_rows import commit_listings, interrupt, open_urls, shard, stored


@pytest.fixture
def config(tmp_path):
    return build({"store": str(tmp_path)}, where="test")


def test_duplicates_are_dropped_inside_a_shard_across_shards_and_across_runs(config):
    state = CrawlState(config)
    state.commit_images("one", *shard(state, a="1", b="1", c="2"))
    state.commit_images("two", *shard(state, d="2", e="3", f=None))
    again = CrawlState(config)
    counts = again.commit_images("three", *shard(again, g="3", h="1"))
    assert counts == {"duplicate-of": 2}
    assert stored(config) == ({"a": "1", "c": "2", "e": "3"}, {
        "a": "kept", "b": "duplicate-of", "c": "kept", "d": "duplicate-of", "e": "kept", "f": "dead",
        "g": "duplicate-of", "h": "duplicate-of",
    })  # fmt: skip


def test_a_duplicate_names_the_image_that_it_repeats(config):
    state = CrawlState(config)
    state.commit_images("one", *shard(state, a="1", b="1"))
    (row,) = [row for row in state.outcomes.read().to_pylist() if row["url"] == "b"]
    assert (row["image_id"], row["reason"]) == ("1", "same pixels as a")


def test_a_shard_that_is_repeated_after_a_crash_between_its_commits_adds_nothing_twice(config, monkeypatch):
    first = CrawlState(config)
    interrupt(first, "one", *shard(first, a="1", b="2", c="1"), monkeypatch=monkeypatch)
    again = CrawlState(config)
    again.commit_images("one", *shard(again, a="1", b="2", c="1"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept", "c": "duplicate-of"})
    assert again.images.version == first.images.version


def test_a_repeated_shard_adds_what_only_the_second_try_found(config, monkeypatch):
    first = CrawlState(config)
    interrupt(first, "one", *shard(first, a="1", b=None), monkeypatch=monkeypatch)
    again = CrawlState(config)
    again.commit_images("one", *shard(again, a="1", b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept"})


def test_a_shard_of_duplicates_alone_adds_no_version_of_images(config):
    state = CrawlState(config)
    state.commit_images("one", *shard(state, a="1"))
    version = state.images.version
    state.commit_images("two", *shard(state, b="1"))
    assert state.images.version == version


def test_pages_without_outcome_after_a_crash_are_closed_without_reading_them(config):
    state = CrawlState(config)
    tile = {"tile_id": "t", "image_url": "u", "title": "x", "tag": "A", "page_url": "p1", "position": 0}
    file = state.listings.write_file(pa.Table.from_pylist([tile], schema=LISTINGS.schema))
    state.listings.commit([file], app_id="crawl-tiles:x", metadata={})
    again = CrawlState(config)
    assert again.close_interrupted_pages() == 1
    assert again.finished_pages() == {"p1": "listed"}
    assert again.close_interrupted_pages() == 0


def test_commits_carry_counts_and_parents(config):
    state = CrawlState(config)
    state.commit_images("one", *shard(state, a="1", b=None))
    entry = state.outcomes.history(1)[0]
    assert entry["counts"] == '{"dead": 1, "kept": 1}'
    assert entry["parents"] == f'{{"images": {state.images.version}}}'


def test_of_two_crawls_at_once_the_second_to_commit_stops_and_duplicates_nothing(config):
    first, second = CrawlState(config), CrawlState(config)
    first.commit_images("one", *shard(first, a="1"))
    with pytest.raises(DatasetError, match=r"another job wrote to table images.*run the same command again"):
        second.commit_images("two", *shard(second, a="1", b="2"))
    assert stored(config) == ({"a": "1"}, {"a": "kept"})
    first.commit_images("three", *shard(first, b="2"))
    assert stored(config)[0] == {"a": "1", "b": "2"}


def test_an_image_gets_the_tags_of_pages_that_are_read_later(config):
    def page(state, name, tag, *urls):
        rows = [{"tile_id": f"{name}{url}", "image_url": url, "title": "x", "tag": tag, "page_url": name,
                 "position": place} for place, url in enumerate(urls)]  # fmt: skip
        file = state.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
        listed = [outcome_row(name, "page", Outcome.LISTED, "seen")]
        state.commit_pages(name, file, pa.Table.from_pylist(listed, schema=OUTCOMES.schema))

    first = CrawlState(config)
    page(first, "p1", "Cat", "a", "b")
    first.commit_images("one", *shard(first, a="1", b="2"))
    assert first.retag() == 2
    later = CrawlState(config)
    page(later, "p2", "Dog", "b", "c")
    assert later.retag() == 1
    rows = CrawlState(config).images.read(["image_id", "tags"]).to_pylist()
    assert sorted((row["image_id"], row["tags"]) for row in rows) == [("1", ["Cat"]), ("2", ["Cat", "Dog"])]
    version = later.images.version
    assert later.retag() == 0
    assert CrawlState(config).retag() == 0
    assert CrawlState(config).images.version == version


def test_an_image_that_was_restored_away_is_requested_again_and_added_once(config):
    state = CrawlState(config)
    commit_listings(state, "a", "b")
    state.commit_images("one", *shard(state, a="1", b="2"))
    restore(resolve(state.store, "images@0", [IMAGES]), Table(state.store, IMAGES), RunInfo("r", config.to_json()))
    again = CrawlState(config)
    assert open_urls(again) == ["a", "b"]
    again.commit_images(f"two {again.generation}", *shard(again, a="1", b="2"))
    assert stored(config) == ({"a": "1", "b": "2"}, {"a": "kept", "b": "kept"})
    assert open_urls(CrawlState(config)) == []


def page_block(state, **pages):
    """Return the file and outcomes of pages with one tile each: page=reason."""
    rows = [{"tile_id": f"{url}-{reason}", "image_url": url, "title": url, "tag": "A", "page_url": url, "position": 0}
            for url, reason in pages.items()]  # fmt: skip
    outcomes = [outcome_row(url, "page", Outcome.LISTED, reason) for url, reason in pages.items()]
    file = state.listings.write_file(pa.Table.from_pylist(rows, schema=LISTINGS.schema))
    return file, pa.Table.from_pylist(outcomes, schema=OUTCOMES.schema)


def test_a_page_of_a_chain_that_was_interrupted_is_read_again_and_says_what_comes_next(config, monkeypatch):
    first = CrawlState(config)
    with monkeypatch.context() as patch:
        patch.setattr(first, "_commit_outcomes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            first.commit_pages("one", *page_block(first, p1="old"))
    again = CrawlState(config)
    again.reopen_interrupted_pages()
    assert again.finished_pages() == {}
    again.commit_pages("one", *page_block(again, p1="1 tiles; next page: p2"))
    assert again.close_interrupted_pages() == 0
    assert again.following_pages() == {"p1": "p2"} and again.finished_pages() == {"p1": "listed"}
    assert again.listings.read(["tile_id"])["tile_id"].to_pylist() == ["p1-1 tiles; next page: p2"]


def test_a_page_that_a_chain_leads_to_twice_has_one_outcome(config):
    state = CrawlState(config)
    state.commit_pages("one", *page_block(state, p1="1", p2="2"))
    state.commit_pages("two", *page_block(state, p2="3", p3="4"))
    rows = state.outcomes.read(["url", "reason"]).to_pylist()
    assert sorted((row["url"], row["reason"]) for row in rows) == [("p1", "1"), ("p2", "3"), ("p3", "4")]
    assert state.listings.count() == 3
