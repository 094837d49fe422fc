"""Prometheus metrics of stages and of training, through `ray.util.metrics`; `service_metrics` has those of the service.

The driver exports them; on a cluster it runs on the head node. What only grows is a counter. A gauge must be set again
and again: Ray's agent forgets its value once it was scraped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.util import metrics

PREFIX = "emoji_ldm_"
STAGE_COUNTERS = {"planned": "items that a stage began with", "done": "items of a stage that are committed"}
ROWS_HELP = "rows of a stage by outcome: kept, dead, ok, failed, ..."
LOG_GAUGES = {
    "step": ("step", "steps done"),
    "loss": ("loss", "newest loss"),
    "validation_loss": ("validation_loss", "newest loss on held-out images"),
    "images_per_s": ("images_per_second", "images per second"),
    "step_s": ("step_seconds", "seconds per step"),
    "data_wait": ("data_wait_ratio", "share of a step spent waiting for data"),
    "communication": ("communication_ratio", "share of a step in which workers exchange data"),
    "skipped": ("skipped_steps", "steps skipped because of unusable gradients"),
}  # {key in a line of the log: (Prometheus name, help)}
RUN_GAUGES = {
    "steps": "steps of the whole run",
    "checkpoint_time_seconds": "when the last checkpoint was published, Unix time",
}
# The store is asked this often for a new checkpoint. On S3 each question is a billed listing of a folder.
CHECKPOINT_POLL_S = 30.0


class StageMetrics:
    """Counters of a stage that writes shards into a table."""

    def __init__(self, stage: str, table: str, planned: int) -> None:
        """Start with `planned` items to do."""
        self.tags = {"stage": stage, "table": table}
        self._counters = stage_counters()
        # Ray refuses an increment of 0.
        if planned:
            self._counters["planned"].inc(planned, self.tags)

    def shard_committed(self, num_items: int, counts: Mapping[str, int]) -> None:
        """Count the items of a shard, and its rows by outcome."""
        if num_items:
            self._counters["done"].inc(num_items, self.tags)
        for outcome, count in counts.items():
            if count:
                self._counters["rows"].inc(count, self.tags | {"outcome": outcome})


class TrainingMetrics:
    """Gauges of a training, from its log."""

    def __init__(self, section: str, run: str, steps: int, newest: Callable[[], str | None]) -> None:
        """Start with the steps of the run.

        Args:
            section: `train` or `autoencoder`.
            run: Name of the run.
            steps: Steps of the whole run.
            newest: Names the checkpoint that was published last, None if the store does not answer. The age of one
                from before counts from now.
        """
        self._gauges = train_gauges()
        self._tags, self._newest = {"section": section, "run": run}, newest
        self._checkpoint, self._polled_at = newest(), time.monotonic()
        # The time of a checkpoint from before this run is unknown here. Starting from now keeps an alert on the
        # checkpoint's age from firing at every restart.
        self._values = {"steps": float(steps), "checkpoint_time_seconds": time.time()}

    def update(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Export the newest value of each metric; to be called about every second."""
        if time.monotonic() - self._polled_at > CHECKPOINT_POLL_S:
            self._poll_checkpoint()
        # The newest lines suffice, since each metric appears in one of them; a log of a long run has thousands.
        for line in lines[-20:]:
            self._values |= {name: float(line[key]) for key, (name, _) in LOG_GAUGES.items() if key in line}
        # All of them every time, changed or not: see the module's docstring.
        for name, value in self._values.items():
            self._gauges[name].set(value, self._tags)

    def _poll_checkpoint(self) -> None:
        self._polled_at, name = time.monotonic(), self._newest()
        # None means that the store did not answer this time: the age then simply goes on growing.
        if name is not None and name != self._checkpoint:
            self._checkpoint, self._values["checkpoint_time_seconds"] = name, time.time()


def stage_counters() -> dict[str, Any]:
    """Return Ray's counters of a stage."""
    tags = ("stage", "table")
    counters = {name: metrics.Counter(f"{PREFIX}stage_{name}", text, tags) for name, text in STAGE_COUNTERS.items()}
    return counters | {"rows": metrics.Counter(f"{PREFIX}stage_rows", ROWS_HELP, (*tags, "outcome"))}


def train_gauges() -> dict[str, Any]:
    """Return Ray's gauges of a training."""
    # Values of LOG_GAUGES are pairs (name, help), so `dict` of them is what the metrics need.
    texts = dict(LOG_GAUGES.values()) | RUN_GAUGES
    return {name: metrics.Gauge(f"{PREFIX}train_{name}", text, ("section", "run")) for name, text in texts.items()}
