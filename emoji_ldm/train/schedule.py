"""The learning rate of each step."""

from __future__ import annotations

import math

FLOOR = 0.1  # of the peak, at the last step


def lr_at(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """Learning rate of step `step` (the first is 0): linear warm-up to `peak`, then half a cosine to a tenth of it.

    Cosine annealing as in SGDR (arXiv 1608.03983, equation 5) with one cycle and a floor.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    return peak * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
