"""What a training measures of itself, without waiting for the device between two log lines."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.train.figures import figures
from emoji_ldm.train.guard import Guard
from emoji_ldm.train.journal import Journal, Line
from emoji_ldm.train.plan import Place, Plan
from emoji_ldm.train.schedule import lr_at
from emoji_ldm.train.world import World


class Watch:
    """Collects numbers at each step; every rank has one, rank 0 writes."""

    def __init__(self, plan: Plan, place: Place, world: World, lines: Sequence[Line]) -> None:
        """Go on after `lines`, those of the checkpoint."""
        self.plan, self.place, self.world = plan, place, world
        self.guard = Guard(plan, lines)
        self.limit = self.guard.limit  # gradient norm above which the engine skips a step; it changes at log lines only
        self.journal = Journal(place, plan, lines) if world.leads else None
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

    def sum_up(self, done: int) -> Line:
        """The line of the steps since the last one, the same on every rank but for clocks; a collective.

        Raises:
            JobError: Too many steps in a row had to be skipped; on every rank.
        """
        count = len(self.losses)
        losses, norms, waited_s, self.memory_mb = self._exchange()
        seconds = max(time.monotonic() - self.ticked, 1e-9)
        judged = self.guard.judge(done - count + 1, losses, norms)
        line: Line = {"step": done, **judged, "lr": lr_at(done - 1, self.plan)}
        self.limit = self.guard.limit
        return line | {
            "images_per_s": count * self.plan.batch_size / seconds, "step_s": seconds / count,
            "data_wait": min(1.0, waited_s / seconds), "memory_mb": self.memory_mb,
            "time_s": (self.journal.spent_s if self.journal else 0.0) + time.monotonic() - self.began,
        }  # fmt: skip

    def log(self, line: Line, measured: Mapping[str, float]) -> None:
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
            done |= {"skipped": self.guard.skipped, **figures(self.journal.lines)}
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
