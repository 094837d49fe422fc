"""The event loop in a thread of its own."""

import asyncio
import threading

import pytest

from emoji_ldm.crawl.politeness.loop_thread import LoopThread


@pytest.fixture
def loop():
    thread = LoopThread("test-loop")
    yield thread
    thread.close()


def test_several_threads_wait_for_coroutines_of_the_same_loop(loop):
    async def meet(barrier):
        await barrier.wait()
        return id(asyncio.get_running_loop())

    async def new_barrier():
        return asyncio.Barrier(3)

    barrier, found = loop.run(new_barrier()), []
    threads = [threading.Thread(target=lambda: found.append(loop.run(meet(barrier)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(found) == 3 and len(set(found)) == 1


def test_an_exception_reaches_who_waits(loop):
    async def fail():
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        loop.run(fail())


def test_closing_cancels_what_still_runs(loop):
    cancelled = threading.Event()

    async def wait_for_ever():
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async def begin():
        loop.task = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)

    loop.run(begin())
    loop.close()
    loop.close()
    assert cancelled.is_set()
    assert "test-loop" not in {thread.name for thread in threading.enumerate()}
