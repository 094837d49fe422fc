"""Figures of the stages and of training for Prometheus, through Ray's metrics, as `meters` does for the service.

They come from the driver, which runs on the head. What only grows is a counter. A gauge lives on only while it is
set again and again: Ray's agent forgets it once it was read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.util import metrics

PREFIX = "emoji_ldm_"
STAGE_COUNTERS = {"planned": "items that a stage began with", "done": "items of a stage that are committed"}
ROWS_HELP = "what became of rows of a stage: kept, dead, ok, failed, ..."
LOG_GAUGES = {
    "step": ("step", "steps done"),
    "loss": ("loss", "newest loss"),
    "validation_loss": ("validation_loss", "newest loss on images held out"),
    "images_per_s": ("images_per_second", "images per second"),
    "step_s": ("step_seconds", "seconds of a step"),
    "data_wait": ("data_wait_ratio", "share of a step spent waiting for data"),
    "skipped": ("skipped_steps", "steps left out because their gradients were not usable"),
}  # what a line of the log calls it, what Prometheus does, and what it is
RUN_GAUGES = {"steps": "steps wanted", "checkpoint_time_seconds": "when the last checkpoint was published, Unix time"}
CHECKPOINT_POLL_S = 30.0  # between looks at the store for a new checkpoint


class StageMetrics:
    """Of a stage that works off shards into a table."""

    def __init__(self, stage: str, table: str, planned: int) -> None:
        """Begin with `planned` items to do."""
        self.tags = {"stage": stage, "table": table}
        self._counters = stage_counters()
        if planned:
            self._counters["planned"].inc(planned, self.tags)

    def done(self, num_items: int, counts: Mapping[str, int]) -> None:
        """A shard is committed: its items, and how many of its rows ended how."""
        if num_items:
            self._counters["done"].inc(num_items, self.tags)
        for outcome, count in counts.items():
            if count:
                self._counters["rows"].inc(count, self.tags | {"outcome": outcome})


class TrainingMetrics:
    """Of a training, as its log tells it."""

    def __init__(self, section: str, run: str, steps: int, newest: Callable[[], str | None]) -> None:
        """`newest` names the checkpoint that was published last, None if nobody can tell now.

        The age of one from before counts from now.
        """
        self._gauges = train_gauges()
        self._tags, self._newest = {"section": section, "run": run}, newest
        self._last, self._looked = newest(), time.monotonic()
        self._now = {"steps": float(steps), "checkpoint_time_seconds": time.time()}

    def update(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Export the newest of each figure; call it every second or so."""
        if time.monotonic() - self._looked > CHECKPOINT_POLL_S:
            self._look()
        for line in lines[-20:]:
            self._now |= {name: float(line[key]) for key, (name, _) in LOG_GAUGES.items() if key in line}
        for name, value in self._now.items():
            self._gauges[name].set(value, self._tags)

    def _look(self) -> None:
        self._looked, name = time.monotonic(), self._newest()
        if name is not None and name != self._last:
            self._last, self._now["checkpoint_time_seconds"] = name, time.time()


def stage_counters() -> dict[str, Any]:
    """Ray's counters of a stage."""
    tags = ("stage", "table")
    counters = {name: metrics.Counter(f"{PREFIX}stage_{name}", text, tags) for name, text in STAGE_COUNTERS.items()}
    return counters | {"rows": metrics.Counter(f"{PREFIX}stage_rows", ROWS_HELP, (*tags, "outcome"))}


def train_gauges() -> dict[str, Any]:
    """Ray's gauges of a training."""
    told = dict(LOG_GAUGES.values()) | RUN_GAUGES
    return {name: metrics.Gauge(f"{PREFIX}train_{name}", text, ("section", "run")) for name, text in told.items()}
