"""The optimiser that `train.optimizer` names, its learning-rate schedule and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.model.torch_compat import set_step_guard, total_norm
from emoji_ldm.train.training_args import TrainingArgs


def lr_at(step: int, args: TrainingArgs) -> float:
    """Learning rate of step `step` (the first is 0): linear warm-up to `args.lr`, then the schedule.

    The values equal those of diffusers' get_constant and get_linear schedules and of transformers'
    get_cosine_with_min_lr schedule, all with warm-up, shifted by one step: theirs begin with a step at rate 0, and
    would reach their end one step after the last. Cosine annealing is that of SGDR (arXiv 1608.03983, equation 5).
    """
    number = step + 1
    if number < args.warmup_steps:
        return args.lr * number / args.warmup_steps
    # The last step of the warm-up runs at the full rate, and the last step of the training at the end rate. The maximum
    # covers a run that is warm-up only.
    done = min(1.0, (number - args.warmup_steps) / max(1, args.steps - args.warmup_steps))
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[args.lr_schedule]
    return args.lr * (args.lr_end + (1 - args.lr_end) * left)


def build_optimizer(
    names: Sequence[str], parameters: Sequence[Tensor], args: TrainingArgs, *, sharded: bool = False
) -> torch.optim.Optimizer:
    """`args.optimizer` on these named parameters; each of them honours `guard_step`.

    Args:
        names: Of the parameters; Muon leaves tables of embeddings to AdamW.
        parameters: What it updates.
        args: Gives name, decay rates and weight decay; the learning rate is set at each step, see `set_lr`.
        sharded: Whether each rank updates a part of the weights (ZeRO stages 1 to 3).
    """
    betas = args.adam_betas
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": args.weight_decay}
    # The imports are inside, so that a training loads no optimiser but its own.
    match args.optimizer:
        case "adamw8bit":
            from emoji_ldm.train.engines.bitsandbytes_compat import GuardedAdamW8bit

            optimizer: torch.optim.Optimizer = GuardedAdamW8bit(parameters, betas=betas, **options)
            return optimizer
        case "adafactor" | "lion" | "prodigy" | "muon":
            from emoji_ldm.train.optimizers import guarded

            return guarded.BUILDERS[args.optimizer](names, parameters, betas, options, sharded)
        case _:
            # Only the fused kernel can skip a step on the device, see `guard_step`.
            return torch.optim.AdamW(parameters, fused=True, betas=betas, **options)


def guard_step(
    optimizer: torch.optim.Optimizer, norm: Tensor, clip: float, max_accepted_norm: float, loss_scale: Tensor, *,
    offloaded: bool = False,
) -> None:  # fmt: skip
    """Let the next step clip gradients to norm `clip`, and skip it if `norm` is not finite or too large.

    `norm` is that of the gradients without their `loss_scale`, which the step takes off too.

    The decision is taken on the device, so the host does not wait for the gradients.
    """
    # This is the factor of `torch.nn.utils.clip_grad_norm_` as a divisor; 1 leaves the gradients alone.
    grad_scale = ((norm + 1e-6) / clip).clamp(min=1.0) * loss_scale
    # Finiteness is asked for separately: without a limit `max_accepted_norm` is infinite, and infinity is not above it.
    skip = (~(norm.isfinite() & (norm <= max_accepted_norm))).float()
    if offloaded:
        # These weights are updated by the CPU, for which the host waits anyway.
        grad_scale, skip = grad_scale.cpu(), skip.cpu()
    set_step_guard(optimizer, grad_scale, skip)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def trainable_parameters(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    """Names and parameters that are not frozen."""
    # The order of `named_parameters` is that of the module's construction, hence the same on every rank.
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name, _ in named], [parameter for _, parameter in named]


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, `()` fp32."""
    return total_norm(gradients)
