"""Moving averages of the weights, kept where the weights are: on each rank's own shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

AVERAGE_NAMES = ("ema", "ema2")  # of the averages in a checkpoint; the first one is exported
WEIGHTS_NAME = "weight"  # the shards themselves there


def ema_decay_at(step: int, decay: float) -> float:
    """Decay of update `step` (the first is 1): (1 + step) / (10 + step) until `decay` is reached.

    Without the warm-up the random first weights would stay in the average for 1 / (1 - decay) steps.
    """
    return min(decay, (1 + step) / (10 + step))


def power_ema_decay_at(step: int, gamma: float) -> float:
    """Decay of update `step` of a power-function average, (1 - 1 / step) ** (gamma + 1).

    It weighs the weights of step s by s ** gamma: the window grows with the training, and the
    first weights are forgotten at once (EDM2, arXiv 2312.02696, section 3.1).
    """
    return float((1 - 1 / step) ** (gamma + 1))


def power_ema_gamma(width: float) -> float:
    """The exponent whose weighting has this standard deviation, as a share of the training; `width` < 0.29.

    width² = (gamma + 1) / ((gamma + 2)² (gamma + 3)), a cubic in gamma (arXiv 2312.02696, appendix C).
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class WeightAverages:
    """Averages of the fp32 tensors they are made of; each costs their memory once more, and no communication."""

    def __init__(self, shards: Sequence[Tensor], decay: float, widths: Sequence[float] = ()) -> None:
        """Start at the present values: one average with `decay`, or a power-function average per width.

        Without decay and widths the average is the weights themselves: nothing is kept.
        """
        self.decays: list[Callable[[int], float]] = [
            partial(power_ema_decay_at, gamma=power_ema_gamma(width)) for width in widths
        ]
        self.decays = self.decays or ([partial(ema_decay_at, decay=decay)] if decay else [])
        names = AVERAGE_NAMES[: len(self.decays)]
        self.tensors = {name: [shard.detach().clone() for shard in shards] for name in names}

    @property
    def exported(self) -> str:
        """What a checkpoint calls the tensors that are exported: the first average, else the weights."""
        return next(iter(self.tensors), WEIGHTS_NAME)

    @torch.no_grad()
    def update(self, shards: Sequence[Tensor], step: int) -> None:
        """Each average becomes d * average + (1 - d) * weights, with d its decay at `step` (the first is 1)."""
        weights = [shard.detach() for shard in shards]
        for tensors, decay in zip(self.tensors.values(), self.decays, strict=True):
            torch._foreach_lerp_(tensors, weights, 1 - decay(step))
