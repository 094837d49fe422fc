"""What a crawl says about URLs that ended without a picture."""

import shlex

import pyarrow as pa
import pytest

from emoji_ldm.config import build, load
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.outcome_report import crawl_warnings, format_outcomes, refusal_error
from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Outcome, outcome_row, outcome_table
from emoji_ldm.schemas import LISTINGS

NO_TILES = LISTINGS.schema.empty_table()


def pages(*ends):
    return outcome_table([outcome_row(url, "page", outcome, reason) for url, outcome, reason in ends])


def tiles(**counts):
    """Tiles of one tag: page=number."""
    rows = [{"tag": "Cat", "page_url": page} for page, count in counts.items() for _ in range(count)]
    return pa.Table.from_pylist(rows)


@pytest.fixture
def crawled(tmp_path):
    """A store with outcomes of two hosts, as a crawl of some tag wrote them."""
    options = {"site": "https://a.org", "tags": ["big cats"], "max_pages": 7}
    config = build({"store": str(tmp_path), "crawl": options}, where="test")
    state, rows = CrawlState(config), []
    ends = [(Outcome.KEPT, "PNG"), (Outcome.HTTP_ERROR, "HTTP 503"), (Outcome.TIMED_OUT, "not whole within 10 s"),
            (Outcome.ROBOTS, "robots.txt: Disallow: /x"), (Outcome.TOO_SMALL, "1 x 1 px")]  # fmt: skip
    for number, (outcome, reason) in enumerate(ends * 3):
        rows.append(outcome_row(f"https://{'ab'[number % 2]}.org/{number}.png", "image", outcome, reason))
    rows.append(outcome_row("https://a.org/cat?page=2", "page", Outcome.EMPTY, "no tiles"))
    state.commit_pages("one", None, outcome_table(rows))
    return build({"store": str(tmp_path)}, where="test"), state.outcomes


def test_outcomes_are_grouped_by_reason_and_the_retry_has_the_settings_of_the_crawl(crawled):
    config, table = crawled
    text = format_outcomes(table, config)
    assert "kept" not in text and "PNG" not in text
    for words in ("http-error", "a.org: HTTP 503", "b.org: HTTP 503", "too-small", "page   empty", "Disallow: /x"):
        assert words in text
    assert "6 of 13 may end otherwise next time" in text
    command = shlex.split(text.splitlines()[-1])
    assert command[:4] == ["emoji-ldm", "crawl", "--retry", "failed"]
    again = load(None, command[4:])
    assert again.crawl.tags == ("big cats",) and again.crawl.site == "https://a.org" and again.crawl.max_pages == 7
    assert again.store == config.store


def test_a_filter_lists_each_url(crawled):
    config, table = crawled
    by_outcome = format_outcomes(table, config, reason="http-error")
    assert [line.split()[1] for line in by_outcome.splitlines()[:3]] == [
        "https://a.org/6.png", "https://b.org/1.png", "https://b.org/11.png",
    ]  # fmt: skip
    assert format_outcomes(table, config, reason="disallow").count("refused-by-robots") == 3
    assert "https://b.org" not in format_outcomes(table, config, host="a.org")
    assert "--retry" not in format_outcomes(table, config, reason="too-small")


def test_a_filter_that_matches_nothing_says_what_there_is(crawled):
    config, table = crawled
    with pytest.raises(ConfigError, match=r"no outcome matches 'nowhere\.org'.*http-error.*hosts a\.org, b\.org"):
        format_outcomes(table, config, host="nowhere.org")


def test_a_store_without_failures_says_so_and_one_without_a_crawl_is_an_error(tmp_path):
    config = build({"store": str(tmp_path)}, where="test")
    state = CrawlState(config)
    with pytest.raises(ConfigError, match="nothing was crawled"):
        format_outcomes(state.outcomes, config)
    state.commit_pages("one", None, pages(("https://a.org/1", Outcome.LISTED, "9 tiles")))
    assert format_outcomes(state.outcomes, config) == "no URL ended without a picture\n"


