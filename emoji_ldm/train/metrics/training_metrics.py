"""The log of a training: `losses.jsonl` in the store for the report, trackers beside it.

The lines are part of each checkpoint. A run that resumes takes them from there, so the log
has neither a gap nor a double line, whatever was written after the checkpoint.

What a training measures of itself, without waiting for the device between two log lines.
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
"""step, loss, grad_norm (both without skipped steps), skipped (so far), lr, images_per_s, step_s, data_wait (share),
memory_mb (per rank), time_s; where it applies validation_loss, validation_loss_ema, bad {step: norm}, limit,
guard (its memory), notes."""


def parse_log(text: str) -> list[MetricsLine]:
    """The lines of a log; a last one that is still being written is left out."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def read_log(store: Store, run: str, section: str = "train") -> list[MetricsLine]:
    """The log of a run so far, empty if there is none."""
    if not store.exists("runs", run, section, LOG_FILE):
        return []
    return parse_log(store.read("runs", run, section, LOG_FILE).decode())


class MetricsLog:
    """The writer, on rank 0. Threads bring lines to the store and to trackers: training waits for none of them."""

    def __init__(self, place: RunContext, plan: TrainingArgs, lines: Iterable[MetricsLine]) -> None:
        """Go on after `lines`, those of the checkpoint."""
        self.place, self.plan, self.lines = place, plan, list(lines)
        self.spent_s = self.lines[-1]["time_s"] if self.lines else 0.0
        self._flushed, self._closed = 0.0, False
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._log = AsyncTracker(
            "the run's log", lambda: JsonLinesTracker(place, plan, LOG_FILE), self._owns, patient=True
        )
        trackers = tracker_builders(place, plan, tuple(self.lines)).items()
        self._feeds = [self._log, *(AsyncTracker(name, build, self._owns) for name, build in trackers)]

    def log(self, line: MetricsLine) -> None:
        """Add one line; it reaches the store within a few lines' time."""
        notes = [*line.get("notes", []), *self._taken()]
        self.lines.append(line | {"notes": notes} if notes else line)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def show(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Keep a grid of pictures: `samples`, or `pairs` of images held out and what is drawn for their captions."""
        for feed in self._feeds:
            feed.picture(png, step, kind)

    def note(self, text: str) -> None:
        """Tell people something with the next line, or the last one; any thread may."""
        self._notes.put(text)

    def text(self) -> str:
        """The log as JSON lines."""
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def flush(self) -> None:
        """Start to bring everything to where it belongs."""
        self._flushed = time.monotonic()
        for feed in self._feeds:
            feed.send(tuple(self.lines))

    def close(self, *, done: bool = True) -> None:
        """Bring the last lines and let go, once; a tracker that does not answer is left behind after a while."""
        if self._closed:
            return
        self._closed = True
        for feed in self._feeds[1:]:
            feed.send(tuple(self.lines), last=True)
            feed.close(done=done)
        notes = self._taken()
        if notes and self.lines:
            self.lines[-1] = self.lines[-1] | {"notes": [*self.lines[-1].get("notes", []), *notes]}
        self._log.send(tuple(self.lines), last=True)
        self._log.close(done=done)

    def _taken(self) -> list[str]:
        own = [self._notes.get() for _ in range(self._notes.qsize())]
        return [*own, *(note for feed in self._feeds for note in feed.notes())]

    def _owns(self) -> bool:
        place = self.place
        return run_fencing.owns_run(place.store, place.config.run, self.plan.section, place.owner)


class MetricsRecorder:
    """Collects numbers at each step; every rank has one, rank 0 writes."""

    def __init__(
        self, plan: TrainingArgs, place: RunContext, world: DistributedContext, lines: Sequence[MetricsLine]
    ) -> None:
        """Go on after `lines`, those of the checkpoint."""
        self.plan, self.place, self.world = plan, place, world
        self.guard = SpikeGuard(plan, lines)
        self.limit = self.guard.limit  # gradient norm above which the engine skips a step; it changes at log lines only
        self.journal = MetricsLog(place, plan, lines) if world.leads else None
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.memory_mb: list[int] = []
        self.notes: list[str] = []  # for the user, told with the next line
        self.waited_s = 0.0
        self.began = self.ticked = time.monotonic()

    def record(self, loss: Tensor, norm: Tensor, waited_s: float) -> None:
        """Take the numbers of one step, which stay where they are."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.waited_s += waited_s

    def sum_up(self, done: int) -> MetricsLine:
        """The line of the steps since the last one, the same on every rank but for clocks; a collective.

        Raises:
            JobError: Too many steps in a row had to be skipped; on every rank.
        """
        count = len(self.losses)
        losses, norms, waited_s, self.memory_mb = self._exchange()
        seconds = max(time.monotonic() - self.ticked, 1e-9)
        judged = self.guard.judge(done - count + 1, losses, norms)
        line: MetricsLine = {"step": done, **judged, "lr": lr_at(done - 1, self.plan)}
        self.limit = self.guard.limit
        return line | {
            "images_per_s": count * self.plan.batch_size / seconds, "step_s": seconds / count,
            "data_wait": min(1.0, waited_s / seconds), "memory_mb": self.memory_mb,
            "time_s": (self.journal.spent_s if self.journal else 0.0) + time.monotonic() - self.began,
        }  # fmt: skip

    def log(self, line: MetricsLine, measured: Mapping[str, float]) -> None:
        """Write the line and what was measured since; the next one's clock starts here."""
        if self.journal:
            self.journal.log({**line, **measured, **({"notes": self.notes} if self.notes else {})})
        self.losses, self.norms, self.waited_s, self.notes = [], [], 0.0, []
        self.resume_clock()

    def resume_clock(self) -> None:
        """Start the next rate here: it is that of steps, not of uploads."""
        self.ticked = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """Figures of the whole training, more of them on rank 0; closes the log."""
        done: dict[str, Any] = {"peak_memory_mb": self.memory_mb}
        if self.journal:
            done |= {"skipped": self.guard.skipped, **summarize_log(self.journal.lines)}
            self.journal.close()
        return done

    def close(self) -> None:
        """Close the log of a training that ends before it is done, whatever ended it; nothing after `summary`."""
        if self.journal:
            self.journal.close(done=False)

    def _exchange(self) -> tuple[list[float], list[float], float, list[int]]:
        """Losses (mean of ranks), norms, the longest wait, memory per rank: one collective, one wait for the device."""
        own = [*self.losses, *self.norms, torch.tensor(self.waited_s), torch.tensor(float(self._memory_mb()))]
        device = self.world.device
        rows = self.world.gather(torch.stack([value.detach().to(device, torch.float64).reshape(()) for value in own]))
        ranks, count = rows.tolist(), len(self.losses)
        losses = [sum(values) / len(ranks) for values in zip(*(rank[:count] for rank in ranks), strict=True)]
        return losses, ranks[0][count : 2 * count], max(rank[-2] for rank in ranks), [round(rank[-1]) for rank in ranks]

    def _memory_mb(self) -> float:
        """The most memory this rank held: allocated on a GPU, resident on a CPU."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
