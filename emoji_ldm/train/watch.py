"""What a training measures of itself, and the guard against steps that would spoil it."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.errors import JobError
from emoji_ldm.train.journal import Journal, Line
from emoji_ldm.train.plan import Place, Plan
from emoji_ldm.train.schedule import lr_at
from emoji_ldm.train.world import World


class Watch:
    """Collects numbers at each step without waiting for the device; every rank has one, rank 0 writes."""

    limit: float = math.inf  # gradient norm above which the engine skips a step

    def __init__(self, plan: Plan, place: Place, world: World, lines: Iterable[Line]) -> None:
        """Go on after `lines`, those of the checkpoint."""
        self.plan, self.place, self.world = plan, place, world
        self.journal = Journal(place, plan, lines) if world.leads else None
        self.losses: list[Tensor] = []
        self.norm: Tensor = torch.zeros(())
        self.waited_s = 0.0
        self.began = self.ticked = time.monotonic()

    def record(self, loss: Tensor, norm: Tensor, waited_s: float) -> None:
        """Take the numbers of one step."""
        self.losses.append(loss)
        self.norm = norm
        self.waited_s += waited_s

    def log(self, done: int, measured: Mapping[str, float]) -> None:
        """Average the losses since the last log over steps and ranks; every rank sees the same numbers."""
        losses = self.world.mean(torch.stack(self.losses)).tolist()
        norm = float(self.norm)
        for step, loss in enumerate([*losses, norm], start=done - len(losses) + 1):
            if not math.isfinite(loss):
                raise JobError(self._not_finite(min(step, done), loss))
        now = time.monotonic()
        seconds = max(now - self.ticked, 1e-9)
        if self.journal:
            self.journal.log({
                "step": done, "loss": sum(losses) / len(losses), "lr": lr_at(done - 1, self.plan), "grad_norm": norm,
                "images_per_s": len(losses) * self.plan.batch_size / seconds,
                "time_s": self.journal.spent_s + now - self.began, **measured,
            })  # fmt: skip
        self.ticked, self.losses, self.waited_s = now, [], 0.0

    def resume_clock(self) -> None:
        """Start the next rate here: it is that of steps, not of uploads."""
        self.ticked = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """Figures of the whole training, more of them on rank 0; closes the log."""
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.world.device.type == "cuda":
            peak_mb = torch.cuda.max_memory_allocated(self.world.device) / 2**20
        done: dict[str, Any] = {"peak_memory_mb": round(peak_mb)}
        if self.journal:
            lines = self.journal.lines
            rates = sorted(line["images_per_s"] for line in lines)
            done |= {"loss_first": lines[0]["loss"], "loss_last": lines[-1]["loss"],
                     "images_per_s": rates[len(rates) // 2], "time_s": lines[-1]["time_s"]}  # fmt: skip
            self.journal.close()
        return done

    def _not_finite(self, step: int, value: float) -> str:
        section = self.plan.section
        return (
            f"{section}: the loss or its gradient is {value} at step {step}; the last checkpoint stays. "
            f"Lower {section}.lr (now {self.plan.lr:g}), or use precision=fp32"
        )
