"""AdamW, its learning-rate schedule, gradient clipping, and its moments as checkpoints store them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.model.torch_compat import set_step_guard, total_norm
from emoji_ldm.train.training_args import TrainingArgs

MOMENT_NAMES = ("exp_avg", "exp_avg_sq")  # torch's names, also those in checkpoints


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


def build_optimizer(parameters: Iterable[Tensor], args: TrainingArgs) -> torch.optim.Optimizer:
    """`args.optimizer` on these parameters: torch's fused AdamW, or the one of bitsandbytes with 8-bit moments.

    Both honour `guard_step`.
    """
    # The learning rate is set at each step, see `set_lr`.
    options: dict[str, Any] = {"lr": 0.0, "betas": args.adam_betas, "weight_decay": args.weight_decay}
    if args.optimizer == "adamw8bit":
        from emoji_ldm.train.engines.bitsandbytes_compat import GuardedAdamW8bit

        optimizer: torch.optim.Optimizer = GuardedAdamW8bit(parameters, **options)
        return optimizer
    # Only the fused kernel can skip a step on the device, see `guard_step`.
    return torch.optim.AdamW(parameters, fused=True, **options)


def guard_step(optimizer: torch.optim.Optimizer, norm: Tensor, clip: float, max_accepted_norm: float) -> None:
    """Let the next step clip gradients to norm `clip`, and skip it if `norm` is not finite or too large.

    The decision is taken on the device, so the host does not wait for the gradients.
    """
    # This is the factor of `torch.nn.utils.clip_grad_norm_` as a divisor; 1 leaves the gradients alone.
    grad_scale = ((norm + 1e-6) / clip).clamp(min=1.0)
    # Finiteness is asked for separately: without a limit `max_accepted_norm` is infinite, and infinity is not above it.
    set_step_guard(optimizer, grad_scale, skip=(~(norm.isfinite() & (norm <= max_accepted_norm))).float())


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


class AdamMoments:
    """Adam's moments of some tensors as fp32, to be read or written.

    fp32 moments are the optimiser's own tensors, so a copy of them is exact. 8-bit moments are read as fp32 copies;
    writing them back rounds the scale of each block anew.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, keys: Sequence[Tensor]) -> None:
        """Take the tensors `keys` that `optimizer` updates; moments that do not exist yet are made now, as zeros."""
        self.optimizer: Any = optimizer
        self.states = [self._state(key) for key in keys]
        self.tensors = {kind: [_read_moment(state, number) for state in self.states]
                        for number, kind in enumerate(MOMENT_NAMES, 1)}  # fmt: skip

    @property
    def step(self) -> int:
        """Number of updates so far: steps without those that were skipped."""
        # All shards were updated equally often; a rank may have none, at ZeRO stage 3 with very few weights.
        return max((int(state["step"]) for state in self.states), default=0)

    def write_back(self, step: int) -> None:
        """Make what was written into `tensors` effective, with `step` as the number of updates so far."""
        for index, state in enumerate(self.states):
            # torch counts updates in a tensor on the device, bitsandbytes in an int.
            if isinstance(state["step"], Tensor):
                state["step"].fill_(step)
            else:
                state["step"] = step
            for number, kind in enumerate(MOMENT_NAMES, 1):
                if _is_quantized(state):
                    from emoji_ldm.train.engines.bitsandbytes_compat import quantize

                    quantize(self.tensors[kind][index], state, number)

    def _state(self, key: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.optimizer.state[key]
        # A checkpoint is read before the first step, at which optimisers make their moments. So they are made here if
        # there are none.
        if not state and hasattr(self.optimizer, "init_state"):  # bitsandbytes
            from emoji_ldm.train.engines.bitsandbytes_compat import init_state

            init_state(self.optimizer, key)
        elif not state:
            # These are the tensors that AdamW makes at its first step.
            state["step"] = torch.zeros((), dtype=torch.float32, device=key.device)
            state |= {kind: torch.zeros_like(key) for kind in MOMENT_NAMES}
        return state


def _is_quantized(state: Mapping[str, Any]) -> bool:
    # Asked without the library, which is installed only where it is used.
    return "qmap1" in state


def _read_moment(state: Mapping[str, Any], number: int) -> Tensor:
    if _is_quantized(state):
        from emoji_ldm.train.engines.bitsandbytes_compat import dequantize

        return dequantize(state, number)
    found: Tensor = state[f"state{number}"] if "state1" in state else state[MOMENT_NAMES[number - 1]]
    return found
