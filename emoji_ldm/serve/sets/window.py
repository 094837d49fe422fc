"""How many pictures are asked for at once: more while they are taken, fewer once the pools are full."""

from __future__ import annotations

import asyncio
import time
from collections import deque

FIRST, LEAST = 32, 4
SHRINK = 0.7
ROUND_S = 1.0  # refusals that come together count as one


class Window:
    """Bounded places, given out in the order in which they are asked for.

    A job asks for one place at a time, so that jobs take turns picture by picture.
    Grows by one per taken picture until the first refusal, then by one per round (additive
    increase, multiplicative decrease).
    """

    def __init__(self, most: int) -> None:
        """Begin with a few places; there are never more than `most`."""
        self.most, self.limit, self.inside = most, float(min(FIRST, most)), 0
        self.refusals = self.taken_total = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk = 0.0

    async def enter(self) -> None:
        """Wait for a place."""
        if self.inside < self.limit and not self._waiting:
            self.inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it had just been let in
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        self._admit()

    def taken(self) -> None:
        """A picture was drawn."""
        self.taken_total += 1
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + (1 / self.limit if self.refusals else 1))
            self._admit()

    def refused(self) -> None:
        """The pools are full."""
        self.refusals += 1
        if time.monotonic() - self._shrunk > ROUND_S:
            self._shrunk = time.monotonic()
            self.limit = max(min(LEAST, self.most), SHRINK * self.limit)

    def _admit(self) -> None:
        while self._waiting and self.inside < self.limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self.inside += 1
                turn.set_result(None)
