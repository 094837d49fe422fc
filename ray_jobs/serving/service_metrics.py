"""Figures of the service for Prometheus, through Ray's metrics: each node's agent exports them.

How full forward passes are and how long they take tells what a picture costs; the age of the oldest one that waits
and the steps that are left tell whether there are enough replicas. Serve adds tags for model and replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ray.serve import metrics

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.continuous_batching.batcher_stats import BatcherStats
    from emoji_ldm.serve.bulk.job_runner import RunnerStats

PREFIX = "emoji_ldm_"
BATCH_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
LATENCY_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
OUTCOME_COUNTERS = {"drawn": "pictures drawn", "cancelled": "pictures given up by who asked",
        "refused": "pictures refused because too much waits", "expired": "pictures that were not drawn in time",
        "failed": "pictures that could not be drawn"}  # fmt: skip

BULK_GAUGES = {"jobs": "jobs that are being drawn", "in_flight": "pictures of jobs that are asked for",
            "window": "pictures of jobs that may be asked for at once"}  # fmt: skip
BULK_COUNTERS = {"drawn": "pictures of jobs that were drawn", "refusals": "times that pools were full for a job",
             "failures": "other tries that gave no picture"}  # fmt: skip


class ReplicaMetrics:
    """Of a replica."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.rows = _histogram("rows_per_forward", "pictures in a forward pass", BATCH_BUCKETS)
        self.seconds = _histogram(
            "tick_seconds", "seconds of a forward pass by the pictures in it", LATENCY_BUCKETS, "rows"
        )
        self.age = _gauge("queue_age_seconds", "age of the picture that waits longest")
        self.queued = _gauge("queued", "pictures that wait")
        self.running = _gauge("running", "pictures in flight")
        self.row_steps = _gauge("row_steps", "denoising steps left of pictures that wait or are in flight")
        self.ends = {name: _counter(name, text) for name, text in OUTCOME_COUNTERS.items()}
        self._last: BatcherStats | None = None

    def update(self, stats: BatcherStats) -> None:
        """Export what changed since the last time, a second or so ago."""
        last, self._last = self._last, stats
        for rows, count in stats.rows_per_forward.items():
            new = count - (last.rows_per_forward.get(rows, 0) if last else 0)
            seconds = stats.tick_s[rows] - (last.tick_s.get(rows, 0.0) if last else 0.0)
            for _ in range(new):
                self.rows.observe(rows, tags={})
                self.seconds.observe(seconds / new, tags={"rows": str(rows)})
        for gauge, values in ((self.age, stats.oldest_s), (self.queued, stats.queued), (self.running, stats.running),
                              (self.row_steps, stats.row_steps)):  # fmt: skip
            for name, value in values.items():
                gauge.set(value, tags={"class": name})
        for name, counter in self.ends.items():
            new = getattr(stats, name) - (getattr(last, name) if last else 0)
            if new:
                counter.inc(new, tags={})


class ClientMetrics:
    """Of who asks the replicas: the ingress and the bulk runner."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._replays = _counter("replays", "pictures asked for again because a replica was lost", "model")
        self._turned = _counter("turned_away", "pictures that were not taken because too much waits", "model")
        self._late = _counter("timed_out", "pictures whose time was over, wherever they waited", "model")

    def replayed(self, model: str) -> None:
        """A picture is asked for again."""
        self._replays.inc(tags={"model": model})

    def refused(self, model: str) -> None:
        """A picture was not taken."""
        self._turned.inc(tags={"model": model})

    def expired(self, model: str) -> None:
        """A picture's time was over."""
        self._late.inc(tags={"model": model})


class BulkMetrics:
    """Of the bulk runner."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.gauges = {name: metrics.Gauge(f"{PREFIX}bulk_{name}", text) for name, text in BULK_GAUGES.items()}
        self.counters = {name: _counter(f"bulk_{name}", text) for name, text in BULK_COUNTERS.items()}
        self._last: RunnerStats | None = None

    def update(self, stats: RunnerStats) -> None:
        """Export what changed since the last time."""
        last, self._last = self._last, stats
        for name, gauge in self.gauges.items():
            gauge.set(getattr(stats, name))
        for name, counter in self.counters.items():
            new = getattr(stats, name) - (getattr(last, name) if last else 0)
            if new:
                counter.inc(new)


def _counter(name: str, text: str, *tags: str) -> Any:
    return metrics.Counter(PREFIX + name, text, tags)


def _gauge(name: str, text: str) -> Any:
    return metrics.Gauge(PREFIX + name, text, ("class",))


def _histogram(name: str, text: str, boundaries: Iterable[float], *tags: str) -> Any:
    return metrics.Histogram(PREFIX + name, text, list(boundaries), tags)
