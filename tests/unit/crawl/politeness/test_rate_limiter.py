"""Admission of requests by the rate limiter itself, in one event loop."""

import asyncio
import time
from itertools import pairwise

import pytest

from emoji_ldm.crawl.politeness.request_permits import LEASE_S
from emoji_ldm.outcomes import Outcome
from tests.unit.crawl.politeness.limiters import config_of, with_limiter
from tests.unit.crawl.stub_site import Site, answer

CRAWL_DELAY = b"User-agent: *\nCrawl-delay: 0.05\n"


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b""), "/x": answer(200, b"x")}) as opened:
        yield opened


def test_the_interval_begins_when_the_previous_request_is_over(site):
    site.routes["/robots.txt"] = answer(200, CRAWL_DELAY)
    spans = []

    async def visit(limiter):
        permit = await limiter.acquire(f"{site.url}/x")
        began = time.monotonic()
        await asyncio.sleep(0.02)
        spans.append((began, time.monotonic()))
        await limiter.release(permit, status=200)

    async def four(limiter):
        await asyncio.gather(*(visit(limiter) for _ in range(4)))

    with_limiter(config_of(site.url, min_request_interval_s=0.01), four)
    assert all(later[0] - former[1] >= 0.05 for former, later in pairwise(spans))
    assert site.log == ["/robots.txt"]


def test_a_pause_that_a_host_asks_for_holds_for_all_requests(site):
    async def act(limiter):
        first, second = await limiter.acquire(f"{site.url}/x"), await limiter.acquire(f"{site.url}/x")
        await limiter.release(first, status=429, retry_after_s=0.4)
        began = time.monotonic()
        await limiter.release(second, status=200)
        await limiter.release(await limiter.acquire(f"{site.url}/x"))
        return time.monotonic() - began

    assert with_limiter(config_of(site.url), act) >= 0.39


def test_a_host_that_asks_for_a_pause_of_a_day_is_given_up_at_once_also_by_waiting_requests(site):
    async def act(limiter):
        permit = await limiter.acquire(f"{site.url}/x")
        waiting = asyncio.create_task(limiter.acquire(f"{site.url}/x"))
        await asyncio.sleep(0.01)
        await limiter.release(permit, status=503, retry_after_s=86400)
        return await asyncio.gather(waiting, limiter.acquire(f"{site.url}/x"), return_exceptions=True)

    for rejection in with_limiter(config_of(site.url, host_concurrency=1), act):
        assert (rejection.outcome, "left alone" in rejection.reason) == (Outcome.HTTP_ERROR, True)


def test_robots_txt_is_read_again_after_a_day(site, monkeypatch):
    async def act(limiter):
        for _ in range(3):
            await limiter.release(await limiter.acquire(f"{site.url}/x"))
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 25 * 3600)
        await asyncio.gather(*(limiter.acquire(f"{site.url}/x") for _ in range(3)))

    with_limiter(config_of(site.url), act)
    assert site.log == ["/robots.txt"] * 2


def test_a_cancelled_request_takes_no_slot(site):
    async def act(limiter):
        permit = await limiter.acquire(f"{site.url}/x")
        waiting = [asyncio.create_task(limiter.acquire(f"{site.url}/x")) for _ in range(2)]
        await asyncio.sleep(0.01)
        await limiter.release(permit)
        waiting[0].cancel()
        async with asyncio.timeout(1):
            return await waiting[1]

    assert with_limiter(config_of(site.url, host_concurrency=1), act)


def test_requests_that_a_dead_worker_waited_for_take_no_slot_from_the_living(site):
    """A host with an interval admits one request at a time; the worker dies with one admitted and two in the queue."""

    async def act(limiter):
        await limiter.acquire(f"{site.url}/x", "dead")
        dead = [asyncio.create_task(limiter.acquire(f"{site.url}/x", "dead")) for _ in range(2)]
        await asyncio.sleep(0.01)
        living = asyncio.create_task(limiter.acquire(f"{site.url}/x", "living"))
        limiter._last_heartbeat["dead"] -= LEASE_S + 1
        limiter.sync("living", {})
        async with asyncio.timeout(5):
            permit = await living
            assert {error.outcome for error in await asyncio.gather(*dead, return_exceptions=True)} == {
                Outcome.HTTP_ERROR
            }
        return permit.holder

    assert with_limiter(config_of(site.url, min_request_interval_s=0.01), act) == "living"
