"""What is left to do: waves of pages."""

from pytest import fixture

from emoji_ldm.config import build
from emoji_ldm.crawl.frontier import next_pages
from emoji_ldm.crawl.site_profile import SitePages, load_site_profile

PROFILE = load_site_profile("listing")


@fixture
def crawl():
    return build({"crawl": {"site": "https://s", "tags": ["A", "B"], "max_pages": 50}}, where="test").crawl


def names(config):
    return SitePages(config.site, config.tags, PROFILE)


def url(tag, page):
    return PROFILE.page_url("https://s", tag, page)


def pages(config, ended):
    blocks = next_pages(config, names(config), ended)
    return [(block.tag, [int(u.rsplit("=", 1)[1]) for u in block.urls]) for block in blocks]


def walk(config, num_pages):
    """Waves until the end on a site whose every tag has `num_pages` pages; returns the loads per page."""
    ended, waves = {}, []
    while blocks := next_pages(config, names(config), ended):
        waves.append(sum(len(block.urls) for block in blocks))
        for block in blocks:
            for u in block.urls:
                assert u not in ended
                ended[u] = "listed" if int(u.rsplit("=", 1)[1]) <= num_pages else "empty"
                if ended[u] == "empty":
                    break
    return ended, waves


def test_the_first_wave_is_four_pages_of_each_tag(crawl):
    assert pages(crawl, {}) == [("A", [1, 2, 3, 4]), ("B", [1, 2, 3, 4])]


def test_a_tag_ends_at_its_empty_page_and_others_go_on(crawl):
    ended = {url("A", 1): "empty"} | {url("B", page): "listed" for page in range(1, 5)}
    assert pages(crawl, ended) == [("B", [5, 6, 7, 8]), ("B", [9, 10, 11, 12])]


def test_pages_that_are_done_are_not_loaded_again(crawl):
    ended = {url("A", 1): "listed", url("A", 3): "listed", url("B", 1): "empty"}
    assert pages(crawl, ended) == [("A", [2, 4, 5, 6]), ("A", [7, 8])]


def test_waves_grow_and_every_page_of_a_long_tag_is_loaded_once(crawl):
    ended, waves = walk(crawl, num_pages=30)
    assert waves == [8, 16, 32, 44]
    assert sum(outcome == "listed" for outcome in ended.values()) == 60


def test_max_pages_ends_a_tag(crawl):
    ended, _ = walk(crawl.model_copy(update={"max_pages": 6}), num_pages=30)
    assert len(ended) == 12


def test_four_failed_pages_in_a_row_end_a_tag_but_single_ones_do_not(crawl):
    bad = {url("A", page): "failed" for page in (1, 2, 3, 4)}
    single = {url("B", page): "failed" if page % 2 else "listed" for page in (1, 2, 3, 4)}
    assert {tag for tag, _ in pages(crawl, bad | single)} == {"B"}


def test_a_profile_without_page_numbers_gives_a_tag_one_page(crawl):
    single = SitePages("https://s", ("A",), PROFILE.model_copy(update={"url": "{site}/{tag}"}))
    assert [block.urls for block in next_pages(crawl, single, {})] == [["https://s/A"]]
    assert next_pages(crawl, single, {"https://s/A": "listed"}) == []
