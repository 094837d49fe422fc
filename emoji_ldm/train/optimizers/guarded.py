"""The optimisers without a fused kernel, each of which obeys the engine's step guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.train.optimizers.lion import Lion
from emoji_ldm.train.optimizers.muon import Muon, parameter_groups
from emoji_ldm.train.optimizers.prodigy import Prodigy
from emoji_ldm.train.optimizers.step_guard import StepGuard


class GuardedLion(StepGuard, Lion):
    """Lion that can skip a step."""


class GuardedProdigy(StepGuard, Prodigy):
    """Prodigy that can skip a step."""


class GuardedMuon(StepGuard, Muon):
    """Muon that can skip a step."""


class GuardedAdafactor(StepGuard, torch.optim.Adafactor):
    """Torch's Adafactor (arXiv 1804.04235): the second moment as one number per row and per column, and no first one.

    Its learning rate bounds a rate that is relative to each weight's size and falls with the square root of the step.
    """

    def make_state(self, weight: Tensor) -> None:
        """Make the state of a weight before its first step, as Adafactor itself does."""
        state: dict[str, Tensor] = {"step": torch.tensor(0.0)}
        if weight.dim() > 1:
            state["row_var"] = weight.new_zeros((*weight.shape[:-1], 1))
            state["col_var"] = weight.new_zeros((*weight.shape[:-2], 1, weight.shape[-1]))
        else:
            state["variance"] = torch.zeros_like(weight)
        self.state[weight] = state


Betas = tuple[float, float]
Build = Callable[[Sequence[str], Sequence[Tensor], Betas, dict[str, Any], bool], torch.optim.Optimizer]

# (names, parameters, decay rates, learning rate and weight decay, whether each rank has a part of the weights)
BUILDERS: dict[str, Build] = {
    "adafactor": lambda names, parameters, betas, options, sharded: GuardedAdafactor(parameters, **options),
    "lion": lambda names, parameters, betas, options, sharded: GuardedLion(parameters, betas=betas, **options),
    "prodigy": lambda names, parameters, betas, options, sharded: GuardedProdigy(
        parameters, betas=betas, sharded=sharded, **options
    ),
    "muon": lambda names, parameters, betas, options, sharded: GuardedMuon(
        parameter_groups(zip(names, parameters, strict=True), betas), **options
    ),
}