def test_tags_without_tiles_and_failed_pages_are_warned_of():
    table = pages(
        ("c1", Outcome.LISTED, "9 tiles"), ("c2", Outcome.EMPTY, "no tiles"),
        ("d1", Outcome.EMPTY, "no tiles"), ("e1", Outcome.FAILED, "HTTP 500, twice"),
    )  # fmt: skip
    found = crawl_warnings(table, tiles(c1=9), {"Cat": "c1", "Dog": "d1", "Elk": "e1"}, {})
    assert found == [
        "tag 'Dog' gave nothing: d1 is empty (no tiles)",
        "tag 'Elk' gave nothing: e1 is failed (HTTP 500, twice)",
        "1 page failed, for example e1: HTTP 500, twice",
    ]


def test_a_short_last_page_is_normal_and_several_short_pages_are_not():
    empty = pages()
    assert crawl_warnings(empty, tiles(a=60, b=60, c=60, d=2), {}, {}) == []
    (line,) = crawl_warnings(empty, tiles(a=60, b=60, c=60, d=2, e=60, f=1), {}, {})
    assert line.startswith("tag 'Cat': 2 of 6 pages show less than a quarter of the usual 60 tiles, for example f (1)")


@pytest.mark.parametrize(
    ("ends", "is_cut"),
    [
        ([("c1", Outcome.LISTED, "9 tiles"), ("c2", Outcome.LISTED, "9 tiles")], True),
        ([("c1", Outcome.LISTED, "9 tiles"), ("c2", Outcome.EMPTY, "no tiles")], False),
        ([("c1", Outcome.LISTED, "9 tiles; next page: x")], True),
        ([("c1", Outcome.LISTED, "9 tiles; next page: x"), ("x", Outcome.EMPTY, "only tiles of earlier pages")], False),
        ([("c1", Outcome.LISTED, "9 tiles (3 steps of scrolling, stopped at the limit)")], True),
        ([("c1", Outcome.LISTED, "9 tiles (3 steps of scrolling, until nothing new came)")], False),
    ],
)
def test_a_listing_that_a_limit_ended_is_warned_of(ends, is_cut):
    found = crawl_warnings(pages(*ends), NO_TILES, {"Cat": "c1"}, {"Cat": "c2"})
    assert [line.partition(" of a listing")[2] for line in found] == [
        ", but a limit ended it there; a larger crawl.max_pages reads on"
    ] * is_cut


def test_a_site_that_forbids_most_is_warned_of():
    ends = [(f"p{n}", Outcome.ROBOTS, "robots.txt: Disallow: /x") for n in range(3)]
    (line,) = crawl_warnings(pages(*ends, ("q", Outcome.LISTED, "1 tiles")), NO_TILES, {}, {})
    assert line.startswith("robots.txt forbids 3 of 4 URLs (robots.txt: Disallow: /x: 3)")
    assert crawl_warnings(pages(*ends[:1], ("q", Outcome.LISTED, "1 tiles")), NO_TILES, {}, {}) == []


def test_a_run_of_which_nearly_all_images_were_refused_is_a_failure():
    crawl = build({}, where="test").crawl
    reasons = {"cdn.local is 10.0.0.1, which is not a public address": 92}
    text = refusal_error(crawl, {"blocked-address": 92}, reasons)
    assert text.startswith(
        "92 of 92 image URLs were refused (cdn.local is 10.0.0.1, which is not a public address: 92)"
    )
    assert refusal_error(crawl, {"blocked-address": 50, "kept": 42}, reasons) == ""
    assert refusal_error(crawl, {}, {}) == ""
    accepted = build({"crawl": {"max_failed_fraction": 1}}, where="test").crawl
    assert refusal_error(accepted, {"blocked-address": 92}, reasons) == ""
