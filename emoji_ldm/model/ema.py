"""Moving averages of the weights, kept where the weights are: on each rank's own shard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NAMES = ("ema", "ema2")  # of the averages in a checkpoint; the first one is exported


def decay_at(step: int, decay: float) -> float:
    """Decay of update `step` (the first is 1): (1 + step) / (10 + step) until `decay` is reached.

    Without the warm-up the random first weights would stay in the average for 1 / (1 - decay) steps.
    """
    return min(decay, (1 + step) / (10 + step))


class Averages:
    """Averages of the fp32 tensors they are made of; each costs their memory once more, and no communication."""

    def __init__(self, shards: Sequence[Tensor], decay: float) -> None:
        """Start at the present values."""
        self.decay = decay
        self.tensors = {NAMES[0]: [shard.detach().clone() for shard in shards]}

    @torch.no_grad()
    def update(self, shards: Sequence[Tensor], step: int) -> None:
        """The average becomes d * average + (1 - d) * weights, with d = decay_at(step)."""
        weights = [shard.detach() for shard in shards]
        torch._foreach_lerp_(self.tensors[NAMES[0]], weights, 1 - decay_at(step, self.decay))
