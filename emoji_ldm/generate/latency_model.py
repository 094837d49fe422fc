"""How long ticks take: a timer for CPU and GPU, and a profile of seconds by batch size that learns from it.

A *tick* is one call of the denoising engine, which advances several rows by one step each. The scheduler and the
admission control predict with the profile: which bucket to run next, and whether an image will be ready in time.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from emoji_ldm.generate.request import LatentShape

MAX_STEPS_AHEAD = 2  # ticks that may be queued on a GPU
PROFILE_SMOOTHING = 0.1  # weight of a new measurement
# An image in a batch may cost this much more than in the fullest batch; larger batches only add latency beyond that.
MAX_RELATIVE_COST = 1.05


@dataclass(frozen=True)
class TimedStep:
    """A tick that has ended."""

    shape: LatentShape
    num_rows: int  # images
    cost: int  # U-Net rows, padding included
    seconds: float


class StepTimer:
    """Times ticks, and keeps the host from running far ahead of a GPU.

    A GPU runs asynchronously: a tick returns when its kernels are queued. So its time is taken between two events on
    the GPU, and is known only after the tick has ended. Waiting for the tick before last keeps the queue short; a row
    that is cancelled then leaves after two ticks at most.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        # Bounded, since callers such as the offline sampler never `take` the times.
        self._done: deque[TimedStep] = deque(maxlen=2 * MAX_STEPS_AHEAD)
        self._in_flight: deque[tuple[torch.cuda.Event, torch.cuda.Event, LatentShape, int, int]] = deque()

    @contextmanager
    def step(self, shape: LatentShape, num_rows: int, cost: int) -> Iterator[None]:
        """Time the tick that runs, or is queued, within this context."""
        if self.on_gpu:
            # Events are recorded on the GPU's queue, so they time the kernels and not the host that queues them.
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            first.record()
            yield
            last.record()
            self._in_flight.append((first, last, shape, num_rows, cost))
            self._limit_steps_ahead()
            return
        # No try/finally here or above: a tick that fails, for instance out of memory, says nothing about the time of a
        # tick.
        started = time.perf_counter()
        yield
        self._done.append(TimedStep(shape, num_rows, cost, time.perf_counter() - started))

    def take(self) -> list[TimedStep]:
        """The ticks that ended since the last call, a few at most."""
        done = list(self._done)
        self._done.clear()
        return done

    def reset(self) -> None:
        """Drop all ticks so far, such as those of a warm-up."""
        self._done.clear()
        self._in_flight.clear()

    def _limit_steps_ahead(self) -> None:
        """Wait for the tick before last."""
        if len(self._in_flight) > MAX_STEPS_AHEAD:
            first, last, shape, num_rows, cost = self._in_flight.popleft()
            # Waiting for the event rather than for the device: ticks that were queued later go on running meanwhile.
            last.synchronize()
            milliseconds: float = first.elapsed_time(last)
            self._done.append(TimedStep(shape, num_rows, cost, milliseconds / 1000))


class LatencyProfile:
    """Seconds of a tick by its number of U-Net rows: measured at warm-up, updated by every tick."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Start with measurements {rows: seconds}, at least one."""
        # Sorted by rows, as `predict_s` searches the keys by bisection.
        self._seconds = dict(sorted(seconds.items()))

    def update(self, rows: int, seconds: float) -> None:
        """Add a measurement to the moving average. Outliers, such as a pause of the machine, count as 3x at most."""
        before = self._seconds.get(rows)
        if before is None:
            self._seconds = dict(sorted({**self._seconds, rows: seconds}.items()))
        else:
            self._seconds[rows] += PROFILE_SMOOTHING * (min(seconds, 3 * before) - before)

    def predict_s(self, rows: int) -> float:
        """Predicted seconds, interpolated between measured sizes and proportional beyond the largest one."""
        sizes = list(self._seconds)
        index = bisect_left(sizes, rows)
        if index == len(sizes):
            return self._seconds[sizes[-1]] * rows / sizes[-1]
        # Below the smallest measured size the time is dominated by launching kernels, so it is not scaled down.
        if sizes[index] == rows or index == 0:
            return self._seconds[sizes[index]]
        low, high = sizes[index - 1], sizes[index]
        share = (rows - low) / (high - low)
        return (1 - share) * self._seconds[low] + share * self._seconds[high]

    def copy(self) -> LatencyProfile:
        """An independent profile with the same measurements."""
        return self.scaled(1)

    def scaled(self, factor: float) -> LatencyProfile:
        """A first estimate for images of another size."""
        return LatencyProfile({rows: factor * seconds for rows, seconds in self._seconds.items()})


def efficient_batch_size(rounds: Sequence[Mapping[int, float]]) -> int:
    """The smallest number of images per tick at which an image costs about as little as in the fullest tick.

    Args:
        rounds: Several measurements of {images: seconds of a tick}. Sizes are compared within a round only, as the
            machine's speed may change between rounds.
    """
    # The median over rounds of a ratio within a round is robust against both slow rounds and single outliers.
    fullest = max(rounds[0])
    costs = {size: median((times[size] / size) / (times[fullest] / fullest) for times in rounds) for size in rounds[0]}
    return min(size for size, cost in costs.items() if cost <= MAX_RELATIVE_COST)
