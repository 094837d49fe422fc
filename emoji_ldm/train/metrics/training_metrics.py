"""The metrics of a training: collected per step, summed up per log line, written to the store and to trackers.

The log is `losses.jsonl` in the store, which the report reads. Its lines are also part of each checkpoint. A resumed
run takes them from there, so the log has neither a gap nor a double line, whatever was written after the checkpoint.
Losses and norms stay on the device until a log line is due: reading them earlier would make the host wait.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.metrics.async_tracker import AsyncTracker
from emoji_ldm.train.metrics.log_summary import summarize_log
from emoji_ldm.train.metrics.spike_guard import SpikeGuard
from emoji_ldm.train.metrics.trackers import JsonLinesTracker, tracker_builders
from emoji_ldm.train.training_args import RunContext, TrainingArgs

LOG_FILE = "losses.jsonl"
FLUSH_EVERY_S = 2.0

MetricsLine = dict[str, Any]
"""step, loss, grad_norm (both without skipped steps), skipped (so far), lr, images_per_s, step_s, data_wait (share of
the time), memory_mb (per rank), time_s; where it applies validation_loss, validation_loss_ema, bad {step: norm}, limit,
guard (state of the `SpikeGuard`), notes."""


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


class MetricsRecorder:
    """Collects the numbers of each step; every rank has one, rank 0 writes the log."""

    def __init__(
        self, args: TrainingArgs, context: RunContext, ranks: DistributedContext, lines: Sequence[MetricsLine]
    ) -> None:
        """Continue after `lines`, those of the checkpoint."""
        self.args, self.context, self.ranks = args, context, ranks
        self.spike_guard = SpikeGuard(args, lines)
        # The engine skips steps above this gradient norm. It changes at log lines only, at the same step on all ranks.
        self.max_grad_norm = self.spike_guard.max_grad_norm
        self.metrics_log = MetricsLog(context, args, lines) if ranks.is_main else None
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.memory_mb: list[int] = []
        self.notes: list[str] = []  # for the user, written with the next line
        self.waited_s = 0.0
        self.began = self.window_began = time.monotonic()

    def record(self, loss: Tensor, norm: Tensor, waited_s: float) -> None:
        """Take the numbers of one step, which stay on their device."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.waited_s += waited_s

    def summarize_window(self, done: int) -> MetricsLine:
        """The line of the steps since the last one, the same on every rank apart from times; a collective.

        Raises:
            JobError: Too many steps in a row had to be skipped; on every rank.
        """
        count = len(self.losses)
        # Reading the losses waits for the device, so the clock is read afterwards: the time then includes all of the
        # window's work.
        losses, norms, waited_s, self.memory_mb = self._exchange()
        seconds = max(time.monotonic() - self.window_began, 1e-9)
        # The guard runs on every rank with the same numbers, so that all of them raise or none does.
        checked = self.spike_guard.check_window(done - count + 1, losses, norms)
        line: MetricsLine = {"step": done, **checked, "lr": lr_at(done - 1, self.args)}
        self.max_grad_norm = self.spike_guard.max_grad_norm
        return line | {
            "images_per_s": count * self.args.batch_size / seconds, "step_s": seconds / count,
            "data_wait": min(1.0, waited_s / seconds), "memory_mb": self.memory_mb,
            "time_s": (self.metrics_log.spent_s if self.metrics_log else 0.0) + time.monotonic() - self.began,
        }  # fmt: skip

    def log(self, line: MetricsLine, measured: Mapping[str, float]) -> None:
        """Write the line with the validation losses measured since; the clock of the next one starts here."""
        if self.metrics_log:
            self.metrics_log.log({**line, **measured, **({"notes": self.notes} if self.notes else {})})
        self.losses, self.norms, self.waited_s, self.notes = [], [], 0.0, []
        self.reset_clock()

    def reset_clock(self) -> None:
        """Measure the next rate from here: it is that of steps, not of saves."""
        self.window_began = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """Figures of the whole training, more of them on rank 0; closes the log."""
        figures: dict[str, Any] = {"peak_memory_mb": self.memory_mb}
        if self.metrics_log:
            figures |= {"skipped": self.spike_guard.skipped, **summarize_log(self.metrics_log.lines)}
            self.metrics_log.close()
        return figures

    def close(self) -> None:
        """Close the log of a training that ends early, for whatever reason; does nothing after `summary`."""
        if self.metrics_log:
            self.metrics_log.close(done=False)

    def _exchange(self) -> tuple[list[float], list[float], float, list[int]]:
        """Losses (mean of ranks), norms, the longest wait, memory per rank: one collective and one device sync."""
        # Everything goes into one float64 tensor, so that one collective is enough.
        own = [*self.losses, *self.norms, torch.tensor(self.waited_s), torch.tensor(float(self._memory_mb()))]
        device = self.ranks.device
        rows = self.ranks.all_gather(
            torch.stack([value.detach().to(device, torch.float64).reshape(()) for value in own])
        )
        by_rank, count = rows.tolist(), len(self.losses)
        losses = [sum(values) / len(by_rank) for values in zip(*(rank[:count] for rank in by_rank), strict=True)]
        return (
            losses,
            # The norm is that of the whole gradient, equal on all ranks.
            by_rank[0][count : 2 * count],
            max(rank[-2] for rank in by_rank),
            [round(rank[-1]) for rank in by_rank],
        )

    def _memory_mb(self) -> float:
        """Peak memory of this rank: allocated on a GPU, resident on a CPU."""
        if self.ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.ranks.device) / 2**20
        # Linux counts in KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
