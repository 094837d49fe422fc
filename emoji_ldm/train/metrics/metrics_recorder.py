"""The numbers of each training step, summed up per log line, and the guard that skips steps which would do damage.

Losses and norms stay on the device until a log line is due: reading them earlier would make the host wait.

A step is *bad* if its gradient norm is not finite, or exceeds `spike_factor` times the usual norm. The engine skips it
on the device, without asking the host, by comparing the norm with the limit that held at the last log line. What is
usual is the median over the last windows of `log_every` steps, so that one spike moves it little.

All ranks must agree on the limit, and a resumed run must repeat the uninterrupted one. So the guard knows nothing but
the log lines, which are the same on every rank and part of each checkpoint. A checkpoint or a preemption notice may put
a log line inside a window. That line closes no window: it stores the norms of the open window in its field `guard`.
"""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.errors import JobError
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.metrics.communication import CommunicationSampler
from emoji_ldm.train.metrics.training_metrics import MetricsLine, MetricsLog, summarize_log
from emoji_ldm.train.metrics.utilization import peak_flops
from emoji_ldm.train.training_args import RunContext, TrainingArgs

NUM_REMEMBERED_WINDOWS = 25  # windows whose norms define what is usual
# Before so many of both there is no limit: norms are large in the first steps, and a median of few windows is noise.
MIN_WINDOWS, MIN_STEPS = 5, 20
MAX_BAD_STEPS_IN_A_ROW = 20  # so many bad steps in a row end the training
NUM_SHOWN_STEPS = 3  # bad steps that a log line lists


class SpikeGuard:
    """Counts bad steps and maintains the limit, the same on every rank and after a resume."""

    def __init__(self, args: TrainingArgs, lines: Sequence[Mapping[str, Any]]) -> None:
        """Continue after log lines `lines`."""
        self.args = args
        self.skipped = int(lines[-1].get("skipped", 0)) if lines else 0
        last = lines[-1].get("guard", {}) if lines else {}
        self.in_a_row, self._open = int(last.get("in_a_row", 0)), list(last.get("open", []))
        # A line inside a window does not end one, see the module's docstring. A window without such a line needs no
        # `guard`: its median is the line's `grad_norm`.
        window_ends = [line for line in lines if "open" not in line.get("guard", {})]
        usual = [line.get("guard", {}).get("usual", line.get("grad_norm")) for line in window_ends]
        self._norms = deque((norm for norm in usual if norm is not None), maxlen=NUM_REMEMBERED_WINDOWS)
        self.max_grad_norm = self._limit(int(window_ends[-1]["step"]) if window_ends else 0)

    def check_window(self, first: int, losses: Sequence[float], norms: Sequence[float]) -> dict[str, Any]:
        """The fields of a log line for steps `first`, `first` + 1, ... (counted from 1), which ran under one limit.

        Returns:
            loss and grad_norm (mean and median of the good steps, absent without any); skipped (so far); bad,
            {step: norm}, and limit if steps were skipped; guard, what a resume needs besides, if anything.

        Raises:
            JobError: Too many steps in a row were bad.
        """
        # The limit was the same for all these steps, since it changes at log lines only. So the host reaches the same
        # conclusion as the device did.
        steps = list(zip(range(first, first + len(losses)), losses, norms, strict=True))
        good = [(loss, norm) for _, loss, norm in steps if self._is_good(norm)]
        for step, _, norm in steps:
            self._count(step, norm)
        bad = {str(step): f"{norm:.3g}" for step, _, norm in steps if not self._is_good(norm)}
        line: dict[str, Any] = {"skipped": self.skipped}
        if bad:
            line |= {"bad": dict(list(bad.items())[:NUM_SHOWN_STEPS]), "limit": f"{self.max_grad_norm:.3g}"}
        if good:
            # Skipped steps are left out: their losses had no effect on the weights, and would distort the curve.
            line["loss"] = math.fsum(loss for loss, _ in good) / len(good)
            line["grad_norm"] = statistics.median(norm for _, norm in good)
        state = self._update_history(first + len(losses) - 1, [norm for _, norm in good])
        return line | ({"guard": state} if state else {})

    def _limit(self, step: int) -> float:
        """`spike_factor` times the usual gradient norm; infinite until enough steps are known."""
        known = len(self._norms) >= MIN_WINDOWS and step >= MIN_STEPS
        return self.args.spike_factor * statistics.median(self._norms) if known and self.args.spike_factor else math.inf

    def _update_history(self, done: int, norms: Sequence[float]) -> dict[str, Any]:
        """Add the norms of good steps up to `done`; the state that the other fields of the log line do not imply."""
        state: dict[str, Any] = {"in_a_row": self.in_a_row} if self.in_a_row else {}
        split, self._open = bool(self._open), [*self._open, *norms]
        if done % self.args.log_every:
            return state | {"open": list(self._open)}
        if self._open:
            # Norms of bad steps are left out: a limit that grew with the spikes would soon let them pass.
            self._norms.append(statistics.median(self._open))
            state |= {"usual": self._norms[-1]} if split else {}
        self._open = []
        self.max_grad_norm = self._limit(done)
        return state

    def _is_good(self, norm: float) -> bool:
        # This is the same comparison as in `optimizer.guard_step`, which decided on the device.
        return math.isfinite(norm) and norm <= self.max_grad_norm

    def _count(self, step: int, norm: float) -> None:
        bad = not self._is_good(norm)
        self.skipped += bad
        self.in_a_row = self.in_a_row + 1 if bad else 0
        if self.in_a_row >= MAX_BAD_STEPS_IN_A_ROW:
            raise JobError(self._too_many_text(step, norm))

    def _too_many_text(self, step: int, norm: float) -> str:
        section, args, finite = self.args.section, self.args, math.isfinite(norm)
        why = (
            f"is above {self.max_grad_norm:.3g}, {args.spike_factor:g} times the usual one"
            if finite
            else "is not finite"
        )
        # A gradient that is not finite exceeds every limit, so a higher spike_factor would not help then.
        remedy = f"lower {section}.lr (now {args.lr:g})"
        remedy += f", or raise {section}.spike_factor" if finite else ""
        remedy += ", or use precision=fp32" if args.precision != "fp32" else ""
        return (
            f"{section}: {self.in_a_row} steps in a row were skipped, the last is step {step}: its gradient norm "
            f"({norm:.3g}) {why}; the last checkpoint is kept. Resume from it with care: {remedy}"
        )


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
        self.communication = CommunicationSampler(ranks)
        self.waited_s = 0.0
        self.saving_s = 0.0  # time that training stood still for checkpoints
        self.step_flops = 0  # of this rank, 0 if unknown
        self.peak_flops = 0.0
        self.began = self.window_began = time.monotonic()

    def set_flops(self, step_flops: int) -> None:
        """Take the model FLOPs of this rank's part of a step, for the utilisation."""
        self.step_flops = step_flops
        # Every rank measures its device, as ranks share the cores of a CPU.
        self.peak_flops = peak_flops(self.ranks.device, self.args.precision)

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
            "data_wait": min(1.0, waited_s / seconds),
            **({"communication": self.communication.share} if self.communication.share is not None else {}),
            "saving": min(1.0, self.saving_s / max(time.monotonic() - self.began, 1e-9)),
            **({"mfu": self.step_flops * count / seconds / self.peak_flops} if self.step_flops else {}),
            "memory_mb": self.memory_mb,
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
