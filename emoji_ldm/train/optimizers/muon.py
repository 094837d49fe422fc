"""Muon (Keller Jordan, 2024): a momentum whose update is made orthogonal, for the weights that are matrices.

Torch's own `torch.optim.Muon` takes matrices alone; this one also sees a convolution as a matrix (output, everything
else), makes matrices of one shape orthogonal together, and updates the weights that are no matrices as AdamW does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Keller Jordan's Muon
NUM_ITERATIONS = 5
SCALE = 0.2  # makes the updates as long as AdamW's (arXiv 2502.16982, section 2.2), so that they share a learning rate
MOMENTUM = 0.95
EPSILON = 1e-8  # of AdamW
MIN_SIDE = 16  # a matrix with fewer rows or columns has next to nothing to make orthogonal
# Rows of a table are read one at a time, and positions are added: neither is a linear map.
TABLES = ("embedding.weight", "embeddings.weight", "shared.weight", "pos_embed")


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon updates this weight: a matrix or convolution that is a linear map and not too thin."""
    return weight.ndim >= 2 and min(weight.flatten(1).shape) > MIN_SIDE and not name.endswith(TABLES)


def parameter_groups(named: Iterable[tuple[str, Tensor]], betas: tuple[float, float]) -> list[dict[str, Any]]:
    """The groups of `Muon` for named weights: matrices, and the others with AdamW's decay rates."""
    weights = list(named)
    matrices = [weight for name, weight in weights if is_matrix(name, weight)]
    others = [weight for name, weight in weights if not is_matrix(name, weight)]
    groups = ({"params": matrices}, {"params": others, "betas": betas})
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """Groups with `betas` are updated as by AdamW, all others by Muon. Every shard has to be a whole weight."""

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": None})

    def make_state(self, weight: Tensor) -> None:
        """Make the state of a weight before its first step."""
        of_adam = any(group["betas"] and any(weight is each for each in group["params"]) for group in self.param_groups)
        names = ("exp_avg", "exp_avg_sq") if of_adam else ("momentum",)
        self.state[weight] = {"step": 0, **{name: torch.zeros_like(weight) for name in names}}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                if not self.state[weight]:
                    self.make_state(weight)
                # Optimisers of older runs did not count.
                self.state[weight]["step"] = self.state[weight].get("step", 0) + 1
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            if group["betas"]:
                for weight in weights:
                    self._adam_update(group, weight)
            else:
                self._orthogonal_update(group, weights)

    def _orthogonal_update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight in weights:
            gradient = weight.grad
            assert gradient is not None, "weights without a gradient were left out"
            moving = self.state[weight]["momentum"].lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(moving, group["momentum"]).flatten(1)
            shapes.setdefault((update.shape[0], update.shape[1]), []).append((weight, update))
        for shape, pairs in shapes.items():
            scale = SCALE * math.sqrt(max(shape)) * group["lr"]
            updates = orthogonalize(torch.stack([update for _, update in pairs]))
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.add_(update.view_as(weight).to(weight.dtype), alpha=-scale)

    def _adam_update(self, group: dict[str, Any], weight: Tensor) -> None:
        state, (first, second), gradient = self.state[weight], group["betas"], weight.grad
        assert gradient is not None, "weights without a gradient were left out"
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        # Both moments begin at zero, and are divided by the share of the weights that they have seen of a mean.
        spread = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_().add_(EPSILON)
        weight.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - first ** state["step"]))


def orthogonalize(updates: Tensor) -> Tensor:
    """`(k, m, n)` matrices with all singular values near 1: five Newton-Schulz iterations in bfloat16."""
    matrices: Tensor = updates.bfloat16()
    wide = matrices.shape[1] <= matrices.shape[2]
    matrices = matrices if wide else matrices.mT
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, second, third = NEWTON_SCHULZ
    for _ in range(NUM_ITERATIONS):
        gram = matrices @ matrices.mT
        matrices = first * matrices + (second * gram + third * gram @ gram) @ matrices
    whole: Tensor = matrices if wide else matrices.mT
    return whole
