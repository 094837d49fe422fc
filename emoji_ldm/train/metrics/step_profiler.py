"""A trace of some steps of a training, for Perfetto (https://ui.perfetto.dev) or chrome://tracing.

Rank 0 records what the host and the device do; the trace goes to the run's folder in the store, and a note says how the
time was spent. Profiling slows the steps that it covers, and changes no number.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from emoji_ldm.train.training_args import RunContext, TrainingArgs

# Parts of the names of events in which ranks exchange data: NCCL's kernels, and the calls of gloo.
COMMUNICATION = ("nccl", "gloo:")


class StepProfiler:
    """Traces the steps that `train.profile` names; does nothing without it, or on other ranks than 0."""

    def __init__(self, context: RunContext, args: TrainingArgs, *, is_main: bool) -> None:
        self.context, self.args = context, args
        first, _, last = (args.profile or "").partition(":")
        self.steps = range(int(first), int(last)) if args.profile and is_main else range(0)
        self._profile: Any = None
        self._began = self._waited_s = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a trace is being made now; a process can make only one at a time."""
        return self._profile is not None

    def begin_step(self, step: int) -> None:
        """Start before the first step of the range, which is counted from 0."""
        if self.steps and step == self.steps.start:
            self._profile = profile(activities=[
                ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
            ])  # fmt: skip
            self._profile.__enter__()
            self._began = time.monotonic()

    def end_step(self, done: int, waited_s: float) -> str:
        """Stop after `done` steps if that ends the range; a note then, else an empty text."""
        if self._profile is None:
            return ""
        self._waited_s += waited_s
        return self._finish() if done == self.steps.stop else ""

    def close(self) -> None:
        """End a trace that the last step, or an error, cut short; it is dropped."""
        if self._profile is not None:
            self._profile.__exit__(None, None, None)
            self._profile = None

    def _finish(self) -> str:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, found = time.monotonic() - self._began, self._profile
        self.close()
        name = f"trace-{self.steps.start}-{self.steps.stop}.json.gz"
        path = Path(self.context.scratch_dir, name.removesuffix(".gz"))
        path.parent.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(path))
        parts = ("runs", self.context.config.run, self.args.section, name)
        self.context.store.write(gzip.compress(path.read_bytes(), 3), *parts)  # Perfetto opens it as it is
        path.unlink()
        exchanged = union_s((event.time_range.start, event.time_range.end) for event in found.events()
                             if any(part in event.name.lower() for part in COMMUNICATION))  # fmt: skip
        return (
            f"steps {self.steps.start} to {self.steps.stop} took {seconds:.2f} s with the profiler: communication "
            f"{100 * exchanged / seconds:.1f} %, data wait {100 * self._waited_s / seconds:.1f} %; open "
            f"{self.context.store.uri}/{'/'.join(parts)} at https://ui.perfetto.dev"
        )


def union_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds that are part of any of these intervals of microseconds."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total / 1e6
