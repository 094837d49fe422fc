"""Outcomes of web pages: repeated pages end a tag, rejected requests end a page."""

import pytest

from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.sources import source_factory
from emoji_ldm.crawl.sources.page_outcomes import reject_bad_status, to_page_rejection
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.read_source import config_of, html, outcomes_of, read_tag
from tests.unit.crawl.stub_site import Site


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def test_a_tag_ends_at_the_first_page_that_shows_nothing_new(site):
    site.routes |= {f"/emoji-list/tag/T?page={n}": html(names) for n, names in enumerate(("ab", "cd", "cd", "ef"), 1)}
    pages = read_tag(config_of(source="html", site=site.url))
    assert outcomes_of(pages) == [
        ("listed", "2 tiles"),
        ("listed", "2 tiles"),
        ("empty", "only tiles of earlier pages"),
    ]
    assert pages[0].tiles[1] == {
        "tile_id": pages[0].tiles[1]["tile_id"], "image_url": f"{site.url}/b.png", "title": "b", "tag": "T",
        "page_url": f"{site.url}/emoji-list/tag/T?page=1", "position": 1,
    }  # fmt: skip
    assert site.log == ["/robots.txt", *(f"/emoji-list/tag/T?page={n}" for n in (1, 2, 3))]


def test_a_page_that_is_read_twice_keeps_its_tiles(site):
    site.routes["/emoji-list/tag/T?page=1"] = html("ab")
    config = config_of(source="html", site=site.url)
    reader, url = (
        source_factory.open_reader(config, LocalRateLimiter(config)),
        f"{site.url}/emoji-list/tag/T?page=1",
    )
    first, again = ([(p.outcome, p.tiles) for p in reader.read("T", [url])] for _ in range(2))
    reader.close()
    assert first == again


@pytest.mark.parametrize(("status", "outcome"), [(404, "empty"), (410, "empty"), (403, "failed"), (500, "failed")])
def test_an_error_status_ends_the_tag_or_fails_the_page(status, outcome):
    with pytest.raises(Rejected, match=f"HTTP {status}") as caught:
        reject_bad_status(status)
    assert caught.value.outcome == outcome


def test_requests_that_fail_are_failed_pages_and_forbidden_ones_stay_forbidden():
    expected = {Outcome.DEAD: "empty", Outcome.TIMED_OUT: "failed", Outcome.UNREACHABLE: "failed",
                Outcome.ROBOTS: "refused-by-robots", Outcome.ADDRESS: "blocked-address"}  # fmt: skip
    assert {outcome: to_page_rejection(Rejected(outcome, "")).outcome for outcome in expected} == expected
