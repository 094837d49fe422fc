"""Pages and tiles: reading in order, rows with stable ids, and messages about pages without tiles."""

from emoji_ldm.crawl.page_types import (
    PAGES_PER_BLOCK,
    PageContent,
    Tile,
    following_page,
    no_tiles_message,
    read_pages,
    selector_warnings,
)
from emoji_ldm.outcomes import Outcome, Rejected


def read(tag, url):
    if url == "failed":
        raise Rejected(Outcome.FAILED, "HTTP 500", 500)
    if url == "empty":
        raise Rejected(Outcome.EMPTY, "no tiles", 200)
    return PageContent([Tile("https://e.org/a.png", "A"), Tile("https://e.org/b.png", tag="Own")], "2 tiles", 200)


def test_pages_are_read_up_to_and_including_the_first_empty_one():
    pages = list(read_pages("T", ["one", "failed", "empty", "never"], read))
    assert [(page.url, page.outcome, page.http_status) for page in pages] == [
        ("one", "listed", 200), ("failed", "failed", 500), ("empty", "empty", 200),
    ]  # fmt: skip
    assert all(page.elapsed_s >= 0 for page in pages)


def test_a_page_that_says_which_one_comes_next_is_followed_for_a_block_and_its_reason_carries_the_rest():
    def read_linked(tag, url):
        return PageContent([Tile("https://e.org/a.png")], "1 tiles", next_url=str(int(url) + 1))

    pages = list(read_pages("T", ["1"], read_linked))
    assert [page.url for page in pages] == [str(number) for number in range(1, PAGES_PER_BLOCK + 1)]
    assert following_page(pages[-1].reason) == str(PAGES_PER_BLOCK + 1)
    assert following_page("2 tiles") == ""


def test_a_page_that_leads_back_is_not_read_again():
    def circle(tag, url):
        return PageContent([Tile("https://e.org/a.png")], "1 tiles", next_url={"a": "b", "b": "a"}[url])

    assert [page.url for page in read_pages("T", ["a"], circle)] == ["a", "b"]


def test_a_tile_has_its_own_tag_or_that_of_its_page_and_a_stable_id():
    (first,), (again,) = (list(read_pages("T", ["one"], read)) for _ in range(2))
    assert [tile["tag"] for tile in first.tiles] == ["T", "Own"]
    assert [tile["position"] for tile in first.tiles] == [0, 1]
    assert first.tiles == again.tiles
    assert len({tile["tile_id"] for tile in first.tiles}) == 2


def test_a_warning_counts_the_pages_whose_selectors_matched_nothing():
    missed = "no tiles: the profile's selector 'li.a' matches nothing; the page holds 3 images"
    assert selector_warnings(["2 tiles"]) == []
    assert selector_warnings([missed, "2 tiles"])[0].startswith("1 page: ")
    assert selector_warnings([missed, missed])[0].startswith("2 pages: ")


def test_a_crawl_without_tiles_is_explained_by_the_outcome_of_its_first_page():
    assert "is the tag right? (no tiles)" in no_tiles_message("u", "empty", "no tiles")
    assert no_tiles_message("u", "failed", "HTTP 500") == "found no tiles on u: HTTP 500"
    assert "the crawl is not allowed: u is refused (robots.txt)" in no_tiles_message("u", Outcome.ROBOTS, "robots.txt")
