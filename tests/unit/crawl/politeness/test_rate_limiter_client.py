"""Clients of one rate limiter: several workers keep its rules together."""

import asyncio
import time
from itertools import pairwise

import pytest

from emoji_ldm.crawl.fetch.http_fetcher import HttpFetcher
from emoji_ldm.crawl.politeness import rate_limiter, rate_limiter_client
from emoji_ldm.crawl.politeness.rate_limiter_client import RateLimiterClient
from emoji_ldm.crawl.politeness.request_permits import SlotDemand
from emoji_ldm.errors import CrawlError
from emoji_ldm.outcomes import Rejected
from tests.emoji_server import emoji_server, request_log
from tests.unit.crawl.politeness.limiters import config_of, remote_of
from tests.unit.crawl.stub_site import Site, answer


@pytest.fixture
def site():
    with Site({"/robots.txt": answer(200, b""), "/x": answer(200, b"x")}) as opened:
        yield opened


async def fetch_all(limiter, config, urls, num_tasks=12):
    """Bodies and rejections of URLs, fetched by one worker."""
    fetcher, left, got = HttpFetcher(config, limiter), list(urls), []

    async def work():
        while left:
            try:
                got.append(await fetcher.get(left.pop()))
            except Rejected as rejection:
                got.append(rejection)

    try:
        await asyncio.gather(*(work() for _ in range(num_tasks)))
    finally:
        await fetcher.close()
    return got


def max_in_flight(log):
    moments = sorted([(start, 1) for _, start, _ in log] + [(end, -1) for _, _, end in log])
    most = current = 0
    for _, step in moments:
        current += step
        most = max(most, current)
    return most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robots", "num", "slots", "interval_s"), [("", 400, 6, 0), ("User-agent: *\nCrawl-delay: 0.02", 20, 1, 0.02)]
)
def test_four_workers_break_no_rule_together(robots, num, slots, interval_s):
    forbid = robots or "User-agent: *"
    with emoji_server(2, delay_s=0.002, robots=f"{forbid}\nDisallow: /private/") as url:
        config = config_of(url, host_concurrency=6)
        with remote_of(config) as remote:

            async def four():
                workers = [RateLimiterClient(remote, config) for _ in range(4)]
                urls = [f"{url}/0.png?{n}" for n in range(num)] + [f"{url}/private/{n}" for n in range(20)]
                done = await asyncio.gather(*(fetch_all(w, config, urls[i::4]) for i, w in enumerate(workers)))
                for worker in workers:
                    await worker.close()
                return done

            done = asyncio.run(four())
            (origin,) = remote.limiter._origins.values()
            assert origin.host.free == origin.host.slots, "slots were not given back"
        log = request_log(url)
    assert all(len(got) == (num + 20) / 4 for got in done)
    assert [path for path, *_ in log].count("/robots.txt") == 1
    assert len(log) == num + 1
    assert not [path for path, *_ in log if path.startswith("/private")]
    assert max_in_flight(log) <= slots
    ordered = sorted(log, key=lambda entry: entry[1])
    assert all(later[1] - former[2] >= interval_s - 0.0005 for former, later in pairwise(ordered)) or not interval_s


@pytest.mark.slow
def test_the_slots_of_a_dead_worker_go_to_waiting_ones(site, monkeypatch):
    monkeypatch.setattr(rate_limiter, "LEASE_S", 1.0)
    monkeypatch.setattr(rate_limiter_client, "IDLE_SYNC_INTERVAL_S", 0.1)
    config, origin = config_of(site.url, host_concurrency=2), f"http://127.0.0.1:{site.server.server_port}"
    with remote_of(config) as remote:
        assert remote.sync("dead", {origin: SlotDemand(0, 2)})[origin].slots == 2

        async def wait():
            worker = RateLimiterClient(remote, config)
            async with asyncio.timeout(5):
                permit = await worker.acquire(f"{site.url}/x")
            await worker.release(permit, status=200)
            await worker.close()

        asyncio.run(wait())


@pytest.mark.slow
def test_waiting_requests_fail_when_the_rate_limiter_has_ended(site):
    config = config_of(site.url, host_concurrency=1)
    with remote_of(config) as remote:

        async def wait():
            worker = RateLimiterClient(remote, config)
            await worker.acquire(f"{site.url}/x")
            waiting = asyncio.create_task(worker.acquire(f"{site.url}/x"))
            await asyncio.sleep(0.3)
            remote.ended = True
            async with asyncio.timeout(10):
                await waiting

        with pytest.raises(CrawlError, match="ended"):
            asyncio.run(wait())


@pytest.mark.slow
def test_a_pause_that_one_worker_was_asked_for_holds_for_the_others(site):
    config = config_of(site.url)
    with remote_of(config) as remote:

        async def act():
            one, other = RateLimiterClient(remote, config), RateLimiterClient(remote, config)
            await one.release(await one.acquire(f"{site.url}/x"), status=503, retry_after_s=0.6)
            began = time.monotonic()
            await other.release(await other.acquire(f"{site.url}/x"))
            await one.close()
            await other.close()
            return time.monotonic() - began

        assert asyncio.run(act()) >= 0.55


@pytest.mark.slow
def test_the_lease_is_kept_between_two_runs_of_the_event_loop(site, monkeypatch):
    """A browser holds a permit while it loads a page, and no event loop runs meanwhile."""
    monkeypatch.setattr(rate_limiter, "LEASE_S", 0.3)
    monkeypatch.setattr(rate_limiter_client, "BUSY_SYNC_INTERVAL_S", 0.05)
    config = config_of(site.url, host_concurrency=1)
    with remote_of(config) as remote, asyncio.Runner() as runner, asyncio.Runner() as other:
        one, two = RateLimiterClient(remote, config), RateLimiterClient(remote, config)
        permit = runner.run(one.acquire(f"{site.url}/x"))
        (origin,) = remote.limiter._origins.values()
        for _ in range(12):
            time.sleep(0.05)
            remote.sync("observer", {})  # expired workers are dropped whenever any worker syncs
        assert origin.host.held == {one.holder: 1}
        runner.run(one.release(permit, status=200))
        other.run(two.release(other.run(two.acquire(f"{site.url}/x")), status=200))
        runner.run(one.release(runner.run(one.acquire(f"{site.url}/x"))))
        runner.run(one.close())
        other.run(two.close())
        assert origin.host.held == {}


@pytest.mark.slow
def test_a_worker_that_does_not_sync_loses_its_lease(site, monkeypatch):
    monkeypatch.setattr(rate_limiter, "LEASE_S", 0.3)
    with remote_of(config_of(site.url)) as remote:
        origin = f"http://127.0.0.1:{site.server.server_port}"
        assert remote.sync("silent", {origin: SlotDemand(0, 2)})[origin].slots == 2
        for _ in range(12):
            time.sleep(0.05)
            remote.sync("observer", {})
        assert remote.limiter._origins[origin].host.held == {}
