"""Lion (arXiv 2302.06675): every weight moves by the learning rate, in the direction of a momentum's sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of the paper. It keeps one tensor per weight, half of AdamW's state.

    The paper takes a learning rate 3 to 10 times smaller than AdamW's, and as much more weight decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def make_state(self, weight: Tensor) -> None:
        """Make the state of a weight before its first step."""
        self.state[weight] = {"step": 0, "exp_avg": torch.zeros_like(weight)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            (fast, slow), lr = group["betas"], group["lr"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.make_state(weight)
                state = self.state[weight]
                state["step"] += 1
                direction = state["exp_avg"].lerp(weight.grad, 1 - fast).sign_()
                weight.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr)
                state["exp_avg"].lerp_(weight.grad, 1 - slow)
