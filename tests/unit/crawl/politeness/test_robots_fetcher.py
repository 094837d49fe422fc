"""Fetching robots.txt: redirects, missing and unreachable files, long delays."""

import pytest

from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.politeness.limiters import config_of, with_limiter
from tests.unit.crawl.stub_site import Site, answer


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b""), "/x": answer(200, b"x")}) as opened:
        yield opened


def test_a_site_with_a_crawl_delay_of_a_day_is_not_crawled(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 86400")
    with pytest.raises(Rejected, match="Crawl-delay") as rejection:
        with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    assert rejection.value.outcome is Outcome.ROBOTS


def test_redirects_of_robots_txt_are_followed(site):
    site.routes["/robots.txt"] = answer(301, Location="/moved")
    site.routes["/moved"] = answer(200, b"User-agent: *\nDisallow: /x")
    with pytest.raises(Rejected) as rejection:
        with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    assert rejection.value.outcome is Outcome.ROBOTS


@pytest.mark.slow
@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (401, True), (429, False), (500, False)])
def test_a_missing_robots_txt_allows_everything_and_an_unreachable_one_nothing(site, status, allowed):
    site.routes["/robots.txt"] = answer(status)
    if allowed:
        assert with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
    else:
        with pytest.raises(Rejected, match=r"robots.txt answers") as rejection:
            with_limiter(config_of(site.url), lambda limiter: limiter.acquire(f"{site.url}/x"))
        assert rejection.value.outcome is Outcome.UNREACHABLE
