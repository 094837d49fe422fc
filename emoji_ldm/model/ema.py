"""Moving averages of the weights (EMA), kept on each rank's own shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from emoji_ldm.model.torch_compat import lerp_tensors

AVERAGE_NAMES = ("ema", "ema2")  # names in a checkpoint; the first average is exported
WEIGHTS_NAME = "weight"  # name of the weights themselves there


def ema_decay_at(step: int, decay: float) -> float:
    """Decay of update `step` (the first is 1): (1 + step) / (10 + step) until `decay` is reached.

    Without this warm-up the random initial weights would stay in the average for about 1 / (1 - decay) steps.
    """
    return min(decay, (1 + step) / (10 + step))


def power_ema_decay_at(step: int, gamma: float) -> float:
    """Decay of update `step` of a power-function average, (1 - 1 / step) ** (gamma + 1).

    The weights of step s enter the average in proportion to s ** gamma: its window grows with the training, and the
    initial weights are forgotten at once (EDM2, arXiv 2312.02696, section 3.1).
    """
    return float((1 - 1 / step) ** (gamma + 1))


def power_ema_gamma(width: float) -> float:
    """The exponent gamma whose profile has standard deviation `width`, as a share of the training; `width` < 0.29.

    width² = (gamma + 1) / ((gamma + 2)² (gamma + 3)), a cubic in gamma (arXiv 2312.02696, appendix C).
    """
    # With u = 1 / width² and both sides multiplied out, gamma solves gamma³ + 7 gamma² + (16 - u) gamma + 12 - u = 0.
    # For widths below 0.29 exactly one root is positive, the largest.
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class WeightAverages:
    """Averages of a rank's fp32 shards; each takes the memory of the shards once more, and no communication."""

    def __init__(self, shards: Sequence[Tensor], decay: float, widths: Sequence[float] = ()) -> None:
        """Start at the current values: one average with `decay`, or a power-function average per width.

        With decay 0 and no widths the average is the weights themselves, and nothing is kept.
        """
        self.decays: list[Callable[[int], float]] = [
            partial(power_ema_decay_at, gamma=power_ema_gamma(width)) for width in widths
        ]
        self.decays = self.decays or ([partial(ema_decay_at, decay=decay)] if decay else [])
        # The copies are fp32, like the shards: near the end an update moves the average by less than bf16 can resolve.
        names = AVERAGE_NAMES[: len(self.decays)]
        self.tensors = {name: [shard.detach().clone() for shard in shards] for name in names}

    @property
    def exported(self) -> str:
        """The checkpoint's name of the tensors that are exported: the first average, else the weights."""
        # A run without an average still has to export something: the weights as they are.
        return next(iter(self.tensors), WEIGHTS_NAME)

    @torch.no_grad()
    def update(self, shards: Sequence[Tensor], step: int) -> None:
        """Each average becomes d * average + (1 - d) * weights, with d its decay at `step` (the first is 1)."""
        # An average is computed element by element, so each rank averages its own shards and nothing is communicated.
        weights = [shard.detach() for shard in shards]
        for tensors, decay in zip(self.tensors.values(), self.decays, strict=True):
            lerp_tensors(tensors, weights, 1 - decay(step))
