"""Steps that would spoil a training: what counts as one, and how many are borne."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from emoji_ldm.errors import JobError
from emoji_ldm.train.training_args import TrainingArgs

NUM_REMEMBERED_WINDOWS = 25  # windows whose norms say what is usual
MIN_WINDOWS, MIN_STEPS = 5, 20  # before so many of both nothing is usual yet
MAX_BAD_STEPS_IN_A_ROW = 20  # bad steps in a row that end the training
NUM_SHOWN_STEPS = 3  # bad steps that a log line names


class SpikeGuard:
    """Tells bad steps from good ones: the same on every rank, and after a resume, as it knows the log lines alone.

    What is usual is learned from windows of `log_every` steps, whose ends are steps of their own cadence: a line that
    a notice or a checkpoint puts between them changes nothing. What such a line leaves open is in its `guard`.
    """

    def __init__(self, plan: TrainingArgs, lines: Sequence[Mapping[str, Any]]) -> None:
        """Go on after `lines`."""
        self.plan = plan
        self.skipped = int(lines[-1].get("skipped", 0)) if lines else 0
        last = lines[-1].get("guard", {}) if lines else {}
        self.in_a_row, self._open = int(last.get("in_a_row", 0)), list(last.get("open", []))
        ends = [line for line in lines if "open" not in line.get("guard", {})]
        usual = [line.get("guard", {}).get("usual", line.get("grad_norm")) for line in ends]
        self._norms = deque((norm for norm in usual if norm is not None), maxlen=NUM_REMEMBERED_WINDOWS)
        self.limit = self._limit(int(ends[-1]["step"]) if ends else 0)

    def _limit(self, step: int) -> float:
        """Gradient norm above which a step is skipped: `spike_factor` times the usual one, inf until that is known.

        The usual norm is the median over windows of their median: one spike moves neither.
        """
        known = len(self._norms) >= MIN_WINDOWS and step >= MIN_STEPS
        return self.plan.spike_factor * statistics.median(self._norms) if known and self.plan.spike_factor else math.inf

    def judge(self, first: int, losses: Sequence[float], norms: Sequence[float]) -> dict[str, Any]:
        """What a log line says of steps `first`, `first` + 1, ... (counted from 1) that ran under the present limit.

        Returns:
            loss and grad_norm (mean and median of the good steps, absent without any), skipped (so far),
            bad, {step: norm}, if some were skipped, and guard, what a resume has to know besides, if there is any.

        Raises:
            JobError: Too many steps in a row were bad.
        """
        steps = list(zip(range(first, first + len(losses)), losses, norms, strict=True))
        good = [(loss, norm) for _, loss, norm in steps if self._good(norm)]
        for step, _, norm in steps:
            self._count(step, norm)
        bad = {str(step): f"{norm:.3g}" for step, _, norm in steps if not self._good(norm)}
        line: dict[str, Any] = {"skipped": self.skipped}
        if bad:
            line |= {"bad": dict(list(bad.items())[:NUM_SHOWN_STEPS]), "limit": f"{self.limit:.3g}"}
        if good:
            line["loss"] = math.fsum(loss for loss, _ in good) / len(good)
            line["grad_norm"] = statistics.median(norm for _, norm in good)
        memory = self._remember(first + len(losses) - 1, [norm for _, norm in good])
        return line | ({"guard": memory} if memory else {})

    def _remember(self, done: int, norms: Sequence[float]) -> dict[str, Any]:
        """Take the norms of good steps up to `done`; what the log line cannot say without it."""
        memory: dict[str, Any] = {"in_a_row": self.in_a_row} if self.in_a_row else {}
        split, self._open = bool(self._open), [*self._open, *norms]
        if done % self.plan.log_every:
            return memory | {"open": list(self._open)}
        if self._open:
            self._norms.append(statistics.median(self._open))
            memory |= {"usual": self._norms[-1]} if split else {}
        self._open = []
        self.limit = self._limit(done)
        return memory

    def _good(self, norm: float) -> bool:
        return math.isfinite(norm) and norm <= self.limit

    def _count(self, step: int, norm: float) -> None:
        bad = not self._good(norm)
        self.skipped += bad
        self.in_a_row = self.in_a_row + 1 if bad else 0
        if self.in_a_row >= MAX_BAD_STEPS_IN_A_ROW:
            raise JobError(self._too_many(step, norm))

    def _too_many(self, step: int, norm: float) -> str:
        section, plan = self.plan.section, self.plan
        why = "is not finite" if not math.isfinite(norm) else f"is above {self.limit:.3g}, {plan.spike_factor:g} times"
        why += "" if not math.isfinite(norm) else " the usual one"
        remedy = f"lower {section}.lr (now {plan.lr:g})"
        remedy += ", or raise train.spike_factor" if math.isfinite(norm) else ""
        remedy += ", or use precision=fp32" if plan.precision != "fp32" else ""
        return (
            f"{section}: {self.in_a_row} steps in a row were skipped, the last is step {step}: its gradient norm "
            f"({norm:.3g}) {why}; the last checkpoint stays. Go on from it with care: {remedy}"
        )
