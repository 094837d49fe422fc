"""The number of images that bulk jobs may have in flight at one model, adapted to the capacity of its replicas.

The capacity changes with the number of replicas, their batch size and the interactive requests, none of which the
runner knows. So it is found as TCP finds the capacity of a network (additive increase, multiplicative decrease; Chiu
and Jain 1989; RFC 5681, section 3.1): the limit grows while images are generated and shrinks when a replica answers
that its queue is full. Until the first such answer it grows by one per image, which doubles it per round ("slow
start"), afterwards by about one per round.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

INITIAL_LIMIT, MIN_LIMIT = 32, 4
DECREASE_FACTOR = 0.7
DECREASE_INTERVAL_S = 1.0  # all calls of a round are refused at the same moment: together they count as one signal


class AimdWindow:
    """A semaphore with an adaptive limit, which admits waiters in the order of their arrival.

    All jobs share the window of a model. Each job waits for one slot at a time, so that jobs take turns image by image.
    """

    def __init__(self, max_limit: int) -> None:
        """Start with `INITIAL_LIMIT` slots; the limit never exceeds `max_limit`."""
        self.max_limit, self.limit, self.in_flight = max_limit, float(min(INITIAL_LIMIT, max_limit)), 0
        self.num_overloads = self.num_successes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._decreased_at = 0.0

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        # Even with a free slot, a newcomer queues behind those who wait, or they might starve.
        if self.in_flight < self.limit and not self._waiters:
            self.in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # The slot may have been granted in the same iteration of the event loop in which the task was cancelled.
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Return a slot."""
        self.in_flight -= 1
        self._admit()

    def record_success(self) -> None:
        """Increase the limit after an image was generated."""
        self.num_successes += 1
        if self.limit < self.max_limit:
            self.limit = min(self.max_limit, self.limit + (1 / self.limit if self.num_overloads else 1))
            self._admit()

    def record_overload(self) -> None:
        """Decrease the limit after a replica refused an image because its queue is full."""
        self.num_overloads += 1
        # One decrease per interval, as TCP reduces its window once per round trip and not once per lost packet.
        if time.monotonic() - self._decreased_at > DECREASE_INTERVAL_S:
            self._decreased_at = time.monotonic()
            self.limit = max(min(MIN_LIMIT, self.max_limit), DECREASE_FACTOR * self.limit)

    def _admit(self) -> None:
        while self._waiters and self.in_flight < self.limit:
            waiter = self._waiters.popleft()
            # A waiter that was cancelled stays in the queue until its turn, and is skipped here.
            if not waiter.cancelled():
                self.in_flight += 1
                waiter.set_result(None)
