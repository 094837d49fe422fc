"""Prometheus metrics of the service, through `ray.serve.metrics`; the agent of each node exports them.

How full forward passes are and how long they take says what an image costs. The age of the oldest waiting image and
the denoising steps that are left say whether there are enough replicas. Ray Serve adds tags for model and replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ray.serve import metrics

if TYPE_CHECKING:  # only replicas import torch
    from emoji_ldm.generate.continuous_batching.batcher import BatcherStats
    from emoji_ldm.serve.bulk.job_runner import RunnerStats

APP = "emoji-ldm"  # the application of Ray Serve, in its own metrics
PREFIX = "emoji_ldm_"
# Batch sizes are whole numbers, so small ones have a bucket each. The boundaries are part of the dashboards.
BATCH_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
LATENCY_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
OUTCOME_COUNTERS = {"drawn": "images drawn", "cancelled": "images cancelled by their caller",
        "refused": "images refused because the queue was full", "expired": "images not drawn in time",
        "failed": "images that could not be drawn"}  # fmt: skip

# Names are those of the fields of `RunnerStats`, from which `BulkMetrics` reads them.
BULK_GAUGES = {"jobs": "bulk jobs in progress", "in_flight": "images of bulk jobs that replicas have",
            "window": "images of bulk jobs that replicas may have at once"}  # fmt: skip
BULK_COUNTERS = {"drawn": "images of bulk jobs drawn",
             "refusals": "refusals of images of bulk jobs because queues were full",
             "failures": "other failed tries of images of bulk jobs"}  # fmt: skip


class ReplicaMetrics:
    """Metrics of a replica."""

    def __init__(self) -> None:
        """Start at zero."""
        self.rows = _histogram("rows_per_forward", "images in a forward pass", BATCH_BUCKETS)
        self.seconds = _histogram(
            "tick_seconds", "seconds of a forward pass by its number of images", LATENCY_BUCKETS, "rows"
        )
        self.age = _gauge("queue_age_seconds", "age of the image that waits longest")
        self.queued = _gauge("queued", "waiting images")
        self.running = _gauge("running", "images in progress")
        self.row_steps = _gauge("row_steps", "denoising steps left of waiting images and those in progress")
        self.outcomes = {name: _counter(name, text) for name, text in OUTCOME_COUNTERS.items()}
        self._last: BatcherStats | None = None

    def update(self, stats: BatcherStats) -> None:
        """Export what changed since the last call, about a second ago."""
        last, self._last = self._last, stats
        # The batcher counts; a histogram of Prometheus wants every observation, at least with the mean of its group.
        for rows, count in stats.rows_per_forward.items():
            new = count - (last.rows_per_forward.get(rows, 0) if last else 0)
            seconds = stats.tick_s[rows] - (last.tick_s.get(rows, 0.0) if last else 0.0)
            for _ in range(new):
                self.rows.observe(rows, tags={})
                self.seconds.observe(seconds / new, tags={"rows": str(rows)})
        for gauge, values in ((self.age, stats.oldest_s), (self.queued, stats.queued), (self.running, stats.running),
                              (self.row_steps, stats.row_steps)):  # fmt: skip
            for name, value in values.items():
                # The class is interactive or bulk: long queues of bulk jobs are normal, long queues of people are not.
                gauge.set(value, tags={"class": name})
        for name, counter in self.outcomes.items():
            new = getattr(stats, name) - (getattr(last, name) if last else 0)
            # Ray refuses an increment of 0.
            if new:
                counter.inc(new, tags={})


class ClientMetrics:
    """Client-side counters: what ingress and bulk runner see of the replicas."""

    def __init__(self) -> None:
        """Start at zero."""
        self._replays = _counter("replays", "images repeated because a replica was lost", "model")
        self._refusals = _counter("turned_away", "images turned away because queues were full", "model")
        self._timeouts = _counter("timed_out", "images whose time was over", "model")

    def count_replay(self, model: str) -> None:
        """Count an image that is repeated."""
        self._replays.inc(tags={"model": model})

    def count_refusal(self, model: str, num_images: int = 1) -> None:
        """Count images that were turned away."""
        self._refusals.inc(num_images, tags={"model": model})

    def count_timeout(self, model: str) -> None:
        """Count an image whose time was over."""
        self._timeouts.inc(tags={"model": model})


class BulkMetrics:
    """Metrics of the bulk runner."""

    def __init__(self) -> None:
        """Start at zero."""
        self.gauges = {name: metrics.Gauge(f"{PREFIX}bulk_{name}", text) for name, text in BULK_GAUGES.items()}
        self.counters = {name: _counter(f"bulk_{name}", text) for name, text in BULK_COUNTERS.items()}
        self._last: RunnerStats | None = None

    def update(self, stats: RunnerStats) -> None:
        """Export what changed since the last call."""
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
