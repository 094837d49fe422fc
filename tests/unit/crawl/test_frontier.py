"""The frontier: which pages and which images are still to be read."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import NO_RECRAWL, RecrawlPolicy, next_pages, open_images
from emoji_ldm.crawl.site_profile import SitePages, load_site_profile
from emoji_ldm.schemas import LISTINGS, OUTCOMES

PROFILE = load_site_profile("listing")


@pytest.fixture
def crawl():
    return build({"crawl": {"site": "https://s", "tags": ["A", "B"], "max_pages": 50}}, where="test").crawl


def names(config):
    return SitePages(config.site, config.tags, PROFILE)


def url(tag, page):
    return PROFILE.page_url("https://s", tag, page)


def pages(config, finished):
    blocks = next_pages(config, names(config), finished, {})
    return [(block.tag, [int(u.rsplit("=", 1)[1]) for u in block.urls]) for block in blocks]


def crawl_pages(config, num_pages):
    """Crawl a site whose every tag has `num_pages` pages; returns {page URL: outcome} and the sizes of the waves."""
    finished, waves = {}, []
    while blocks := next_pages(config, names(config), finished, {}):
        waves.append(sum(len(block.urls) for block in blocks))
        for block in blocks:
            for u in block.urls:
                assert u not in finished
                finished[u] = "listed" if int(u.rsplit("=", 1)[1]) <= num_pages else "empty"
                if finished[u] == "empty":
                    break
    return finished, waves


def test_the_first_wave_is_four_pages_of_each_tag(crawl):
    assert pages(crawl, {}) == [("A", [1, 2, 3, 4]), ("B", [1, 2, 3, 4])]


def test_a_tag_ends_at_its_empty_page_and_others_go_on(crawl):
    finished = {url("A", 1): "empty"} | {url("B", page): "listed" for page in range(1, 5)}
    assert pages(crawl, finished) == [("B", [5, 6, 7, 8]), ("B", [9, 10, 11, 12])]


def test_finished_pages_are_not_read_again(crawl):
    finished = {url("A", 1): "listed", url("A", 3): "listed", url("B", 1): "empty"}
    assert pages(crawl, finished) == [("A", [2, 4, 5, 6]), ("A", [7, 8])]


def test_waves_grow_and_every_page_of_a_long_tag_is_read_once(crawl):
    finished, waves = crawl_pages(crawl, num_pages=30)
    assert waves == [8, 16, 32, 44]
    assert sum(outcome == "listed" for outcome in finished.values()) == 60


def test_max_pages_ends_a_tag(crawl):
    finished, _ = crawl_pages(crawl.model_copy(update={"max_pages": 6}), num_pages=30)
    assert len(finished) == 12


def test_four_failed_pages_in_a_row_end_a_tag(crawl):
    bad = {url("A", page): "failed" for page in (1, 2, 3, 4)}
    single = {url("B", page): "failed" if page % 2 else "listed" for page in (1, 2, 3, 4)}
    assert {tag for tag, _ in pages(crawl, bad | single)} == {"B"}


def test_a_profile_without_page_numbers_gives_a_tag_one_page(crawl):
    single = SitePages("https://s", ("A",), PROFILE.model_copy(update={"url": "{site}/{tag}"}))
    assert [block.urls for block in next_pages(crawl, single, {}, {})] == [["https://s/A"]]
    assert next_pages(crawl, single, {"https://s/A": "listed"}, {}) == []


def chain(config, finished, following):
    linked = SitePages("https://s", config.tags, PROFILE.model_copy(update={"url": "{site}/{tag}", "more": "next"}))
    return [(block.tag, block.urls) for block in next_pages(config, linked, finished, following)]


def test_a_chain_of_pages_goes_on_after_the_last_page_that_said_what_comes_next(crawl):
    assert chain(crawl, {}, {}) == [("A", ["https://s/A"]), ("B", ["https://s/B"])]
    finished = {"https://s/A": "listed", "https://s/A?c=1": "listed", "https://s/B": "listed"}
    following = {"https://s/A": "https://s/A?c=1", "https://s/A?c=1": "https://s/A?c=2"}
    assert chain(crawl, finished, following) == [("A", ["https://s/A?c=2"])]
    assert chain(crawl.model_copy(update={"max_pages": 2}), finished, following) == []


def test_a_chain_ends_at_an_empty_or_failed_page_and_where_it_leads_back(crawl):
    finished = {"https://s/A": "listed", "https://s/B": "failed"}
    assert chain(crawl, finished, {"https://s/A": "https://s/A"}) == []
    following = {"https://s/A": "https://s/A?c=1", "https://s/A?c=1": "https://s/A?c=2"}
    assert chain(crawl, finished | {"https://s/A?c=1": "empty"}, following) == []


def test_chains_that_join_are_read_once(crawl):
    finished = {"https://s/A": "listed", "https://s/B": "listed"}
    both = {"https://s/A": "https://s/all?c=1", "https://s/B": "https://s/all?c=1"}
    assert chain(crawl, finished, both) == [("A", ["https://s/all?c=1"])]


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def listings(*rows):
    return pa.Table.from_pylist(
        [dict(zip(LISTINGS.schema.names, row, strict=True)) for row in rows], schema=LISTINGS.schema
    )


def outcomes(**finished):
    """url=(outcome, hours ago)."""
    rows = [{"url": url, "outcome": outcome, "finished_at": NOW - timedelta(hours=hours), "etag": f"of {url}",
             "image_id": "i" if outcome == "kept" else None}
            for url, (outcome, hours) in finished.items()]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=OUTCOMES.schema)


LISTINGS_ROWS = listings(
    ("1", "u2", "Two", "A", "p1", 1), ("2", "u1", "", "B", "p1", 0), ("3", "u1", "One", "A", "p2", 0),
    ("4", "u3", "x", "A", "p2", 1),
)  # fmt: skip

IMAGE_IDS = pa.chunked_array([["i"]])


def open_urls(finished, recrawl=NO_RECRAWL):
    return open_images(LISTINGS_ROWS, finished, IMAGE_IDS, recrawl)["image_url"].to_pylist()


def test_an_image_under_several_tags_is_one_row_with_all_of_them_and_the_first_title():
    rows = open_images(LISTINGS_ROWS, outcomes(u3=("dead", 1)), IMAGE_IDS, NO_RECRAWL).select(
        ["image_url", "title", "tags", "page_url"]
    )
    assert rows.to_pylist() == [
        {"image_url": "u1", "title": "One", "tags": ["A", "B"], "page_url": "p1"},
        {"image_url": "u2", "title": "Two", "tags": ["A"], "page_url": "p1"},
    ]


def test_a_url_with_an_outcome_is_not_open():
    assert open_urls(outcomes(u1=("kept", 1), u2=("timed-out", 1), u3=("dead", 1))) == []


def test_a_retry_opens_failures_that_are_older_than_it():
    finished = outcomes(u1=("kept", 5), u2=("timed-out", 5), u3=("dead", -1))
    assert open_urls(finished, RecrawlPolicy(retry_failed_before=NOW)) == ["u2"]


def test_a_refresh_opens_everything_older_with_its_validators():
    finished = outcomes(u1=("kept", 5), u2=("timed-out", 5), u3=("dead", -1))
    rows = open_images(LISTINGS_ROWS, finished, IMAGE_IDS, RecrawlPolicy(refresh_before=NOW))
    assert dict(zip(rows["image_url"].to_pylist(), rows["etag"].to_pylist(), strict=True)) == {
        "u1": "of u1", "u2": "of u2"
    }  # fmt: skip


def test_without_tiles_no_image_is_open():
    assert open_images(listings(), outcomes(), IMAGE_IDS, NO_RECRAWL).num_rows == 0


def test_a_kept_url_whose_image_is_missing_is_open_without_validators():
    finished = outcomes(u1=("kept", 1), u2=("dead", 1), u3=("dead", 1))
    rows = open_images(LISTINGS_ROWS, finished, pa.chunked_array([[]], pa.string()), NO_RECRAWL)
    assert rows.select(["image_url", "etag"]).to_pylist() == [{"image_url": "u1", "etag": None}]
