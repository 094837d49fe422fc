"""AdamW, or Muon for matrices and convolutions with AdamW for the rest, with an average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emoji_ldm.train.optimizers.muon import Muon


def build_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float, parts: int = 1
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model: `adamw`, or `muon` (then tables, gains and biases are AdamW's).

    Muon's work is split into `parts` optimisers of about equal cost, so that threads can share it.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2 and min(weight.flatten(1).shape) > 16]
    chosen = {id(weight) for weight in matrices} if name == "muon" else set()
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if chosen:
        optimizers += [Muon(part, lr, weight_decay=weight_decay) for part in _balanced(matrices, parts)]
    for decays in (True, False):
        group = [weight for weight in rest if (weight.ndim >= 2) == decays]
        if group:
            decay = weight_decay if decays else 0.0
            optimizers.append(torch.optim.AdamW(group, lr, betas=(0.9, 0.99), weight_decay=decay, fused=True))
    return optimizers


def lr_factor(step: int, warmup: int, total: int, final_share: float = 1.0) -> float:
    """Linear warm-up, then constant, then a straight line to zero over the last `final_share` of the steps."""
    start = min(1.0, (step + 1) / max(warmup, 1))
    decay_steps = max(int(total * final_share), 1)
    return start * min(1.0, max(0.0, (total - step) / decay_steps))


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the same learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


@torch.no_grad()
def update_average(average: list[Tensor], weights: list[Tensor], step: int, halflife_share: float = 0.05) -> None:
    """A running mean whose memory grows with the step (arXiv 2312.02696, section 3: power-function profile)."""
    power = math.log(2) / halflife_share / 2
    torch._foreach_lerp_(average, weights, 1 - (1 - 1 / (step + 1)) ** (power + 1))


def _balanced(matrices: list[Tensor], parts: int) -> list[list[Tensor]]:
    """The matrices in `parts` lists of about equal cost of making them orthogonal, those of one shape together."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for matrix in matrices:
        shapes.setdefault(tuple(matrix.flatten(1).shape), []).append(matrix)
    lists: list[list[Tensor]] = [[] for _ in range(parts)]
    costs = [0] * parts
    for shape, group in sorted(shapes.items(), key=lambda item: -len(item[1]) * math.prod(item[0]) * min(item[0])):
        lightest = costs.index(min(costs))
        lists[lightest] += group
        costs[lightest] += len(group) * math.prod(shape) * min(shape)
    return lists
