"""Pods and how they come to run: bound one by one by the scheduler, the image pulled once per node, started, ready."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.groups import Size
from emoji_ldm.cluster.simulate.scenario import Rates

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.nodes import Node
    from emoji_ldm.cluster.simulate.runs import Run


class State(StrEnum):
    """Where a Pod is in its life; each is entered at most once, `ended` by every Pod."""

    PENDING = "pending"
    BOUND = "bound"
    READY = "ready"
    ENDED = "ended"


class Pod:
    """One Pod of a run."""

    def __init__(self, number: int, run: Run, group: int, pool: str, now: float) -> None:
        self.number, self.run, self.group, self.pool = number, run, group, pool
        self.size: Size = run.groups[group].size
        self.state = State.PENDING
        self.node: Node | None = None
        self.nominee: Node | None = None  # a starting node that is meant for it
        self.created_at, self.bound_at, self.ready_at = now, -1.0, -1.0
        self.end = ""  # why it ended
        self.reason = "waits for the scheduler"

    @property
    def key(self) -> tuple[int, int]:
        """Which Pod the scheduler takes first: high priority, then the oldest."""
        return -self.run.work.priority, self.number


class Registry:
    """Pulls images: each node at its own rate, as many at once as the registry's bandwidth feeds."""

    def __init__(self, clock: Clock, rates: Rates) -> None:
        self.clock, self.rates = clock, rates
        self.free = max(int(rates.registry_gb_s / rates.pull_gb_s), 1)
        self.queue: deque[tuple[float, Callable[[], None]]] = deque()

    def pull(self, size_gb: float, done: Callable[[], None]) -> None:
        self.queue.append((size_gb / self.rates.pull_gb_s, done))
        self._next()

    def _next(self) -> None:
        while self.free and self.queue:
            self.free -= 1
            seconds, done = self.queue.popleft()
            self.clock.after(seconds, self._ended, done)

    def _ended(self, done: Callable[[], None]) -> None:
        self.free += 1
        done()
        self._next()


class Scheduler:
    """kube-scheduler: one Pod per `1 / bind_per_s`, by priority; Pods without room wait until a node has some."""

    def __init__(self, clock: Clock, rates: Rates, place: Callable[[Pod], bool]) -> None:
        self.clock, self.gap_s, self.place = clock, 1 / rates.bind_per_s, place
        self.heap: list[tuple[tuple[int, int], int, Pod]] = []
        self._numbers = count()
        self._busy = False

    def add(self, pod: Pod) -> None:
        heapq.heappush(self.heap, (pod.key, next(self._numbers), pod))
        if not self._busy:
            self._busy = True
            self.clock.after(self.gap_s, self._step)

    def _step(self) -> None:
        while self.heap:
            pod = heapq.heappop(self.heap)[2]
            if pod.state is State.PENDING:
                self.place(pod)
                break
        self._busy = bool(self.heap)
        if self._busy:
            self.clock.after(self.gap_s, self._step)
