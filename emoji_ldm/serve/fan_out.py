"""Fan-out of one request into one backend call per image: all images, or the first error.

Each image is a task of its own, so that images of one request can share batches with any others. If one fails, the
request fails, and its other tasks are cancelled at once: their places in the batches go to requests that can succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emoji_ldm.serve.backend import Backend, ImageTask, Overloaded, PartialImage, QueuePlace
from emoji_ldm.serve.errors import RequestError

KEEPALIVE_S = 15.0  # proxies cut connections that stay silent for a minute or so
BACKEND_GRACE_S = 5.0  # a backend enforces the tasks' timeouts itself; this is for one that has lost a task
# How long the response waits for cancelled calls to end.
CLEANUP_S = 5.0
MAX_INPUT_IMAGE_BYTES = 512 * 2**20  # of all requests in flight
# About the time in which some edits of a full queue are finished and return their memory.
BUDGET_RETRY_S = 5.0


class InputImageBudget:
    """Memory budget for input images of edits.

    A backend call holds its own copy of the input image while it waits in a replica's queue. A few hundred edits of
    several megabytes each would otherwise exhaust the memory of the ingress.
    """

    def __init__(self) -> None:
        self.free = MAX_INPUT_IMAGE_BYTES

    @contextmanager
    def reserve(self, tasks: Sequence[ImageTask]) -> Iterator[None]:
        """Reserve the memory of one request's input images while the block runs.

        Raises:
            RequestError: (413) The request needs more than the whole budget.
            Overloaded: The budget is in use.
        """
        size = sum(len(task.request.image) + len(task.request.mask) for task in tasks)
        if size > MAX_INPUT_IMAGE_BYTES:
            raise RequestError(f"n={len(tasks)} is refused: the input images would take {size:,} bytes, and at most "
                               f"{MAX_INPUT_IMAGE_BYTES:,} may wait", status=413, param="n")  # fmt: skip
        if size > self.free:
            # Waiting here would hold the uploaded images in memory all the same, so the client has to come back.
            raise Overloaded(BUDGET_RETRY_S)
        self.free -= size
        try:
            yield
        finally:
            self.free += size


async def generate_all(backend: Backend, tasks: Sequence[ImageTask]) -> dict[int, bytes]:
    """Return PNG files by the task's index.

    Raises:
        Overloaded, TaskTimeout, ConfigError: As the backend raised it for the first task that failed.
        TimeoutError: The backend does not answer.
    """
    calls = {index: asyncio.create_task(backend.generate(task)) for index, task in enumerate(tasks)}
    try:
        async with asyncio.timeout(_timeout_s(tasks)):
            # gather raises the first error at once, while the other calls still run; `finally` cancels them.
            await asyncio.gather(*calls.values())
        # In the order of the tasks, whichever call ended first: the order of the images is part of the response.
        return {index: call.result() for index, call in calls.items()}
    finally:
        await _cancel_all([*calls.values()])


async def stream_all(
    backend: Backend, tasks: Sequence[ImageTask], num_partials: int
) -> AsyncGenerator[tuple[int, QueuePlace | PartialImage | bytes] | None, None]:
    """Yield (index, place, preview or PNG file) in the order of their arrival, and None after `KEEPALIVE_S` of silence.

    Raises:
        Overloaded, TaskTimeout, ConfigError, TimeoutError: As `generate_all`.
    """
    # One queue merges all streams. A stream that ends puts its own asyncio.Task into it, which carries its exception.
    arrivals: asyncio.Queue[tuple[int, QueuePlace | PartialImage | bytes] | asyncio.Task[None]] = asyncio.Queue()

    async def forward(index: int, task: ImageTask) -> None:
        async for item in backend.stream(task, num_partials):
            arrivals.put_nowait((index, item))

    calls = [asyncio.create_task(forward(index, task)) for index, task in enumerate(tasks)]
    for call in calls:
        # The callback runs after the last item of the call was put, so the end never overtakes an item.
        call.add_done_callback(arrivals.put_nowait)
    loop, num_running = asyncio.get_running_loop(), len(calls)
    deadline = loop.time() + _timeout_s(tasks)
    try:
        while num_running:
            keepalive_at = loop.time() + KEEPALIVE_S
            try:
                async with asyncio.timeout_at(min(deadline, keepalive_at)):
                    item = await arrivals.get()
            except TimeoutError:
                if keepalive_at > deadline:
                    raise
                yield None
                continue
            if isinstance(item, asyncio.Task):
                item.result()
                num_running -= 1
            else:
                yield item
    finally:
        await _cancel_all(calls)


async def _cancel_all(calls: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait for it, so that its places are free when the client gets the error."""
    for call in calls:
        call.cancel()
    # Bounded, because a backend that ignores cancellation must not keep the client waiting as well.
    await asyncio.wait(calls, timeout=CLEANUP_S)
    for call in calls:
        if call.done() and not call.cancelled():
            call.exception()  # marks it as retrieved: asyncio logs exceptions that were never retrieved


def _timeout_s(tasks: Sequence[ImageTask]) -> float:
    # The tasks run side by side, so the request takes as long as its slowest one, not their sum.
    return max(task.timeout_s for task in tasks) + BACKEND_GRACE_S
