"""The log of a training: `losses.jsonl` in the store, also sent to trackers, and its summary. Needs no torch.

The report reads the log. Its lines are also part of each checkpoint. A resumed run takes them from there, so the log
has neither a gap nor a double line, whatever was written after the checkpoint.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.metrics.async_tracker import AsyncTracker
from emoji_ldm.train.metrics.trackers import JsonLinesTracker, tracker_builders
from emoji_ldm.train.training_args import RunContext, TrainingArgs

LOG_FILE = "losses.jsonl"
FLUSH_EVERY_S = 2.0

MetricsLine = dict[str, Any]
"""step, loss, grad_norm (both without skipped steps), skipped (so far), lr, images_per_s, step_s, data_wait (share of
the window's time), saving (share of the run's time in which checkpoints stopped it), mfu (model FLOPs of those that the
device can do, see `utilization`), memory_mb (per rank), time_s; where it applies communication (share of the step that
was traced last), validation_loss, validation_loss_ema, bad {step: norm}, limit, guard (state of the `SpikeGuard`),
notes."""


def parse_log(text: str) -> list[MetricsLine]:
    """The lines of a log, without a last line that is incomplete."""
    # A local file may be read while its last line is being written.
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def read_log(store: Store, run: str, section: str = "train") -> list[MetricsLine]:
    """The log of a run so far, empty if there is none."""
    if not store.exists("runs", run, section, LOG_FILE):
        return []
    return parse_log(store.read("runs", run, section, LOG_FILE).decode())


class MetricsLog:
    """Writes the log, on rank 0. Threads send lines to the store and to trackers; training waits for none of them."""

    def __init__(self, context: RunContext, args: TrainingArgs, lines: Iterable[MetricsLine]) -> None:
        """Continue after `lines`, those of the checkpoint."""
        self.context, self.args, self.lines = context, args, list(lines)
        self.spent_s = self.lines[-1]["time_s"] if self.lines else 0.0
        self._flushed, self._closed = 0.0, False
        self._notes: SimpleQueue[str] = SimpleQueue()
        # The store's log is tried again after errors, unlike the trackers: report and dashboard read it.
        self._log = AsyncTracker(
            "the run's log", lambda: JsonLinesTracker(context, args, LOG_FILE), self._owns, retry_on_error=True
        )
        builders = tracker_builders(context, args, tuple(self.lines)).items()
        self._trackers = [self._log, *(AsyncTracker(name, build, self._owns) for name, build in builders)]

    def log(self, line: MetricsLine) -> None:
        """Add one line; it reaches the store within seconds."""
        # Notes come from threads at any time, so they travel with the line that happens to be next.
        notes = [*line.get("notes", []), *self._take_notes()]
        self.lines.append(line | {"notes": notes} if notes else line)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Store a grid of images: `samples`, or `pairs` of validation images and images drawn for their captions."""
        for tracker in self._trackers:
            tracker.log_image(png, step, kind)

    def add_note(self, text: str) -> None:
        """Add a note for people to the next line, or to the last one; any thread may call it."""
        self._notes.put(text)

    def text(self) -> str:
        """The log as JSON lines."""
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def flush(self) -> None:
        """Start to send all lines to the store and the trackers."""
        self._flushed = time.monotonic()
        for tracker in self._trackers:
            tracker.log_lines(tuple(self.lines))

    def close(self, *, done: bool = True) -> None:
        """Send the last lines and close, once; a tracker that does not respond is abandoned after a while."""
        if self._closed:
            return
        self._closed = True
        # The log is closed last, as it records what went wrong while the others were closed.
        for tracker in self._trackers[1:]:
            tracker.log_lines(tuple(self.lines), last=True)
            tracker.close(done=done)
        notes = self._take_notes()
        if notes and self.lines:
            self.lines[-1] = self.lines[-1] | {"notes": [*self.lines[-1].get("notes", []), *notes]}
        self._log.log_lines(tuple(self.lines), last=True)
        self._log.close(done=done)

    def _take_notes(self) -> list[str]:
        own = [self._notes.get() for _ in range(self._notes.qsize())]
        return [*own, *(note for tracker in self._trackers for note in tracker.notes())]

    def _owns(self) -> bool:
        context = self.context
        return run_fencing.owns_run(context.store, context.config.run, self.args.section, context.owner_token)


def summarize_log(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """First, last and best losses, and median rates; the first line is left out of these, as it includes warm-up.

    Returns:
        loss_first, loss_last, images_per_s, step_s, data_wait, time_s; where measured also validation_loss_first,
        _last and _best, and the step of the best as validation_loss_best_step. Empty without lines.
    """
    if not lines:
        return {}
    # Compilation, memory allocation and the choice of kernels take place in the first window.
    warm = lines[1:] or lines
    losses = [line["loss"] for line in lines if "loss" in line]
    found: dict[str, Any] = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
    # A median is used because a few slow windows, such as those with a validation, would distort a mean.
    for name in ("images_per_s", "step_s", "data_wait"):
        found[name] = statistics.median(line[name] for line in warm)
    measured = [(line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line]
    if measured:
        best = min(measured)
        found |= {"validation_loss_first": measured[0][0], "validation_loss_last": measured[-1][0],
                  "validation_loss_best": best[0], "validation_loss_best_step": int(best[1])}  # fmt: skip
    return found | {"time_s": lines[-1]["time_s"]}
