"""The order of URLs over hosts, and slow calls outside of the event loop."""

import asyncio
import threading
import time

import pytest

from emoji_ldm.crawl.fetch.concurrency import BatchExecutor, HostScheduler


def test_hosts_take_turns_and_a_slow_one_delays_no_other():
    async def order():
        scheduler = HostScheduler([*(f"http://slow/{n}" for n in range(6)), "http://quick/0", "http://quick/1"], 2)
        started = [await scheduler.next() for _ in range(4)]
        waiting = asyncio.create_task(scheduler.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        scheduler.finish(0)
        return started, await waiting

    started, later = asyncio.run(order())
    assert sorted(started) == [0, 1, 6, 7]
    assert later == 2


@pytest.mark.slow
def test_slow_calls_do_not_block_the_event_loop():
    async def act():
        executor = BatchExecutor()
        began = time.monotonic()
        slow = asyncio.create_task(executor.run(lambda: time.sleep(0.5) or threading.current_thread().name))
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 0.4
        quick = asyncio.create_task(executor.run(lambda: 1 / 0))
        done = await asyncio.gather(slow, quick, return_exceptions=True)
        executor.close()
        return done

    name, error = asyncio.run(act())
    assert name.startswith("normalize")
    assert isinstance(error, ZeroDivisionError)
