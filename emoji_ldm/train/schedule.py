"""The learning rate of each step."""

from __future__ import annotations

import math

from emoji_ldm.train.plan import Plan


def lr_at(step: int, plan: Plan) -> float:
    """Learning rate of step `step` (the first is 0): linear warm-up to `plan.lr`, then the course of the schedule.

    The same as diffusers' get_constant, get_linear and transformers' get_cosine_with_min_lr schedule with warm-up, one
    step on: theirs begin with a step at rate 0, and the step at which they would end comes after the last. Cosine
    annealing is that of SGDR (arXiv 1608.03983, equation 5) with one cycle.
    """
    number = step + 1
    if number < plan.warmup_steps:
        return plan.lr * number / plan.warmup_steps
    done = min(1.0, (number - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps))
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[plan.lr_schedule]
    return plan.lr * (plan.lr_end + (1 - plan.lr_end) * left)
