"""Private parts of torch: multi-tensor (`_foreach_*`) operations, the step guard of its fused AdamW, raw profiles.

A `_foreach_*` operation treats a list of tensors in a few kernel launches, where a loop launches one kernel per
tensor. Torch's own optimisers are built on them, but they have no public names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.library_compat import require_version

# 2.11 is found on machines with a GPU on which nothing can be installed; see docs/gpu.md.
KNOWN_VERSIONS = ("2.11", "2.15")

require_version("torch", KNOWN_VERSIONS)


def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor], *, non_blocking: bool = False) -> None:
    """Copy each source into its target, shapes being equal; the targets may lie on another device."""
    # The public way is a loop: thousands of kernel launches for a U-Net.
    torch._foreach_copy_(list(targets), list(sources), non_blocking=non_blocking)


def lerp_tensors(starts: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Move each start by `weight` (0 to 1) of the way to its end, in place."""
    torch._foreach_lerp_(list(starts), list(ends), weight)


def divide_tensors(tensors: Sequence[Tensor], divisor: Tensor) -> None:
    """Divide each tensor by the scalar `divisor`, in place and without waiting for the device."""
    torch._foreach_div_(list(tensors), divisor)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all tensors together, `()` fp32.

    `torch.nn.utils.get_total_norm` is the public counterpart, but sums up bf16 tensors in bf16.
    """
    # The norm of the norms is the norm of all elements; accumulating in fp32 keeps bf16 gradients from losing digits.
    whole: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors), 2, torch.float32)))
    return whole


def profiled_intervals(profiled: Any) -> list[tuple[str, float, float]]:
    """`(name, first, last)` of all events of a finished `torch.profiler.profile`, in microseconds.

    `profile.events()` is the public counterpart, and takes seconds to build its tree of a single step.
    """
    events = profiled.profiler.kineto_results.events()
    return [(event.name(), event.start_ns() / 1e3, event.end_ns() / 1e3) for event in events]


def set_step_guard(optimizer: torch.optim.Optimizer, grad_scale: Tensor, skip: Tensor) -> None:
    """Let the next step of a fused AdamW divide gradients by `grad_scale`, and do nothing if `skip` is 1.

    The fused kernel has both for `torch.amp.GradScaler`: it divides in its one pass over the gradients, and with
    `found_inf` it leaves weights, moments and step count as they are. Neither needs an answer from the device.

    Args:
        optimizer: A fused `torch.optim.AdamW`, or one that honours the same two attributes.
        grad_scale: `()` fp32.
        skip: `()` fp32, 0 or 1.
    """
    # `step()` has no such arguments: torch's fused optimisers look for attributes of these names at each step, which is
    # how `GradScaler` reaches them.
    attributes: Any = optimizer
    attributes.grad_scale, attributes.found_inf = grad_scale, skip
