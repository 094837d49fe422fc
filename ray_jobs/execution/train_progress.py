"""What the terminal shows of a training: its log in the store while it goes, a table when it is done."""

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
    """Show the run's log while the block runs, and export its newest figures."""
    stop = threading.Event()

    def follow() -> None:
        with track(plan.section, plan.steps, "steps") as progress:
            screen = ProgressPrinter(plan.section, progress, _read(store, config, plan) or [])
            figures = TrainingMetrics(plan.section, config.run, plan.steps, partial(_newest, store, config, plan))
            while not stop.wait(POLL_S):
                lines = _read(store, config, plan)
                screen.show(lines)
                figures.update(lines or ())
            screen.show(_read(store, config, plan))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class ProgressPrinter:
    """Brings log lines to a progress bar, and tells what went wrong in lines of their own."""

    def __init__(self, section: str, progress: ProgressTracker, lines: Sequence[MetricsLine]) -> None:
        """`lines` are those of an earlier run, which are not shown again."""
        self.section, self.progress = section, progress
        self._go_back(lines)

    def show(self, lines: Sequence[MetricsLine] | None) -> None:
        """Show what is new; None where the log could not be read this moment."""
        if lines is None:
            return
        if lines and lines[-1]["step"] < self.progress.done:  # started again, from a checkpoint
            self._go_back(lines)
        for line in lines:
            if line["step"] == self.progress.done:
                self._tell(line)
        new = [line for line in lines if line["step"] > self.progress.done]
        for line in new:
            self._warn(line)
        if new:
            last = new[-1]
            self.progress.advance(int(last["step"]) - self.progress.done, progress_note(lines), 1 / last["step_s"])

    def _go_back(self, lines: Sequence[MetricsLine]) -> None:
        self.progress.begin(int(lines[-1]["step"]) if lines else 0)
        self.skipped = int(lines[-1].get("skipped", 0)) if lines else 0
        self.told = len(lines[-1].get("notes", [])) if lines else 0  # notes of the newest line

    def _warn(self, line: MetricsLine) -> None:
        for step, norm in line.get("bad", {}).items():
            why = f", above {line['limit']}" if norm not in ("nan", "inf") else ""
            print_status(f"{self.section}: step {step} was skipped, its gradient norm is {norm}{why}")
        more = int(line.get("skipped", 0)) - self.skipped - len(line.get("bad", {}))
        if more > 0:
            print_status(f"{self.section}: {more} more steps were skipped up to step {line['step']}")
        self.skipped = int(line.get("skipped", 0))
        self.told = 0
        self._tell(line)

    def _tell(self, line: MetricsLine) -> None:
        """The newest line may get notes later: at the end of a training, from what it still waited for."""
        notes = line.get("notes", [])
        for note in notes[self.told :]:
            print_status(f"{self.section}: {note}")
        self.told = len(notes)


def progress_note(lines: Sequence[MetricsLine]) -> str:
    """The newest figures in a few words."""
    last = lines[-1]
    checked = next((line["validation_loss"] for line in reversed(lines) if "validation_loss" in line), None)
    words = [f"loss {last['loss']:.4f}"] if "loss" in last else ["every step skipped"]
    words += [f"validation {checked:.4f}"] if checked is not None else []
    words += [f"{last['images_per_s']:,.1f} images/s", f"{1000 * last['step_s']:,.0f} ms/step"]
    return ", ".join([*words, f"data wait {100 * last['data_wait']:.1f} %"])


def summary_rows(facts: Mapping[str, Any]) -> Summary:
    """A training's figures (see `emoji_ldm.train.loop.fit`) as the rows of its closing table."""
    known = dict(facts)
    rows: Summary = {"steps": known.pop("steps")}
    if "images_per_s" in known:
        step_s, wait = known.pop("step_s"), known.pop("data_wait")
        rows["images/s"] = known.pop("images_per_s")
        rows["step time"] = f"{1000 * step_s:,.0f} ms, {100 * wait:.1f} % of it waiting for data"
    if "loss_first" in known:
        rows["loss"] = f"{known.pop('loss_first'):.4f} -> {known.pop('loss_last'):.4f}"
    if "validation_loss_first" in known:
        rows["validation loss"] = (
            f"{known.pop('validation_loss_first'):.4f} -> {known.pop('validation_loss_last'):.4f}, "
            f"best {known.pop('validation_loss_best'):.4f} at step {known.pop('validation_loss_best_step'):,}"
        )
    if "skipped" in known:
        rows["skipped steps"] = known.pop("skipped")
    if "num_parameters" in known:
        rows["parameters"] = _parameters(known.pop("num_parameters"), known.pop("num_weights", 0))
        if reference := known.pop("reference_parameters", 0):
            rows["parameters"] = f"{rows['parameters']} (in the hand-written reference {reference:,})"
    if memory := known.pop("peak_memory_mb", None):
        rows["memory per rank"] = " / ".join(f"{value:,}" for value in memory) + " MB"
    if "time_s" in known:
        rows["training time"] = format_duration(known.pop("time_s"))
    checkpoint = known.pop("checkpoint", None)
    return rows | known | ({"checkpoint": checkpoint} if checkpoint else {})


def _parameters(trained: int, whole: int) -> str:
    return f"{trained:,} trained of {whole:,}" if whole > trained else f"{trained:,}"


def _read(store: Store, config: Config, plan: TrainingArgs) -> list[MetricsLine] | None:
    """The log, or None while it is being replaced."""
    try:
        return training_metrics.read_log(store, config.run, plan.section)
    except (StoreError, json.JSONDecodeError):
        return None


def _newest(store: Store, config: Config, plan: TrainingArgs) -> str | None:
    """The name of the checkpoint that was published last, or None while the store is away."""
    try:
        return checkpoints.latest_name(store, config.run, plan.kind)
    except StoreError:
        return None
