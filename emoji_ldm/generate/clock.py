"""How long steps took. A GPU's are known when they are done, which is later than when they were begun."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from emoji_ldm.generate.noise import Shape

AHEAD = 2  # steps that may wait in a GPU's queue


@dataclass(frozen=True)
class Timed:
    """A step that is done."""

    shape: Shape  # of its rows
    num_rows: int
    cost: int  # network rows
    seconds: float


class Clock:
    """Times steps, and keeps those of a GPU from being begun long before they can be done."""

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self._done: deque[Timed] = deque(maxlen=2 * AHEAD)  # nobody need ask
        self._begun: deque[tuple[torch.cuda.Event, torch.cuda.Event, Shape, int, int]] = deque()

    @contextmanager
    def step(self, shape: Shape, num_rows: int, cost: int) -> Iterator[None]:
        """Around what begins a step."""
        if self.on_gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            first.record()
            yield
            last.record()
            self._begun.append((first, last, shape, num_rows, cost))
            self._keep_pace()
            return
        began = time.perf_counter()
        yield
        self._done.append(Timed(shape, num_rows, cost, time.perf_counter() - began))

    def take(self) -> list[Timed]:
        """Steps that were done since this was asked last, at most a few."""
        done = list(self._done)
        self._done.clear()
        return done

    def reset(self) -> None:
        """Forget all steps, as they were no pictures'."""
        self._done.clear()
        self._begun.clear()

    def _keep_pace(self) -> None:
        """Wait for the step before last."""
        if len(self._begun) > AHEAD:
            first, last, shape, num_rows, cost = self._begun.popleft()
            last.synchronize()
            milliseconds: float = first.elapsed_time(last)
            self._done.append(Timed(shape, num_rows, cost, milliseconds / 1000))
