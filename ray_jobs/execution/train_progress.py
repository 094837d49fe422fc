"""What the terminal shows of a training: a progress bar from its log in the store, and a table when it is done.

Rank 0 writes the log to the store, wherever it runs; the driver reads it there. So the terminal shows the same lines
on a laptop and on a cluster, and after a restart of the worker group those that are still valid.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import StoreError
from emoji_ldm.progress import ProgressTracker, format_duration, print_status, track
from emoji_ldm.store import Store
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.metrics.training_metrics import MetricsLine
from emoji_ldm.train.training_args import TrainingArgs
from ray_jobs.execution.job_metrics import TrainingMetrics

POLL_S = 1.0

Summary = dict[str, object]


@contextmanager
def show_progress(store: Store, config: Config, plan: TrainingArgs) -> Iterator[None]:
    """Show the run's log while the block runs, and export its newest metrics."""
    stop = threading.Event()

    # In a thread, because `TorchTrainer.fit` blocks the main one until training is over.
    def follow() -> None:
        with track(plan.section, plan.steps, "steps") as progress:
            printer = ProgressPrinter(plan.section, progress, _read(store, config, plan) or [])
            metrics = TrainingMetrics(plan.section, config.run, plan.steps, partial(_newest, store, config, plan))
            while not stop.wait(POLL_S):
                lines = _read(store, config, plan)
                printer.show(lines)
                metrics.update(lines or ())
            # Once more after the end: the last lines may have been written since the last poll.
            printer.show(_read(store, config, plan))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class ProgressPrinter:
    """Advances a progress bar by log lines, and prints what went wrong in lines of their own."""

    def __init__(self, section: str, progress: ProgressTracker, lines: Sequence[MetricsLine]) -> None:
        """Start after `lines`, those of an earlier run, which are not shown again."""
        self.section, self.progress = section, progress
        self._rewind(lines)

    def show(self, lines: Sequence[MetricsLine] | None) -> None:
        """Show new lines; None stands for a log that could not be read this time."""
        if lines is None:
            return
        # The log has become shorter: the group was restarted from a checkpoint, which is older than the last line.
        if lines and lines[-1]["step"] < self.progress.done:
            self._rewind(lines)
        # Trackers report late failures as notes of a line that was shown already.
        for line in lines:
            if line["step"] == self.progress.done:
                self._print_notes(line)
        new = [line for line in lines if line["step"] > self.progress.done]
        for line in new:
            self._warn(line)
        if new:
            last = new[-1]
            self.progress.advance(int(last["step"]) - self.progress.done, progress_note(lines), 1 / last["step_s"])

    def _rewind(self, lines: Sequence[MetricsLine]) -> None:
        """Go on after the last of these lines: a restarted group resumes at an earlier step."""
        self.progress.resume_at(int(lines[-1]["step"]) if lines else 0)
        self.skipped = int(lines[-1].get("skipped", 0)) if lines else 0
        self.notes_printed = len(lines[-1].get("notes", [])) if lines else 0  # notes of the newest line

    def _warn(self, line: MetricsLine) -> None:
        for step, norm in line.get("bad", {}).items():
            # A finite norm was skipped because of the limit, which is a setting to reconsider; nan and inf are not.
            why = f", above {line['limit']}" if norm not in ("nan", "inf") else ""
            print_status(f"{self.section}: step {step} was skipped, its gradient norm is {norm}{why}")
        # The log names only some of the skipped steps, but counts them all.
        more = int(line.get("skipped", 0)) - self.skipped - len(line.get("bad", {}))
        if more > 0:
            print_status(f"{self.section}: {more} more steps were skipped up to step {line['step']}")
        self.skipped = int(line.get("skipped", 0))
        self.notes_printed = 0
        self._print_notes(line)

    def _print_notes(self, line: MetricsLine) -> None:
        """Print new notes of the newest line: it may get some at the end, from trackers that finish late."""
        notes = line.get("notes", [])
        for note in notes[self.notes_printed :]:
            print_status(f"{self.section}: {note}")
        self.notes_printed = len(notes)


def progress_note(lines: Sequence[MetricsLine]) -> str:
    """Return the newest values in a few words, for the progress bar."""
    last = lines[-1]
    # Validation runs less often than lines are written, so the newest value may stand some lines back.
    validation = next((line["validation_loss"] for line in reversed(lines) if "validation_loss" in line), None)
    words = [f"loss {last['loss']:.4f}"] if "loss" in last else ["every step skipped"]
    words += [f"validation {validation:.4f}"] if validation is not None else []
    words += [f"{last['images_per_s']:,.1f} images/s", f"{1000 * last['step_s']:,.0f} ms/step"]
    words += [f"MFU {100 * last['mfu']:.0f} %"] if "mfu" in last else []
    words += [f"data wait {100 * last['data_wait']:.1f} %"]
    words += [f"communication {100 * last['communication']:.0f} %"] if "communication" in last else []
    # A share that rounds to nothing is no news.
    return ", ".join([*words, *([f"saving {100 * last['saving']:.1f} %"] if last.get("saving", 0) >= 0.001 else [])])


def summary_rows(facts: Mapping[str, Any]) -> Summary:
    """Return the summary of a training (see `emoji_ldm.train.loop.fit`) as the rows of its closing table."""
    # Known entries are taken out one by one. What is left are the figures of a task that this module does not know;
    # they are shown under their own names instead of being lost.
    remaining = dict(facts)
    rows: Summary = {"steps": remaining.pop("steps")}
    if "images_per_s" in remaining:
        step_s, wait = remaining.pop("step_s"), remaining.pop("data_wait")
        rows["images/s"] = remaining.pop("images_per_s")
        rows["step time"] = f"{1000 * step_s:,.0f} ms, {100 * wait:.1f} % of it waiting for data"
    if "loss_first" in remaining:
        rows["loss"] = f"{remaining.pop('loss_first'):.4f} -> {remaining.pop('loss_last'):.4f}"
    if "validation_loss_first" in remaining:
        rows["validation loss"] = (
            f"{remaining.pop('validation_loss_first'):.4f} -> {remaining.pop('validation_loss_last'):.4f}, "
            f"best {remaining.pop('validation_loss_best'):.4f} at step {remaining.pop('validation_loss_best_step'):,}"
        )
    if "skipped" in remaining:
        rows["skipped steps"] = remaining.pop("skipped")
    if "num_parameters" in remaining:
        rows["parameters"] = _parameters(remaining.pop("num_parameters"), remaining.pop("num_weights", 0))
    if memory := remaining.pop("peak_memory_mb", None):
        rows["memory per rank"] = " / ".join(f"{value:,}" for value in memory) + " MB"
    if "time_s" in remaining:
        rows["training time"] = format_duration(remaining.pop("time_s"))
    # Last, because it is what people copy from the terminal.
    checkpoint = remaining.pop("checkpoint", None)
    return rows | remaining | ({"checkpoint": checkpoint} if checkpoint else {})


def _parameters(trained: int, total: int) -> str:
    return f"{trained:,} trained of {total:,}" if total > trained else f"{trained:,}"


def _read(store: Store, config: Config, plan: TrainingArgs) -> list[MetricsLine] | None:
    """Return the log, or None while it is being replaced."""
    try:
        return training_metrics.read_log(store, config.run, plan.section)
    except (StoreError, json.JSONDecodeError):
        return None


def _newest(store: Store, config: Config, plan: TrainingArgs) -> str | None:
    """Return the name of the checkpoint that was published last, or None while the store is away."""
    try:
        return checkpoints.latest_name(store, config.run, plan.kind)
    except StoreError:
        return None
