"""Figures of the service for Prometheus, through Ray's metrics: each node's agent exports them.

How full forward passes are and how long they take tells what a picture costs; the age of the oldest one that waits
and the steps that are left tell whether there are enough replicas. Serve adds tags for model and replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ray.serve import metrics

if TYPE_CHECKING:  # torch is for replicas only
    from emoji_ldm.generate.batcher import Stats

PREFIX = "emoji_ldm_"
ROWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
ENDS = {"drawn": "pictures drawn", "cancelled": "pictures given up by who asked",
        "refused": "pictures refused because too much waits", "expired": "pictures that were not drawn in time",
        "failed": "pictures that could not be drawn"}  # fmt: skip


class Meters:
    """Of a replica."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.rows = _histogram("rows_per_forward", "pictures in a forward pass", ROWS)
        self.seconds = _histogram("tick_seconds", "seconds of a forward pass by the pictures in it", SECONDS, "rows")
        self.age = _gauge("queue_age_seconds", "age of the picture that waits longest")
        self.queued = _gauge("queued", "pictures that wait")
        self.running = _gauge("running", "pictures in flight")
        self.row_steps = _gauge("row_steps", "denoising steps left of pictures that wait or are in flight")
        self.ends = {name: _counter(name, text) for name, text in ENDS.items()}
        self._last: Stats | None = None

    def update(self, stats: Stats) -> None:
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


class Replays:
    """Pictures that were drawn again because a replica died; counted by who asked it."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._counter = _counter("replays", "pictures asked for again because a replica died", "model")

    def count(self, model: str) -> None:
        """One more."""
        self._counter.inc(tags={"model": model})


def _counter(name: str, text: str, *tags: str) -> Any:
    return metrics.Counter(PREFIX + name, text, tags)


def _gauge(name: str, text: str) -> Any:
    return metrics.Gauge(PREFIX + name, text, ("class",))


def _histogram(name: str, text: str, boundaries: Iterable[float], *tags: str) -> Any:
    return metrics.Histogram(PREFIX + name, text, list(boundaries), tags)
