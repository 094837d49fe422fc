"""No wait in a crawl is without a bound: hosts that ask for hours, or for pauses again and again."""

import asyncio
import shutil
import time
from urllib.parse import urlsplit

import pytest

from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.frontier import RETRYABLE_OUTCOMES
from emoji_ldm.crawl.politeness import host_slots, rate_limiter, rate_limiter_client
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.crawl.politeness.rate_limiter_client import RateLimiterClient
from emoji_ldm.crawl.sources import source_factory
from tests.unit.crawl.politeness.limiters import config_of, remote_of
from tests.unit.crawl.stub_site import Site, answer

NUM_URLS, PAUSE_S, BOUND_S, TIMEOUT_S = 40, 0.4, 15.0, 0.3
HOURS, SECONDS = answer(429, Retry_After=7200), answer(503, Retry_After=1)
# Waiting for each URL anew would take at least NUM_URLS times the shortest pause at one of `host_concurrency`.
OVERLOADS = {"a pause of hours": HOURS, "short pauses for ever": SECONDS, "no pause named": answer(503)}
RULES = {"no rule": b"", "an interval": b"User-agent: *\nCrawl-delay: 0.01\n"}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A minute is too long for a test; the bound is a constant that scales."""
    for module in (host_slots, rate_limiter, rate_limiter_client):
        monkeypatch.setattr(module, "MAX_HOST_PAUSE_S", PAUSE_S)


def limiters(config):
    """The rate limiter of a probe, and that of a worker."""
    with remote_of(config) as remote:
        yield RateLimiterClient(remote, config)
    yield LocalRateLimiter(config)


@pytest.mark.slow
@pytest.mark.parametrize("robots", RULES.values(), ids=RULES)
@pytest.mark.parametrize("overload", OVERLOADS.values(), ids=OVERLOADS)
def test_an_overloaded_host_holds_its_shard_for_a_bounded_time(overload, robots):
    with Site({"/robots.txt": answer(200, robots), "/x": overload}) as site:
        config = config_of(site.url, host_concurrency=2)
        for limiter in limiters(config):
            fetcher, began = ImageFetcher(config, limiter), time.monotonic()
            rows = [
                {"image_url": f"{site.url}/x?{n}", "title": "", "tags": [], "page_url": ""} for n in range(NUM_URLS)
            ]
            outcomes = fetcher.fetch(rows).outcomes
            fetcher.close()
            assert time.monotonic() - began < BOUND_S
            assert {row["outcome"] for row in outcomes} <= set(RETRYABLE_OUTCOMES)


@pytest.mark.slow
@pytest.mark.parametrize("robots", RULES.values(), ids=RULES)
def test_a_host_that_never_answers_is_not_waited_for_with_each_url(robots):
    def silent(handler):
        time.sleep(3 * TIMEOUT_S)

    with Site({"/robots.txt": answer(200, robots), "/x": silent}) as site:
        config = config_of(site.url, host_concurrency=2, fetch_timeout_s=TIMEOUT_S)
        for limiter in limiters(config):
            site.log.clear()
            fetcher = ImageFetcher(config, limiter)
            rows = [
                {"image_url": f"{site.url}/x?{n}", "title": "", "tags": [], "page_url": ""} for n in range(NUM_URLS)
            ]
            outcomes = fetcher.fetch(rows).outcomes
            fetcher.close()
            assert {row["outcome"] for row in outcomes} == {"timed-out", "http-error"} <= set(RETRYABLE_OUTCOMES)
            assert len(site.log) < NUM_URLS / 2, "the others are not even asked for"


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    ["html", "api", pytest.param("listing", marks=[
        pytest.mark.long, pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")
    ])],
)  # fmt: skip
@pytest.mark.parametrize("overload", OVERLOADS.values(), ids=OVERLOADS)
def test_its_pages_fail_for_now(overload, source, monkeypatch):
    monkeypatch.setenv("SERPAPI_API_KEY", "k")
    with Site({"/robots.txt": answer(200, b"")}) as site:
        profile = "serpapi" if source == "api" else "listing"
        config = config_of(site.url, source=source, profile=profile, tags=["Cat"])
        names = source_factory.page_names(config)
        urls = [names.url("Cat", number) for number in range(1, 9)]
        site.routes |= {urlsplit(url).path: overload for url in urls}
        reader, began = source_factory.open_reader(config, LocalRateLimiter(config)), time.monotonic()
        pages = list(reader.read("Cat", urls))
        reader.close()
        assert time.monotonic() - began < BOUND_S
        assert {page.outcome for page in pages} <= set(RETRYABLE_OUTCOMES)


@pytest.mark.slow
@pytest.mark.parametrize("robots", [answer(429, Retry_After=7200), answer(503, Retry_After=7200)], ids=["429", "503"])
def test_a_robots_txt_that_asks_for_hours_is_not_asked_again_in_this_time(robots):
    with Site({"/robots.txt": robots}) as site:
        config = config_of(site.url)
        for limiter in limiters(config):
            fetcher, began = ImageFetcher(config, limiter), time.monotonic()
            rows = [
                {"image_url": f"{site.url}/x?{n}", "title": "", "tags": [], "page_url": ""} for n in range(NUM_URLS)
            ]
            assert {row["outcome"] for row in fetcher.fetch(rows).outcomes} == {"unreachable"}
            fetcher.close()
            assert time.monotonic() - began < BOUND_S
        assert site.log == ["/robots.txt"] * 2, "once per rate limiter"
        rules = asyncio.run(_rules(config, site.url))
        assert rules.ttl_s == 7200


async def _rules(config, url):
    limiter = LocalRateLimiter(config)
    try:
        return await limiter.rules(url)
    finally:
        await limiter.close()


@pytest.mark.slow
def test_scattered_overloads_slow_a_host_for_a_while_and_not_for_good():
    """Successes are reported now and then, but overloads at once: the pauses must not grow with each of these."""
    with Site({"/robots.txt": answer(200, b"")}) as site:
        config = config_of(site.url, host_concurrency=4)
        with remote_of(config) as remote:

            async def visit_all():
                worker, left, statuses = RateLimiterClient(remote, config), list(range(150)), []

                async def visit():
                    while left:
                        left.pop()
                        permit = await worker.acquire(f"{site.url}/x")
                        await asyncio.sleep(0.005)
                        status = 503 if len(statuses) % 10 == 9 else 200
                        statuses.append(status)
                        await worker.release(permit, status=status)

                await asyncio.gather(*(visit() for _ in range(8)))
                await worker.close()

            asyncio.run(visit_all())
            (origin,) = remote.limiter._origins.values()
            assert origin.host.num_backoffs <= 2
