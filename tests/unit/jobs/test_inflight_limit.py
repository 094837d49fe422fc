"""The bound on shards that were begun and are not committed."""

import asyncio

from ray_jobs.execution.inflight_limit import InflightLimit


def test_a_shard_waits_until_another_one_is_committed():
    async def run():
        limit = InflightLimit(2)
        await limit.acquire("a")
        await limit.acquire("b")
        third = asyncio.create_task(limit.acquire("c"))
        await asyncio.sleep(0.01)
        assert not third.done()
        await limit.release("a")
        await asyncio.wait_for(third, 1)
        assert limit.in_flight == {"b", "c"}

    asyncio.run(run())


def test_a_shard_that_begins_again_after_a_crash_counts_once():
    async def run():
        limit = InflightLimit(1)
        await limit.acquire("a")
        await asyncio.wait_for(limit.acquire("a"), 1)
        assert limit.in_flight == {"a"}
        await limit.release("never begun")
        assert limit.in_flight == {"a"}

    asyncio.run(run())
