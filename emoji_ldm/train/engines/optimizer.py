"""The learning rate of each step.

AdamW, and the little that both engines do to it: learning rate, clipping, the guard, its moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.train.training_args import TrainingArgs


def lr_at(step: int, plan: TrainingArgs) -> float:
    """Learning rate of step `step` (the first is 0): linear warm-up to `plan.lr`, then the course of the schedule.

    The same as diffusers' get_constant, get_linear and transformers' get_cosine_with_min_lr schedule with warm-up, one
    step on: theirs begin with a step at rate 0, and the step at which they would end comes after the last. Cosine
    annealing is that of SGDR (arXiv 1608.03983, equation 5) with one cycle.
    """
    number = step + 1
    if number < plan.warmup_steps:
        return plan.lr * number / plan.warmup_steps
    done = min(1.0, (number - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps))
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[plan.lr_schedule]
    return plan.lr * (plan.lr_end + (1 - plan.lr_end) * left)


MOMENT_NAMES = ("exp_avg", "exp_avg_sq")
ADAM_BETAS = (0.9, 0.99)
QUANTIZATION_BLOCK = 256  # elements that share a scale in bitsandbytes' 8-bit moments


def build_optimizer(parameters: Iterable[Tensor], plan: TrainingArgs) -> torch.optim.Optimizer:
    """`plan.optimizer` on these parameters: torch's fused AdamW, or bitsandbytes' with 8-bit moments.

    Both honour the attributes that `guard` sets.
    """
    # The learning rate is set at each step.
    options: dict[str, Any] = {"lr": 0.0, "betas": ADAM_BETAS, "weight_decay": plan.weight_decay}
    if plan.optimizer == "adamw8bit":
        return _guarded_adamw8bit()(parameters, **options)
    return torch.optim.AdamW(parameters, fused=True, **options)


def guard_step(optimizer: torch.optim.Optimizer, norm: Tensor, clip: float, limit: float) -> None:
    """Make the next step clip gradients to `clip`, and leave everything as it is if `norm` is bad; no host sync.

    Torch's fused AdamW has both for gradient scalers: it divides by `grad_scale` in its one
    pass over the gradients, and with `found_inf` moves neither weights, moments nor step count.
    """
    values: Any = optimizer
    values.grad_scale = ((norm + 1e-6) / clip).clamp(min=1.0)
    values.found_inf = (~(norm.isfinite() & (norm <= limit))).float()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class AdamMoments:
    """Adam's moments of some tensors, fp32, to be read or written; 8-bit ones are read as copies.

    What is read and written again is the same to the bit, but for 8-bit ones: the scale of a block is rounded anew.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, keys: Sequence[Tensor]) -> None:
        """`keys`: the tensors that `optimizer` moves; moments it has not made yet are made now, as zeros."""
        self.optimizer: Any = optimizer
        self.states = [self._state(key) for key in keys]
        self.tensors = {kind: [self._read(state, number) for state in self.states]
                        for number, kind in enumerate(MOMENT_NAMES, 1)}  # fmt: skip

    @property
    def step(self) -> int:
        """Steps behind, without those that were skipped."""
        return max((int(state["step"]) for state in self.states), default=0)

    def commit(self, step: int) -> None:
        """Take what was written into `tensors`, and `step` as the number of steps behind."""
        for place, state in enumerate(self.states):
            if isinstance(state["step"], Tensor):
                state["step"].fill_(step)
            else:
                state["step"] = step
            for number, kind in enumerate(MOMENT_NAMES, 1):
                if "qmap1" in state:
                    _quantize(self.tensors[kind][place], state, number)

    def _state(self, key: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.optimizer.state[key]
        if not state and hasattr(self.optimizer, "init_state"):  # bitsandbytes
            self.optimizer.init_state(self.optimizer.param_groups[0], key, 0, 0)
        elif not state:  # as AdamW makes them at its first step
            state["step"] = torch.zeros((), dtype=torch.float32, device=key.device)
            state |= {kind: torch.zeros_like(key) for kind in MOMENT_NAMES}
        return state

    @staticmethod
    def _read(state: Mapping[str, Any], number: int) -> Tensor:
        if "qmap1" in state:
            return _dequantized(state, number)
        found: Tensor = state[f"state{number}"] if "state1" in state else state[MOMENT_NAMES[number - 1]]
        return found


def _dequantized(state: Mapping[str, Any], number: int) -> Tensor:
    """Each byte names a value of the map, in units of its block's scale."""
    codes = state[f"state{number}"]
    scales = state[f"absmax{number}"].repeat_interleave(QUANTIZATION_BLOCK)[: codes.numel()]
    whole: Tensor = state[f"qmap{number}"][codes.flatten().long()].mul_(scales).view(codes.shape)
    return whole


def _quantize(values: Tensor, state: Mapping[str, Any], number: int) -> None:
    """The inverse, but for rounding of the scale.

    Bitsandbytes' own takes the largest size in a block as its scale, though the map ends at 0.993 below zero: each
    turn would shrink a block with a large negative value.
    """
    codes, scales, steps = (state[f"{part}{number}"] for part in ("state", "absmax", "qmap"))
    flat = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % QUANTIZATION_BLOCK)).view(
        -1, QUANTIZATION_BLOCK
    )
    scales.copy_(torch.maximum(flat.amax(1) / steps.max(), flat.amin(1) / steps.min().clamp(max=-1e-9)).clamp(min=0))
    relative = flat / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    nearest = torch.bucketize(relative, (steps[1:] + steps[:-1]) / 2)
    codes.copy_(nearest.flatten()[: values.numel()].view(codes.shape))


def _guarded_adamw8bit() -> Callable[..., torch.optim.Optimizer]:
    from bitsandbytes.optim import AdamW8bit

    class Guarded(AdamW8bit):  # type: ignore[misc]
        """Obeys `guard`. The question to the device costs nothing here: bitsandbytes waits at each step anyway."""

        grad_scale: Tensor | None = None
        found_inf: Tensor | None = None

        def step(self, closure: Any = None) -> Any:
            """A step, or none."""
            if self.found_inf is not None and bool(self.found_inf):
                return None
            if self.grad_scale is not None:
                gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
                torch._foreach_div_(gradients, self.grad_scale)
            return super().step(closure)

    return Guarded


def trainable_parameters(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    """Names and parameters that are not frozen."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name, _ in named], [parameter for _, parameter in named]


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all of them together, `()` fp32."""
    whole: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients), 2, torch.float32)))
    return whole
