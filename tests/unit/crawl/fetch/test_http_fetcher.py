"""Fetching one URL from a real, and often hostile, server."""

import asyncio
import time

import pytest

from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.politeness.limiters import config_of
from tests.unit.crawl.stub_site import OK, Site, answer, drip, endless, hang_up, in_turn


def fetch(site, *paths, **options):
    """Return what each path gave, in order: a body or a rejection."""

    async def one(fetcher, path):
        try:
            return await fetcher.get(path if "://" in path else site.url + path)
        except Rejected as rejection:
            return rejection

    async def fetch_all():
        config = config_of(site.url, **{"fetch_timeout_s": 1.5, **options})
        limiter = LocalRateLimiter(config)
        fetcher = HttpFetcher(config, limiter)
        try:
            return [await one(fetcher, path) for path in paths]
        finally:
            await fetcher.close()
            await limiter.close()

    return asyncio.run(fetch_all())


def requested_images(site):
    return [path for path in site.log if path != "/robots.txt"]


def test_a_body_arrives_whole_and_robots_txt_is_read_once(site):
    first, _ = fetch(site, "/ok", "/ok")
    assert (first.body, first.http_status, first.media_type) == (b"picture", 200, "image/png")
    assert site.log == ["/robots.txt", "/ok", "/ok"]


@pytest.mark.parametrize(("status", "outcome"), [(404, Outcome.DEAD), (410, Outcome.DEAD), (403, Outcome.HTTP_ERROR)])
def test_a_permanent_status_is_not_retried(site, status, outcome):
    site.routes["/x"] = answer(status, b"no")
    (rejection,) = fetch(site, "/x")
    assert (rejection.outcome, rejection.http_status) == (outcome, status)
    assert requested_images(site) == ["/x"]


@pytest.mark.slow
def test_a_server_that_recovers_is_retried(site):
    site.routes["/x"] = in_turn(answer(500), hang_up, OK)
    assert fetch(site, "/x")[0].body == b"picture"


@pytest.mark.slow
def test_a_server_that_does_not_recover_gets_three_requests(site):
    site.routes["/x"] = answer(503)
    (rejection,) = fetch(site, "/x", fetch_timeout_s=5)
    assert (rejection.outcome, rejection.http_status) == (Outcome.HTTP_ERROR, 503)
    assert requested_images(site) == ["/x"] * 3


@pytest.mark.slow
def test_retry_after_is_waited_for_within_the_deadline(site):
    site.routes["/soon"] = in_turn(answer(429, Retry_After=1), OK)
    site.routes["/later"] = in_turn(answer(429, Retry_After=60), OK)
    soon, later = fetch(site, "/soon", "/later")
    assert soon.body == b"picture"
    assert site.times[2] - site.times[1] >= 0.9
    assert later.outcome is Outcome.HTTP_ERROR
    assert site.log.count("/later") == 1


@pytest.mark.slow
def test_a_broken_connection_is_unreachable_after_two_retries(site):
    site.routes["/x"] = hang_up
    assert fetch(site, "/x", fetch_timeout_s=5)[0].outcome is Outcome.UNREACHABLE
    assert requested_images(site) == ["/x"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("head", [False, True])
def test_a_slow_drip_ends_at_the_deadline(site, head):
    site.routes["/x"] = drip(b"x" * 1000, 0.1, head=head)
    began = time.monotonic()
    (rejection,) = fetch(site, "/x", fetch_timeout_s=0.6)
    assert rejection.outcome is Outcome.TIMED_OUT
    assert time.monotonic() - began < 1.6


def test_an_endless_body_ends_at_the_size_cap(site):
    site.routes["/endless"] = endless
    site.routes["/promise"] = answer(200, b"", Content_Length=10**12)
    assert [rejection.outcome for rejection in fetch(site, "/endless", "/promise", max_bytes=10**6)] == [
        Outcome.TOO_LARGE
    ] * 2


def test_at_most_five_redirects_are_followed(site):
    site.routes["/once"] = answer(302, Location="/ok")
    site.routes["/loop"] = answer(302, Location="/loop")
    once, loop = fetch(site, "/once", "/loop")
    assert once.body == b"picture"
    assert loop.outcome is Outcome.HTTP_ERROR
    assert site.log.count("/loop") == 6


def test_what_robots_txt_forbids_is_never_requested_even_by_redirect(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private/")
    site.routes["/jump"] = answer(302, Location="/private/2")
    assert [rejection.outcome for rejection in fetch(site, "/private/1", "/jump")] == [Outcome.ROBOTS] * 2
    assert requested_images(site) == ["/jump"]


@pytest.mark.slow
@pytest.mark.parametrize("route", [answer(500), hang_up, drip(b"x" * 100, 0.1, head=True)])
def test_an_unreachable_robots_txt_forbids_everything(site, route):
    site.routes["/robots.txt"] = route
    rejection = fetch(site, "/ok", fetch_timeout_s=0.6)[0]
    assert (rejection.outcome, "robots.txt" in rejection.reason) == (Outcome.UNREACHABLE, True)
    assert requested_images(site) == []


def test_an_opt_out_header_is_honoured(site):
    site.routes["/x"] = lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Robots-Tag: noai\r\n\r\n"
    )
    site.routes["/y"] = answer(200, b"picture", X_Robots_Tag="otherbot: noindex, noai")
    x, y = fetch(site, "/x", "/y")
    assert x.outcome is Outcome.ROBOTS
    assert y.body == b"picture"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "http://", "data:image/png;base64,AA=="])
def test_only_http_addresses_are_requested(site, url):
    assert fetch(site, url if "://" in url else f"{url}://")[0].outcome is Outcome.ADDRESS


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "0.0.0.0"])
def test_a_public_site_cannot_lead_into_private_networks(host):
    with Site() as target:
        target.url = "http://8.8.8.8"  # the site that is crawled; nothing is sent to it
        assert fetch(target, f"http://{host}/latest/meta-data")[0].outcome is Outcome.ADDRESS
        assert target.log == []


@pytest.mark.slow
def test_requests_to_a_host_keep_the_crawl_delay(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 0.3")
    fetch(site, "/ok", "/ok", "/ok", min_request_interval_s=0.1)
    assert all(later - earlier >= 0.25 for earlier, later in zip(site.times[1:], site.times[2:], strict=False))
