"""Prodigy (arXiv 2306.06101): AdamW that estimates its learning rate while it trains.

The estimate `d` is a lower bound of the distance from the first weights to the solution. It grows with the correlation
of gradients and the way travelled, `<gradient, first weights - weights>`, in units of the weighted gradients' sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

FIRST_DISTANCE = 1e-6  # the paper's d_0: far below any distance, from where the estimate grows
FIRST_SCALARS = {"d": FIRST_DISTANCE, "numerator": 0.0}
EPSILON = 1e-8


class Prodigy(torch.optim.Optimizer):
    """Algorithm 4 of the paper with decoupled weight decay, as its authors' code has it.

    `lr` is a factor of the estimated rate, usually 1. There is one estimate for all weights.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float,
        *, sharded: bool = False,
    ) -> None:  # fmt: skip
        """Take the weights; `sharded` says that each rank updates a part of them, whose sums are added up."""
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.sharded = sharded
        self.scalars = dict(FIRST_SCALARS)

    def make_state(self, weight: Tensor) -> None:
        """Make the state of a weight before its first step."""
        names = ("exp_avg", "exp_avg_sq", "gradient_sum")
        zeros = {name: torch.zeros_like(weight) for name in names}
        self.state[weight] = {"step": 0, **zeros, "first_weights": weight.detach().clone()}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; a collective if the weights are sharded."""
        weights = [(group, weight) for group in self.param_groups for weight in group["params"]
                   if weight.grad is not None]  # fmt: skip
        for _, weight in weights:
            if not self.state[weight]:
                self.make_state(weight)
        sums = [self._gather(group, weight) for group, weight in weights]
        self._estimate(sums)
        for group, weight in weights:
            self._move(group, weight)

    def _gather(self, group: dict[str, Any], weight: Tensor) -> Tensor:
        """Update the moments; what the weight adds to numerator and denominator, `(2,)` float64."""
        state, (first, second), d = self.state[weight], group["betas"], self.scalars["d"]
        gradient, gain = weight.grad, d / FIRST_DISTANCE * d * group["lr"]
        assert gradient is not None, "only weights with a gradient are updated"
        state["step"] += 1
        state["exp_avg"].mul_(first).add_(gradient, alpha=d * (1 - first))
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=d * d * (1 - second))
        state["gradient_sum"].mul_(second**0.5).add_(gradient, alpha=gain)
        travelled = (gradient * (state["first_weights"] - weight)).sum(dtype=torch.float64)
        return torch.stack([gain * travelled, state["gradient_sum"].abs().sum(dtype=torch.float64)])

    def _estimate(self, sums: list[Tensor]) -> None:
        device = self.param_groups[0]["params"][0].device
        total = torch.stack(sums).sum(0) if sums else torch.zeros(2, dtype=torch.float64, device=device)
        # Every rank takes part, also one whose share of the weights is empty.
        if self.sharded:
            dist.all_reduce(total)
        added, denominator = total.tolist()
        decay = self.param_groups[0]["betas"][1] ** 0.5
        numerator = self.scalars["numerator"] * decay + added
        # Without a gradient or at rate 0 nothing is learned about the distance.
        bound = numerator / denominator if denominator > 0 else 0.0
        self.scalars = {"d": max(self.scalars["d"], bound), "numerator": numerator}

    def _move(self, group: dict[str, Any], weight: Tensor) -> None:
        state, d = self.state[weight], self.scalars["d"]
        rate = d * group["lr"]
        weight.mul_(1 - rate * group["weight_decay"])
        weight.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(d * EPSILON), value=-rate)
