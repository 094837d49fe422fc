"""Simulated time: acts happen in the order of their times, those of one moment in the order they were planned."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """Seconds since the start, and what is still to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._numbers = count()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []

    def at(self, time: float, act: Callable[..., None], *arguments: object) -> None:
        """Plan an act; the past is the present."""
        heapq.heappush(self._heap, (max(time, self.now), next(self._numbers), act, arguments))

    def after(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        self.at(self.now + delay_s, act, *arguments)

    def run(self, until: float, done: Callable[[], bool]) -> None:
        """Until nothing is left, `done` says so, or the time is over; then `now` is at most `until`."""
        while self._heap and not done():
            if self._heap[0][0] > until:
                self.now = until
                return
            self.now, _, act, arguments = heapq.heappop(self._heap)
            self.num_events += 1
            act(*arguments)
