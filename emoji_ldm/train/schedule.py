"""The learning rate of each step."""

from __future__ import annotations

import math

from emoji_ldm.train.plan import Plan

FLOOR = 0.1  # of the peak, at the last step


def lr_at(step: int, plan: Plan) -> float:
    """Learning rate of step `step` (the first is 0): linear warm-up to `plan.lr`, then half a cosine to a tenth of it.

    Cosine annealing as in SGDR (arXiv 1608.03983, equation 5) with one cycle and a floor.
    """
    if step < plan.warmup_steps:
        return plan.lr * (step + 1) / plan.warmup_steps
    done = min(1.0, (step - plan.warmup_steps) / max(1, plan.steps - 1 - plan.warmup_steps))
    return plan.lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
