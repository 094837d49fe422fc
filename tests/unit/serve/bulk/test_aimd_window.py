"""Tests of the adaptive limit on images in flight."""

import asyncio

from emoji_ldm.serve.bulk.aimd_window import AimdWindow


def test_slots_are_granted_in_order_and_cancelled_waiters_lose_none():
    async def work():
        window, order = AimdWindow(2), list[int]()

        async def one(number):
            await window.acquire()
            order.append(number)
            await asyncio.sleep(0.01)
            window.release()

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 5, 6, 7] and window.in_flight == 0

    asyncio.run(work())
