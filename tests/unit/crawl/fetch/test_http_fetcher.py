"""Fetching from a real, and often hostile, server."""

import asyncio
import time

import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.stub_site import Site, answer, drip, emoji, endless, hang_up, in_turn

pytestmark = pytest.mark.slow

OK = answer(200, b"picture", Content_Type="image/png")


@pytest.fixture
def site():
    with Site({"/ok": OK}) as opened:
        yield opened


def config_of(site, **options):
    return build({"crawl": {"site": site.url, "fetch_timeout_s": 1.5, **options}}, where="test").crawl


def fetch(site, *paths, **options):
    """What each path gave, in order: a download or a refusal."""

    async def one(fetcher, path):
        try:
            return await fetcher.get(path if "://" in path else site.url + path)
        except Rejected as refused:
            return refused

    async def all_of_them():
        config = config_of(site, **options)
        gate = LocalRateLimiter(config)
        fetcher = HttpFetcher(config, gate)
        try:
            return [await one(fetcher, path) for path in paths]
        finally:
            await fetcher.close()
            await gate.close()

    return asyncio.run(all_of_them())


def images_asked_for(site):
    return [path for path in site.log if path != "/robots.txt"]


def test_a_body_arrives_whole_and_robots_is_read_once(site):
    first, _ = fetch(site, "/ok", "/ok")
    assert (first.body, first.http_status, first.media_type) == (b"picture", 200, "image/png")
    assert site.log == ["/robots.txt", "/ok", "/ok"]


@pytest.mark.parametrize(("status", "outcome"), [(404, Outcome.DEAD), (410, Outcome.DEAD), (403, Outcome.HTTP_ERROR)])
def test_a_final_status_is_not_tried_again(site, status, outcome):
    site.routes["/x"] = answer(status, b"no")
    (refused,) = fetch(site, "/x")
    assert (refused.outcome, refused.http_status) == (outcome, status)
    assert images_asked_for(site) == ["/x"]


def test_a_server_that_heals_is_asked_again(site):
    site.routes["/x"] = in_turn(answer(500), hang_up, OK)
    assert fetch(site, "/x")[0].body == b"picture"


def test_a_server_that_does_not_heal_is_asked_three_times_only(site):
    site.routes["/x"] = answer(503)
    (refused,) = fetch(site, "/x", fetch_timeout_s=5)
    assert (refused.outcome, refused.http_status) == (Outcome.HTTP_ERROR, 503)
    assert images_asked_for(site) == ["/x"] * 3


def test_retry_after_is_waited_for_within_the_deadline(site):
    site.routes["/soon"] = in_turn(answer(429, Retry_After=1), OK)
    site.routes["/later"] = in_turn(answer(429, Retry_After=60), OK)
    soon, later = fetch(site, "/soon", "/later")
    assert soon.body == b"picture"
    assert site.times[2] - site.times[1] >= 0.9
    assert later.outcome is Outcome.HTTP_ERROR
    assert site.log.count("/later") == 1


def test_a_broken_connection_is_unreachable_after_two_retries(site):
    site.routes["/x"] = hang_up
    assert fetch(site, "/x", fetch_timeout_s=5)[0].outcome is Outcome.UNREACHABLE
    assert images_asked_for(site) == ["/x"] * 3


@pytest.mark.parametrize("head", [False, True])
def test_a_slow_drip_ends_at_the_deadline(site, head):
    site.routes["/x"] = drip(b"x" * 1000, 0.1, head=head)
    began = time.monotonic()
    (refused,) = fetch(site, "/x", fetch_timeout_s=0.6)
    assert refused.outcome is Outcome.TIMED_OUT
    assert time.monotonic() - began < 1.6


def test_an_endless_body_ends_at_the_size_cap(site):
    site.routes["/endless"] = endless
    site.routes["/promise"] = answer(200, b"", Content_Length=10**12)
    assert [refused.outcome for refused in fetch(site, "/endless", "/promise", max_bytes=10**6)] == [
        Outcome.TOO_LARGE
    ] * 2


def test_redirects_are_followed_but_not_for_ever(site):
    site.routes["/once"] = answer(302, Location="/ok")
    site.routes["/loop"] = answer(302, Location="/loop")
    once, loop = fetch(site, "/once", "/loop")
    assert once.body == b"picture"
    assert loop.outcome is Outcome.HTTP_ERROR
    assert site.log.count("/loop") == 6


def test_what_robots_forbids_is_never_requested_even_by_redirect(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /private/")
    site.routes["/jump"] = answer(302, Location="/private/2")
    assert [refused.outcome for refused in fetch(site, "/private/1", "/jump")] == [Outcome.ROBOTS] * 2
    assert images_asked_for(site) == ["/jump"]


@pytest.mark.parametrize("route", [answer(500), hang_up, drip(b"x" * 100, 0.1, head=True)])
def test_an_unreachable_robots_file_denies_all(site, route):
    site.routes["/robots.txt"] = route
    refused = fetch(site, "/ok", fetch_timeout_s=0.6)[0]
    assert (refused.outcome, "robots.txt" in refused.reason) == (Outcome.UNREACHABLE, True)
    assert images_asked_for(site) == []


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
def test_a_public_site_cannot_send_us_into_private_networks(host):
    with Site() as target:
        target.url = "http://8.8.8.8"  # the site that is crawled; nothing is sent to it
        assert fetch(target, f"http://{host}/latest/meta-data")[0].outcome is Outcome.ADDRESS
        assert target.log == []


def test_requests_to_a_host_keep_the_crawl_delay(site):
    site.routes["/robots.txt"] = answer(200, b"User-agent: *\nCrawl-delay: 0.3")
    fetch(site, "/ok", "/ok", "/ok", min_request_interval_s=0.1)
    assert all(later - earlier >= 0.25 for earlier, later in zip(site.times[1:], site.times[2:], strict=False))


def test_a_harvest_ends_every_url_once_whatever_it_serves(site):
    site.routes |= {
        "/good": answer(200, emoji()), "/page": answer(200, b"<html>", Content_Type="image/png"),
        "/blank": answer(200, emoji(size=(6, 6))), "/hang": hang_up,
    }  # fmt: skip
    paths = ["/good", "/page", "/blank", "/hang", "/gone"]
    wanted = [{"image_url": site.url + path, "title": path, "tags": ["Blobs"], "page_url": "p"} for path in paths]
    config = config_of(site)
    harvester = ImageFetcher(config, LocalRateLimiter(config))
    harvest = harvester.fetch(wanted)
    harvester.close()
    assert [row["outcome"] for row in harvest.outcomes] == ["kept", "not-an-image", "too-small", "unreachable", "dead"]
    assert all(row["reason"] and row["elapsed_s"] >= 0 for row in harvest.outcomes)
    assert [(row["title"], row["image_id"]) for row in harvest.images] == [("/good", harvest.outcomes[0]["image_id"])]


def test_no_more_requests_are_in_flight_than_allowed(site):
    now, most = [], []

    def slow(handler):
        now.append(1)
        most.append(len(now))
        time.sleep(0.05)
        OK(handler)
        now.pop()

    site.routes |= {f"/{number}": slow for number in range(12)}
    wanted = [{"image_url": f"{site.url}/{n}", "title": "", "tags": [], "page_url": ""} for n in range(12)]
    config = config_of(site, host_concurrency=3)
    harvester = ImageFetcher(config, LocalRateLimiter(config))
    harvester.fetch(wanted)
    harvester.close()
    assert max(most) == 3
