"""The rate limiter of a crawl over real Ray: workers in several processes keep its limits together."""

import asyncio
import time

import pytest
import ray

from emoji_ldm.config import build
from emoji_ldm.errors import ConfigError, CrawlError
from ray_jobs.execution import politeness_actor, ray_runtime
from tests.bench import polite
from tests.unit.crawl.stub_site import Site


@pytest.fixture(scope="module")
def connected():
    ray_runtime.connect(build({"ray": {"num_cpus": 2, "object_store_mb": 100}}, where="test").ray)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_rate_limiter_that_dies_is_one_clear_line_for_those_who_wait(connected):
    async def wait(shared, url):
        await shared.acquire(url)
        waiting = asyncio.create_task(shared.acquire(url))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        ray.kill(shared.actor)
        await waiting

    with Site() as site:
        shared = politeness_actor.start_rate_limiter(
            build({"crawl": {"site": site.url, "host_concurrency": 1}}, where="test").crawl
        )
        began = time.monotonic()
        with pytest.raises(CrawlError, match=r"the rate limiter of this crawl has ended.*run the crawl again"):
            asyncio.run(wait(shared, f"{site.url}/x"))
        assert time.monotonic() - began < 60
        with pytest.raises(CrawlError, match="the rate limiter"):
            asyncio.run(shared.acquire(f"{site.url}/x"))


@pytest.mark.slow
def test_a_wrong_configuration_is_reported_by_the_driver(connected):
    with pytest.raises(ConfigError, match="allow_private"):
        politeness_actor.start_rate_limiter(build({"crawl": {"allow_private": ["a b"]}}, where="test").crawl)


@pytest.mark.slow
@pytest.mark.long
def test_workers_in_four_processes_break_no_rule():
    ray.shutdown()
    result = polite.run(quick=True)
    assert result["holds"], result["figures"]
