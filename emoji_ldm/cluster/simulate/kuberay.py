"""KubeRay's operator: reconciles one object per worker, creates its Pods one after another, under one API rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoji_ldm.cluster.simulate.clock import Clock
from emoji_ldm.cluster.simulate.scenario import Rates

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.runs import Run


class Make:
    """Makes the next Pod of an order each time it is called; nothing once the order is void."""

    def __init__(self, run: Run, epoch: int, groups: Iterable[int]) -> None:
        self.run, self.epoch, self.groups = run, epoch, iter(groups)

    def __call__(self) -> None:
        group = next(self.groups)
        if self.run.epoch == self.epoch:
            self.run.make(group)


@dataclass
class Order:
    """A reconcile: so much work besides Pods, then `each` for every Pod."""

    fixed_s: float
    num_pods: int
    each: Callable[[], None]


class Operator:
    """A queue of orders before `reconcile_concurrency` workers."""

    def __init__(self, clock: Clock, rates: Rates) -> None:
        self.clock, self.rates = clock, rates
        self.free = rates.reconcile_concurrency
        self.queue: deque[Order] = deque()
        self._next_call = 0.0

    def submit(self, order: Order) -> None:
        self.queue.append(order)
        self._begin()

    def _begin(self) -> None:
        while self.free and self.queue:
            self.free -= 1
            order = self.queue.popleft()
            self.clock.after(order.fixed_s, self._pod, order)

    def _pod(self, order: Order) -> None:
        """One API call per Pod: not sooner than the last one took, nor than all workers' calls together may come."""
        if order.num_pods == 0:
            self.free += 1
            self._begin()
            return
        order.num_pods -= 1
        when = max(self.clock.now + self.rates.pod_s, self._next_call)
        self._next_call = when + 1 / self.rates.api_pods_per_s
        self.clock.at(when, self._made, order)

    def _made(self, order: Order) -> None:
        order.each()
        self._pod(order)
