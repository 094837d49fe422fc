"""The pictures of one request: all of them or the first problem, and whatever then still waits is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emoji_ldm.serve.backend import Backend, ImageTask, Overloaded, PartialImage
from emoji_ldm.serve.errors import RequestError

KEEPALIVE_S = 15.0  # silence after which a stream says that it lives, for proxies that cut silent connections
BACKEND_GRACE_S = 5.0  # after a wish's own time, when a backend has forgotten it
CLEANUP_S = 5.0
MAX_INPUT_IMAGE_BYTES = 512 * 2**20  # of all pictures to start from that wait at once
BUDGET_RETRY_S = 5.0


class InputImageBudget:
    """Memory for the pictures to start from: every draw takes its own copy to a replica's queue."""

    def __init__(self) -> None:
        """All of it is free."""
        self.free = MAX_INPUT_IMAGE_BYTES

    @contextmanager
    def taken(self, wishes: Sequence[ImageTask]) -> Iterator[None]:
        """Room for one request while it is drawn. RequestError (413) if there never is so much, else Overloaded."""
        size = sum(len(wish.draw.image) + len(wish.draw.mask) for wish in wishes)
        if size > MAX_INPUT_IMAGE_BYTES:
            raise RequestError(f"n={len(wishes)} is refused: the pictures to start from would take {size:,} bytes, and "
                               f"at most {MAX_INPUT_IMAGE_BYTES:,} may wait", status=413, param="n")  # fmt: skip
        if size > self.free:
            raise Overloaded(BUDGET_RETRY_S)
        self.free -= size
        try:
            yield
        finally:
            self.free += size


async def draw_all(backend: Backend, wishes: Sequence[ImageTask]) -> dict[int, bytes]:
    """PNG bytes by the wish's index.

    Raises:
        Overloaded, Expired, ConfigError: As the backend says of the first wish that fails.
        TimeoutError: The backend does not answer.
    """
    tasks = {index: asyncio.create_task(backend.draw(wish)) for index, wish in enumerate(wishes)}
    try:
        async with asyncio.timeout(_longest(wishes)):
            await asyncio.gather(*tasks.values())
        return {index: task.result() for index, task in tasks.items()}
    finally:
        await _cancel_all([*tasks.values()])


async def stream_all(
    backend: Backend, wishes: Sequence[ImageTask], partials: int
) -> AsyncGenerator[tuple[int, PartialImage | bytes] | None, None]:
    """(index, preview or PNG bytes) as they come, with None as a sign of life in long silence. Raises as `draw_all`."""
    ready: asyncio.Queue[tuple[int, PartialImage | bytes] | asyncio.Task[None]] = asyncio.Queue()

    async def follow(index: int, wish: ImageTask) -> None:
        async for item in backend.stream(wish, partials):
            ready.put_nowait((index, item))

    tasks = [asyncio.create_task(follow(index, wish)) for index, wish in enumerate(wishes)]
    for task in tasks:
        task.add_done_callback(ready.put_nowait)
    loop, running = asyncio.get_running_loop(), len(tasks)
    deadline = loop.time() + _longest(wishes)
    try:
        while running:
            pulse = loop.time() + KEEPALIVE_S
            try:
                async with asyncio.timeout_at(min(deadline, pulse)):
                    item = await ready.get()
            except TimeoutError:
                if pulse > deadline:
                    raise
                yield None
                continue
            if isinstance(item, asyncio.Task):
                item.result()
                running -= 1
            else:
                yield item
    finally:
        await _cancel_all(tasks)


async def _cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and see it end, so that its rows are free when the client hears of the problem."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=CLEANUP_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # looked at, or asyncio would write all but the first into the log


def _longest(wishes: Sequence[ImageTask]) -> float:
    return max(wish.timeout_s for wish in wishes) + BACKEND_GRACE_S
